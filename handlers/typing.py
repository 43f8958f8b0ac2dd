"""Typing, for clients that have no WebSocket."""

from __future__ import annotations

from handlers import keys
from handlers.conversations import CONVERSATION, conversation_of, visible_conversation
from handlers.endpoint import Call, Reply, Route
from handlers.messages import TAG
from handlers.schemas.common import NoQuery
from handlers.schemas.conversations import TypingMark


async def post_typing(call: Call[TypingMark, NoQuery]) -> Reply:
    await call.app[keys.TYPING].start(call.identity, conversation_of(call))
    return Reply(204)


ROUTES = (
    Route(
        "POST",
        f"{CONVERSATION}/typing",
        post_typing,
        "Show that you are typing",
        TAG,
        body=TypingMark,
        answers={204: None},
        errors=(404,),
        description="Needs no body. Lasts six seconds, or until you send; repeat it while the typing goes on.",
        limit="write",
        visible=visible_conversation,
    ),
)
