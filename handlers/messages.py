"""Messages: sending, listing, showing, editing and deleting them."""

from __future__ import annotations

from aiohttp import web

from domain.identity import Identity
from domain.ids import ClientId
from domain.resources import OwnMessage
from handlers import keys
from handlers.conversations import CONVERSATION, conversation_in, conversation_of, visible_conversation
from handlers.endpoint import Call, Reply, Route, parse_number
from handlers.schemas.common import NoBody, NoQuery
from handlers.schemas.messages import MessageCreate, MessageHistory, MessageList, MessagePatch, MessageQuery
from services.messages import NewText

TAG = "Messages"
MESSAGES = f"{CONVERSATION}/messages"
MESSAGE = f"{MESSAGES}/{{seq}}"


async def visible_message(request: web.Request, identity: Identity) -> None:
    """Raises NotFound where the caller may not see the message."""
    seq = parse_number(request.match_info["seq"])
    await request.app[keys.MESSAGES].require(identity, conversation_in(request), seq)


async def get_messages(call: Call[NoBody, MessageQuery]) -> Reply:
    query = call.query
    items = await call.app[keys.MESSAGES].list(
        call.identity,
        conversation_of(call),
        before=query.before_seq,
        after=query.after_seq,
        limit=query.limit,
    )
    return Reply(200, MessageList(items=items))


async def post_message(call: Call[MessageCreate, NoQuery]) -> Reply:
    body = call.body
    text = NewText(
        body.body,
        ClientId(body.client_id) if body.client_id else None,
        body.reply_to_seq,
        [attachment.media_id for attachment in body.attachments],
    )
    sent = await call.app[keys.MESSAGES].send(call.identity, conversation_of(call), text, call.keep)
    call.app[keys.TYPING].sent(conversation_of(call), call.identity.user)
    return Reply.of(sent)


async def get_message(call: Call[NoBody, NoQuery]) -> Reply:
    return Reply(
        200, await call.app[keys.MESSAGES].get(call.identity, conversation_of(call), call.number("seq"))
    )


async def patch_message(call: Call[MessagePatch, NoQuery]) -> Reply:
    message = await call.app[keys.MESSAGES].edit(
        call.identity, conversation_of(call), call.number("seq"), call.body.body
    )
    return Reply(200, message)


async def delete_message(call: Call[NoBody, NoQuery]) -> Reply:
    await call.app[keys.MESSAGES].delete(call.identity, conversation_of(call), call.number("seq"))
    return Reply(204)


async def get_history(call: Call[NoBody, NoQuery]) -> Reply:
    items = await call.app[keys.MESSAGES].history(call.identity, conversation_of(call), call.number("seq"))
    return Reply(200, MessageHistory(items=list(items)))


ROUTES = (
    Route(
        "GET",
        MESSAGES,
        get_messages,
        "List messages",
        TAG,
        query=MessageQuery,
        answers={200: MessageList},
        errors=(404,),
        description="The newest first, or with `after_seq` the oldest first. Both bounds at once are a 422.",
        visible=visible_conversation,
    ),
    Route(
        "POST",
        MESSAGES,
        post_message,
        "Send a message",
        TAG,
        body=MessageCreate,
        answers={200: OwnMessage, 201: OwnMessage},
        errors=(403, 404, 409),
        description=(
            "A `client_id` sent before answers 200 with the first message as it is now, also after leaving; with "
            "another body or place 409 `client_id_reused`. In a direct conversation closed by a block: 403 `blocked`."
        ),
        limit="send",
        idempotent=True,
        visible=visible_conversation,
    ),
    Route(
        "GET",
        MESSAGE,
        get_message,
        "Show a message",
        TAG,
        answers={200: OwnMessage},
        errors=(404,),
    ),
    Route(
        "PATCH",
        MESSAGE,
        patch_message,
        "Edit one's own message",
        TAG,
        body=MessagePatch,
        answers={200: OwnMessage},
        errors=(403, 404, 409),
        description="The same text again changes nothing. A deleted message: 409 `message_deleted`.",
        limit="write",
        visible=visible_message,
    ),
    Route(
        "DELETE",
        MESSAGE,
        delete_message,
        "Delete a message",
        TAG,
        answers={204: None},
        errors=(403, 404),
        description="For its sender, and in a group for owners and admins. Leaves a tombstone.",
        limit="write",
    ),
    Route(
        "GET",
        f"{MESSAGE}/history",
        get_history,
        "List the former texts of a message",
        TAG,
        answers={200: MessageHistory},
        errors=(404,),
    ),
)
