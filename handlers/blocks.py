"""Blocks."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from domain.ids import UserId
from domain.resources import User
from handlers import keys
from handlers.endpoint import API, Call, Reply, Route
from handlers.paging import decode_cursor, encode_cursor, page
from handlers.schemas.common import NoBody, NoQuery, Page, PageQuery

TAG = "Social"


async def put_block(call: Call[NoBody, NoQuery]) -> Reply:
    await call.app[keys.BLOCKS].block(call.identity, call.path["user"])
    return Reply(204)


async def delete_block(call: Call[NoBody, NoQuery]) -> Reply:
    await call.app[keys.BLOCKS].unblock(call.identity, call.path["user"])
    return Reply(204)


async def get_blocks(call: Call[NoBody, PageQuery]) -> Reply:
    after = decode_cursor(call.query.cursor, datetime, UUID)
    users, more = await call.app[keys.BLOCKS].list(
        call.identity, before=(after[0], UserId(after[1])) if after else None, limit=call.query.limit
    )
    return Reply(200, page(users, encode_cursor(*more) if more else None))


ROUTES = (
    Route(
        "PUT",
        f"{API}/users/{{user}}/block",
        put_block,
        "Block a user",
        TAG,
        answers={204: None},
        errors=(404, 422),
        description="Closes the direct conversation to new messages and hides the two from each other.",
        limit="write",
    ),
    Route(
        "DELETE",
        f"{API}/users/{{user}}/block",
        delete_block,
        "End a block",
        TAG,
        answers={204: None},
        errors=(404,),
        limit="write",
    ),
    Route(
        "GET",
        f"{API}/blocks",
        get_blocks,
        "List whom one has blocked, latest first",
        TAG,
        query=PageQuery,
        answers={200: Page[User]},
    ),
)
