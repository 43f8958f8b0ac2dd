"""The log as stored: appending to it, reading it, and what each user may read of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
import orjson

from domain.ids import TenantId, UserId
from domain.log import (
    EventDraft,
    Head,
    StoredEvent,
    Topic,
    TopicKind,
    View,
    Window,
    decode_control,
    encode_control,
)
from storage.database import Connection

LOG = 0  # the log this deployment writes; with several, each has its own head row

TAKE_POSITIONS = (
    "UPDATE log_heads SET position = position + $2 WHERE log = $1 RETURNING position, now() AS at"
)

INSERT_EVENTS = """
INSERT INTO events (position, tenant_id, topic_kind, topic_id, type, at, data, control)
SELECT p, t, k, i, y, $8, d, c
FROM unnest($1::bigint[], $2::uuid[], $3::smallint[], $4::uuid[], $5::text[], $6::text[], $7::text[])
    AS e (p, t, k, i, y, d, c)
"""

_COLUMNS = "position, tenant_id, topic_kind, topic_id, type, at, data, control"

READ_HEAD = "SELECT position, epoch, floor FROM log_heads WHERE log = $1"

# Random, and never the one it was. Only from the epoch the caller knows: of several that find the log replaced, one
# changes it.
RENEW_EPOCH = """
UPDATE log_heads SET epoch = (epoch + 1 + (random() * 9007199254740989)::bigint) % 9007199254740991
WHERE log = $1 AND epoch = $2
"""

READ_RANGE = (
    f"SELECT {_COLUMNS} FROM events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3"
)

READ_WINDOWS = f"""
SELECT {_COLUMNS} FROM unnest($1::smallint[], $2::uuid[], $3::bigint[], $4::bigint[]) AS w (kind, topic, opens, closes)
CROSS JOIN LATERAL (
    SELECT {_COLUMNS} FROM events
    WHERE topic_id = w.topic AND topic_kind = w.kind
        AND position >= w.opens AND position > $5 AND position <= least(w.closes, $6)
    ORDER BY position LIMIT $7
) e ORDER BY position LIMIT $7
"""

READ_VIEWS = """
SELECT u.id AS user_id, h.position AS head, w.conversation_id, w.opens, w.closes
FROM unnest($1::uuid[], $2::uuid[]) AS u (tenant, id)
CROSS JOIN (SELECT position, floor FROM log_heads WHERE log = $3) h
LEFT JOIN membership_windows w
    ON w.tenant_id = u.tenant AND w.user_id = u.id AND (w.closes IS NULL OR w.closes > h.floor)
"""

REDACT = """
UPDATE events SET data = (data::jsonb || $2::jsonb)::text WHERE position = ANY($1::bigint[])
"""

CLOSE_WINDOWS = """
UPDATE membership_windows SET closes = $4
WHERE tenant_id = $1 AND conversation_id = $2 AND user_id = ANY($3::uuid[]) AND closes IS NULL
"""


def _event(row: asyncpg.Record) -> StoredEvent:
    position, tenant, kind, topic, type_, at, data, control = row
    return StoredEvent(
        position,
        TenantId(tenant),
        Topic(TopicKind(kind), topic),
        type_,
        at,
        data.encode(),
        decode_control(control),
    )


async def append(connection: Connection, drafts: Sequence[EventDraft]) -> list[StoredEvent]:
    """Appends events and gives them their positions, dense and in the order given.

    Takes the head's row lock, the last lock of the transaction: take no other lock that may wait after it.
    """
    if not drafts:
        return []
    head = await connection.fetchrow(TAKE_POSITIONS, LOG, len(drafts))
    assert head is not None
    at: datetime = head["at"]
    first = head["position"] - len(drafts) + 1
    events = [
        StoredEvent(first + n, d.tenant, d.topic, d.type, at, d.data, d.control) for n, d in enumerate(drafts)
    ]
    await connection.execute(
        INSERT_EVENTS,
        [e.position for e in events],
        [e.tenant for e in events],
        [int(e.topic.kind) for e in events],
        [e.topic.id for e in events],
        [e.type for e in events],
        [e.data.decode() for e in events],
        [encode_control(e.control) for e in events],
        at,
    )
    return events


async def read_head(connection: Connection) -> Head:
    row = await connection.fetchrow(READ_HEAD, LOG)
    assert row is not None
    return Head(row["position"], row["epoch"], row["floor"])


async def renew_epoch(connection: Connection, old: int) -> Head:
    """Gives the log another epoch, unless it has another than ``old`` already. The head afterwards.

    Not inside a transaction: the second statement must see the epoch that the first may have waited for.
    """
    await connection.execute(RENEW_EPOCH, LOG, old)
    return await read_head(connection)


async def read_range(connection: Connection, after: int, upto: int, limit: int) -> list[StoredEvent]:
    """Events with ``after < position <= upto``, oldest first, ``limit`` at most. No holes between them."""
    return [_event(row) for row in await connection.fetch(READ_RANGE, after, upto, limit)]


async def read_windows(
    connection: Connection, windows: Sequence[Window], after: int, upto: int, limit: int
) -> list[StoredEvent]:
    """The events inside ``windows`` with ``after < position <= upto``, oldest first, the first ``limit`` of them."""
    rows = await connection.fetch(
        READ_WINDOWS,
        [int(w.topic.kind) for w in windows],
        [w.topic.id for w in windows],
        [w.opens for w in windows],
        [w.closes for w in windows],
        after,
        upto,
        limit,
    )
    return [_event(row) for row in rows]


async def read_views(connection: Connection, users: Sequence[tuple[TenantId, UserId]]) -> dict[UserId, View]:
    """What each user may read of the log, all as of one snapshot, in one statement for any number of users."""
    rows = await connection.fetch(READ_VIEWS, [t for t, _ in users], [u for _, u in users], LOG)
    windows: dict[UserId, list[Window]] = {u: [Window(Topic(TopicKind.USER, u), 0)] for _, u in users}
    head = 0
    for user, head, conversation, opens, closes in rows:  # noqa: B007
        if conversation is not None:
            windows[user].append(Window(Topic(TopicKind.CONVERSATION, conversation), opens, closes))
    return {user: View(user, head, w) for user, w in windows.items()}


async def redact(connection: Connection, positions: Sequence[int], fields: dict[str, object]) -> None:
    """Overwrites top-level fields in the data of stored events, so that no replay gives the former values back."""
    await connection.execute(REDACT, list(positions), orjson.dumps(fields).decode())


async def close_windows(
    connection: Connection, tenant: TenantId, conversation: UUID, users: Sequence[UserId], position: int
) -> None:
    """Ends users' reading of a conversation after ``position``."""
    await connection.execute(CLOSE_WINDOWS, tenant, conversation, list(users), position)
