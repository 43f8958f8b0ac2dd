"""Reactions to messages."""

from __future__ import annotations

from handlers import keys
from handlers.conversations import conversation_of
from handlers.endpoint import Call, Reply, Route
from handlers.messages import MESSAGE, TAG
from handlers.schemas.common import NoBody, NoQuery

REACTION = f"{MESSAGE}/reactions/{{emoji}}"


async def put_reaction(call: Call[NoBody, NoQuery]) -> Reply:
    await call.app[keys.REACTIONS].add(
        call.identity, conversation_of(call), call.number("seq"), call.path["emoji"]
    )
    return Reply(204)


async def delete_reaction(call: Call[NoBody, NoQuery]) -> Reply:
    await call.app[keys.REACTIONS].remove(
        call.identity, conversation_of(call), call.number("seq"), call.path["emoji"]
    )
    return Reply(204)


ROUTES = (
    Route(
        "PUT",
        REACTION,
        put_reaction,
        "React to a message",
        TAG,
        answers={204: None},
        errors=(403, 404, 409, 422),
        description="An emoji, or a short name, of 64 bytes at most. A deleted message: 409 `message_deleted`.",
        limit="write",
    ),
    Route(
        "DELETE",
        REACTION,
        delete_reaction,
        "Take a reaction back",
        TAG,
        answers={204: None},
        errors=(404, 422),
        limit="write",
    ),
)
