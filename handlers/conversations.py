"""Conversations: starting, listing, showing and changing them."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from domain.errors import NotFound
from domain.identity import Identity
from domain.ids import ConversationId, parse_id
from domain.resources import Conversation
from handlers import keys
from handlers.endpoint import API, Call, Reply, Route
from handlers.paging import decode_cursor, encode_cursor, page
from handlers.schemas.common import NoBody, NoQuery, Page, PageQuery
from handlers.schemas.conversations import ConversationCreate, ConversationPatch
from services.conversations import ConversationChange, NewConversation

TAG = "Conversations"
CONVERSATION = f"{API}/conversations/{{conversation_id}}"


def conversation_of(call: Call[Any, Any]) -> ConversationId:
    """The conversation a path names."""
    return ConversationId(call.id("conversation_id"))


def conversation_in(request: web.Request) -> ConversationId:
    """The same, before there is a call. Raises NotFound."""
    known = parse_id(request.match_info["conversation_id"])
    if known is None:
        raise NotFound()
    return ConversationId(known)


async def visible_conversation(request: web.Request, identity: Identity) -> None:
    """Raises NotFound where the caller is not in the conversation."""
    await request.app[keys.CONVERSATIONS].require_member(identity, conversation_in(request))


async def post_conversation(call: Call[ConversationCreate, NoQuery]) -> Reply:
    body = call.body
    wanted = NewConversation(body.kind, body.members, body.title, body.history)
    return Reply.of(await call.app[keys.CONVERSATIONS].start(call.identity, wanted, call.keep))


async def get_conversations(call: Call[NoBody, PageQuery]) -> Reply:
    after = decode_cursor(call.query.cursor, int, int)
    items, more = await call.app[keys.CONVERSATIONS].list(call.identity, after=after, limit=call.query.limit)
    return Reply(200, page(items, encode_cursor(*more) if more else None))


async def get_conversation(call: Call[NoBody, NoQuery]) -> Reply:
    return Reply(200, await call.app[keys.CONVERSATIONS].get(call.identity, conversation_of(call)))


async def patch_conversation(call: Call[ConversationPatch, NoQuery]) -> Reply:
    body = call.body
    change = ConversationChange(
        title=body.title,
        history=body.history,
        pinned=body.pinned,
        mute="muted_until" in body.model_fields_set,
        muted_until=body.muted_until,
    )
    return Reply(200, await call.app[keys.CONVERSATIONS].update(call.identity, conversation_of(call), change))


ROUTES = (
    Route(
        "POST",
        f"{API}/conversations",
        post_conversation,
        "Start a conversation",
        TAG,
        body=ConversationCreate,
        answers={200: Conversation, 201: Conversation},
        description="The same pair always gets the same direct conversation: 200 where it is there already.",
        limit="write",
        idempotent=True,
    ),
    Route(
        "GET",
        f"{API}/conversations",
        get_conversations,
        "List one's own conversations, newest activity first",
        TAG,
        query=PageQuery,
        answers={200: Page[Conversation]},
    ),
    Route(
        "GET",
        CONVERSATION,
        get_conversation,
        "Show a conversation",
        TAG,
        answers={200: Conversation},
        errors=(404,),
    ),
    Route(
        "PATCH",
        CONVERSATION,
        patch_conversation,
        "Change a group, or one's own settings for a conversation",
        TAG,
        body=ConversationPatch,
        answers={200: Conversation},
        errors=(403, 404),
        description="`title` and `history` are for owners and admins of a group.",
        limit="write",
        visible=visible_conversation,
    ),
)
