"""What moderators do."""

from __future__ import annotations

from handlers import keys
from handlers.endpoint import API, Call, Reply, Route
from handlers.schemas.common import NoBody, NoQuery

TAG = "Administration"


async def post_suspend(call: Call[NoBody, NoQuery]) -> Reply:
    await call.app[keys.ADMIN].suspend(call.identity, call.path["user"])
    return Reply(204)


async def delete_suspend(call: Call[NoBody, NoQuery]) -> Reply:
    await call.app[keys.ADMIN].unsuspend(call.identity, call.path["user"])
    return Reply(204)


ROUTES = (
    Route(
        "POST",
        f"{API}/admin/users/{{user}}/suspend",
        post_suspend,
        "Suspend an account",
        TAG,
        answers={204: None},
        errors=(403, 404, 422),
        description="Needs the permission `moderate_users`. Every sign-in of the account ends within a second.",
        limit="write",
    ),
    Route(
        "DELETE",
        f"{API}/admin/users/{{user}}/suspend",
        delete_suspend,
        "End a suspension",
        TAG,
        answers={204: None},
        errors=(403, 404, 422),
        description="Needs the permission `moderate_users`.",
        limit="write",
    ),
)
