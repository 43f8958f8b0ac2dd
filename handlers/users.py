"""Profiles: one's own and others'."""

from __future__ import annotations

from uuid import UUID

from domain.ids import UserId
from domain.resources import OwnUser, User
from handlers import keys
from handlers.endpoint import API, Call, Reply, Route
from handlers.paging import decode_cursor, encode_cursor, page
from handlers.schemas.accounts import AccountDeletion, ProfileUpdate
from handlers.schemas.common import NoBody, NoQuery, Page, PageQuery
from services.profiles import ProfileChange

TAG = "Users"


async def get_users(call: Call[NoBody, PageQuery]) -> Reply:
    after = decode_cursor(call.query.cursor, UUID)
    users, more = await call.app[keys.PROFILES].list(
        call.identity, before=UserId(after[0]) if after else None, limit=call.query.limit
    )
    return Reply(200, page(users, encode_cursor(more) if more else None))


async def get_me(call: Call[NoBody, NoQuery]) -> Reply:
    return Reply(200, await call.app[keys.PROFILES].me(call.identity))


async def get_user(call: Call[NoBody, NoQuery]) -> Reply:
    return Reply(200, await call.app[keys.PROFILES].get(call.identity, call.path["user"]))


async def patch_me(call: Call[ProfileUpdate, NoQuery]) -> Reply:
    body = call.body
    change = ProfileChange(
        display_name=body.display_name,
        bio=body.bio,
        avatar_media_id=body.avatar_media_id,
        interests=body.interests,
        settings=body.settings.model_dump(exclude_unset=True) if body.settings else {},
    )
    return Reply(200, await call.app[keys.PROFILES].update(call.identity, change))


async def delete_me(call: Call[AccountDeletion, NoQuery]) -> Reply:
    await call.app[keys.ACCOUNTS].delete(call.identity, call.body.password.get_secret_value())
    return Reply(204)


ROUTES = (
    Route(
        "GET",
        f"{API}/users",
        get_users,
        "List users, newest first",
        TAG,
        query=PageQuery,
        answers={200: Page[User]},
    ),
    Route("GET", f"{API}/users/me", get_me, "Show one's own profile", TAG, answers={200: OwnUser}),
    Route(
        "PATCH",
        f"{API}/users/me",
        patch_me,
        "Change one's own profile",
        TAG,
        body=ProfileUpdate,
        answers={200: OwnUser},
        limit="write",
    ),
    Route(
        "DELETE",
        f"{API}/users/me",
        delete_me,
        "Delete one's own account",
        TAG,
        body=AccountDeletion,
        answers={204: None},
        errors=(403,),
        description="What is personal is emptied, groups are left, messages stay. The username is free at once.",
        limit="auth",
    ),
    Route(
        "GET",
        f"{API}/users/{{user}}",
        get_user,
        "Show a profile",
        TAG,
        answers={200: User},
        errors=(404,),
    ),
)
"""``/users/me`` stands before ``/users/{user}``, and no username is as short as it."""
