"""Members of conversations: listing them, taking them in and out, giving them roles."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web

from domain.errors import InvalidFields
from domain.identity import Identity
from domain.resources import Conversation, Member
from handlers import keys
from handlers.conversations import (
    CONVERSATION,
    TAG,
    conversation_in,
    conversation_of,
    visible_conversation,
)
from handlers.endpoint import Call, Reply, Route
from handlers.paging import decode_cursor, encode_cursor, page
from handlers.schemas.common import NoBody, NoQuery, Page, PageQuery
from handlers.schemas.conversations import MemberPatch, MembersAdd

MEMBERS = f"{CONVERSATION}/members"
MEMBER = f"{MEMBERS}/{{user}}"


async def visible_member(request: web.Request, identity: Identity) -> None:
    """Raises NotFound where the caller, or the user named, is not in the conversation."""
    name = request.match_info["user"]
    await request.app[keys.MEMBERS].require(identity, conversation_in(request), name)


async def get_members(call: Call[NoBody, PageQuery]) -> Reply:
    try:
        after = decode_cursor(call.query.cursor, int, int, UUID)
    except InvalidFields:
        await visible_conversation(call.request, call.identity)
        raise
    items, more = await call.app[keys.MEMBERS].list(
        call.identity, conversation_of(call), after=after, limit=call.query.limit
    )
    return Reply(200, page(items, encode_cursor(*more) if more else None))


async def post_members(call: Call[MembersAdd, NoQuery]) -> Reply:
    return Reply.of(
        await call.app[keys.MEMBERS].add(call.identity, conversation_of(call), call.body.members, call.keep)
    )


async def patch_member(call: Call[MemberPatch, NoQuery]) -> Reply:
    member = await call.app[keys.MEMBERS].update_role(
        call.identity, conversation_of(call), call.path["user"], call.body.role
    )
    return Reply(200, member)


async def delete_member(call: Call[NoBody, NoQuery]) -> Reply:
    await call.app[keys.MEMBERS].remove(call.identity, conversation_of(call), call.path["user"])
    return Reply(204)


ROUTES = (
    Route(
        "GET",
        MEMBERS,
        get_members,
        "List members, the longest in first",
        TAG,
        query=PageQuery,
        answers={200: Page[Member]},
        errors=(404,),
        visible=visible_conversation,
    ),
    Route(
        "POST",
        MEMBERS,
        post_members,
        "Add members to a group",
        TAG,
        body=MembersAdd,
        answers={200: Conversation},
        errors=(403, 404),
        description="For owners and admins. Who is in already stays as they are.",
        limit="write",
        idempotent=True,
        visible=visible_conversation,
    ),
    Route(
        "PATCH",
        MEMBER,
        patch_member,
        "Give a member a role",
        TAG,
        body=MemberPatch,
        answers={200: Member},
        errors=(403, 404, 409),
        description="For owners; admins may step down. The last owner cannot: 409 `last_owner`.",
        limit="write",
        visible=visible_member,
    ),
    Route(
        "DELETE",
        MEMBER,
        delete_member,
        "Remove a member, or leave",
        TAG,
        answers={204: None},
        errors=(403, 404),
        description=(
            "Admins remove members, owners anyone. When the last owner leaves, the admin who has been in longest "
            "becomes the owner, or else the member who has."
        ),
        limit="write",
    ),
)
