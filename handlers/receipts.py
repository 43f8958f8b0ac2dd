"""Receipts: what has been delivered and read."""

from __future__ import annotations

from handlers import keys
from handlers.conversations import CONVERSATION, conversation_of, visible_conversation
from handlers.endpoint import Call, Reply, Route
from handlers.messages import TAG
from handlers.schemas.common import NoQuery
from handlers.schemas.conversations import ReceiptMark


async def post_read(call: Call[ReceiptMark, NoQuery]) -> Reply:
    await call.app[keys.RECEIPTS].read(call.identity, conversation_of(call), call.body.seq)
    return Reply(204)


async def post_delivered(call: Call[ReceiptMark, NoQuery]) -> Reply:
    await call.app[keys.RECEIPTS].delivered(call.identity, conversation_of(call), call.body.seq)
    return Reply(204)


ROUTES = (
    Route(
        "POST",
        f"{CONVERSATION}/read",
        post_read,
        "Mark messages as read",
        TAG,
        body=ReceiptMark,
        answers={204: None},
        errors=(404,),
        description="Never goes back. What is read is delivered too.",
        limit="write",
        visible=visible_conversation,
    ),
    Route(
        "POST",
        f"{CONVERSATION}/delivered",
        post_delivered,
        "Mark messages as delivered",
        TAG,
        body=ReceiptMark,
        answers={204: None},
        errors=(404,),
        description="Never goes back.",
        limit="write",
        visible=visible_conversation,
    ),
)
