"""Messages as stored: reading them with what belongs to them, editing and deleting them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from domain.ids import ClientId, ConversationId, MessageId, TenantId, UserId
from domain.resources import Reaction
from storage.database import Connection

COLUMNS = (
    "seq",
    "id",
    "conversation_id",
    "sender_id",
    "client_id",
    "body",
    "reply_to_seq",
    "position",
    "edited_at",
    "deleted_at",
    "created_at",
)


NAMED = 100
"""Who gave a reaction is named up to here, the first ones; all are counted."""


def columns(alias: str, prefix: str = "") -> str:
    """The message's columns of the table known as ``alias``, each named with ``prefix``."""
    return ", ".join(f"{alias}.{name} AS {prefix}{name}" for name in COLUMNS)


def reactions_of(alias: str) -> str:
    """A lateral join that gives ``reactions.list``: JSON, in order of the first reaction, or null for none."""
    return f"""
LEFT JOIN LATERAL (
    SELECT json_agg(json_build_object('emoji', e.emoji, 'count', e.count, 'user_ids', e.user_ids)
        ORDER BY e.first, e.emoji) AS list
    FROM (
        SELECT r.emoji, count(*) AS count, min(r.created_at) AS first,
            (array_agg(r.user_id ORDER BY r.created_at, r.user_id))[1:{NAMED}] AS user_ids
        FROM reactions r
        WHERE r.tenant_id = {alias}.tenant_id AND r.conversation_id = {alias}.conversation_id AND r.seq = {alias}.seq
        GROUP BY r.emoji
    ) e
) reactions ON true
"""


def lowest_of(column: str) -> str:
    """How far the slowest member but $3 of conversation ($1, $2) is. Depends on no row: computed once, if at all."""
    return f"""(SELECT min(o.{column}) FROM conversation_members o
        WHERE o.tenant_id = $1 AND o.conversation_id = $2 AND o.user_id <> $3 AND o.left_at IS NULL)"""


_SHOWN = f"""{columns("p")}, reactions.list AS reactions,
    CASE WHEN p.sender_id = $3 THEN {lowest_of("read_seq")} END AS read_low,
    CASE WHEN p.sender_id = $3 THEN {lowest_of("delivered_seq")} END AS delivered_low"""


def _page(bounds: str, order: str) -> str:
    """One row for each message the member $3 may see, and one without a message where there is none."""
    return f"""
SELECT {_SHOWN}
FROM (
    SELECT m.tenant_id, m.conversation_id, CASE c.history WHEN 'all' THEN 0 ELSE m.joined_seq END AS before_first
    FROM conversation_members m
    JOIN conversations c ON c.tenant_id = m.tenant_id AND c.id = m.conversation_id
    WHERE m.tenant_id = $1 AND m.conversation_id = $2 AND m.user_id = $3 AND m.left_at IS NULL
) me
LEFT JOIN LATERAL (
    SELECT * FROM messages
    WHERE tenant_id = me.tenant_id AND conversation_id = me.conversation_id AND seq > me.before_first AND {bounds}
    ORDER BY seq {order} LIMIT $5
) p ON true
{reactions_of("p")}
ORDER BY p.seq {order}
"""


LIST_BEFORE = _page(f"seq < coalesce($4::bigint, {2**63 - 1})", "DESC")
LIST_AFTER = _page("seq > $4", "ASC")
READ_VISIBLE = _page("seq = $4", "ASC")

READ_PLACE = """
SELECT position, deleted_at IS NOT NULL FROM messages WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3
"""

FIND_DELETION = "SELECT deleted_at FROM messages WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3"

READ = f"""
SELECT {_SHOWN} FROM messages p {reactions_of("p")}
WHERE p.tenant_id = $1 AND p.conversation_id = $2 AND p.seq = $4
"""

# No subquery on the conversation's parameters here: the message itself says which conversation it is in.
FIND_BY_CLIENT_ID = f"""
SELECT {columns("p")}, p.sent_digest, reactions.list AS reactions, low.read_low, low.delivered_low
FROM messages p {reactions_of("p")}
LEFT JOIN LATERAL (
    SELECT min(o.read_seq) AS read_low, min(o.delivered_seq) AS delivered_low FROM conversation_members o
    WHERE o.tenant_id = p.tenant_id AND o.conversation_id = p.conversation_id AND o.user_id <> p.sender_id
        AND o.left_at IS NULL
) low ON true
WHERE p.tenant_id = $1 AND p.sender_id = $2 AND p.client_id = $3
"""

# Both parts see the message as it was before: the former text is kept, then replaced.
REPLACE_BODY = """
WITH former AS (
    INSERT INTO message_edits (tenant_id, conversation_id, seq, version, body, edited_at, position)
    SELECT m.tenant_id, m.conversation_id, m.seq,
        1 + (SELECT count(*) FROM message_edits e
             WHERE e.tenant_id = m.tenant_id AND e.conversation_id = m.conversation_id AND e.seq = m.seq),
        m.body, now(), 0
    FROM messages m WHERE m.tenant_id = $1 AND m.conversation_id = $2 AND m.seq = $3
    RETURNING version
)
UPDATE messages m SET body = $4, edited_at = now() FROM former
WHERE m.tenant_id = $1 AND m.conversation_id = $2 AND m.seq = $3
RETURNING former.version, m.edited_at
"""

PLACE_EDIT = """
UPDATE message_edits SET position = $5 WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3 AND version = $4
"""

READ_EDITS = """
SELECT body, edited_at, position FROM message_edits
WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3 ORDER BY version
"""

BURY = """
WITH emptied AS (
    UPDATE message_edits SET body = NULL WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3
), unreacted AS (
    DELETE FROM reactions WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3
)
UPDATE messages SET body = NULL, deleted_at = now() WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3
RETURNING deleted_at
"""


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message with its reactions. ``body`` is None for a tombstone."""

    seq: int
    id: MessageId
    conversation_id: ConversationId
    sender_id: UserId
    client_id: ClientId | None
    body: str | None
    reply_to_seq: int | None
    position: int
    edited_at: datetime | None
    deleted_at: datetime | None
    created_at: datetime
    reactions: Sequence[Reaction]
    read_low: int | None
    """What the slowest other member has read; None where the reader is not the sender, or alone."""
    delivered_low: int | None


@dataclass(frozen=True, slots=True)
class MessagePlace:
    """Where a message is in the log, and whether it is a tombstone."""

    position: int
    deleted: bool


@dataclass(frozen=True, slots=True)
class EditRow:
    """A text that an edit replaced, when, and the position of the event that told of the edit."""

    body: str | None
    edited_at: datetime
    position: int


def message_row(record: Any, prefix: str = "") -> MessageRow:
    """The message in a record: :func:`columns` with ``prefix``, ``reactions``, ``read_low`` and ``delivered_low``."""
    values: list[Any] = [record[prefix + name] for name in COLUMNS]
    values += decode_reactions(record["reactions"]), record["read_low"], record["delivered_low"]
    return MessageRow(*values)


def decode_reactions(text: str | None) -> Sequence[Reaction]:
    if text is None:
        return ()
    return tuple(
        Reaction(emoji=r["emoji"], count=r["count"], user_ids=[UUID(u) for u in r["user_ids"]])
        for r in orjson.loads(text)
    )


async def list_visible(
    connection: Connection,
    tenant: TenantId,
    conversation: ConversationId,
    viewer: UserId,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int,
) -> list[MessageRow] | None:
    """A page of what ``viewer`` may see: newest first, or with ``after`` oldest first. None for who is no member."""
    statement, bound = (LIST_BEFORE, before) if after is None else (LIST_AFTER, after)
    rows = await connection.fetch(statement, tenant, conversation, viewer, bound, limit)
    if not rows:
        return None
    return [message_row(row) for row in rows if row["seq"] is not None]


async def read_visible(
    connection: Connection, tenant: TenantId, conversation: ConversationId, viewer: UserId, seq: int
) -> MessageRow | None:
    """One message, or None where ``viewer`` may not see it."""
    row = await connection.fetchrow(READ_VISIBLE, tenant, conversation, viewer, seq, 1)
    return None if row is None or row["seq"] is None else message_row(row)


async def read(
    connection: Connection, tenant: TenantId, conversation: ConversationId, viewer: UserId, seq: int
) -> MessageRow:
    """One message that is known to be there, as ``viewer`` sees it, without asking whether they may."""
    row = await connection.fetchrow(READ, tenant, conversation, viewer, seq)
    assert row is not None
    return message_row(row)


async def read_place(
    connection: Connection, tenant: TenantId, conversation: ConversationId, seq: int
) -> MessagePlace:
    """The little of a message that is known to be there which does not grow with its reactions."""
    row = await connection.fetchrow(READ_PLACE, tenant, conversation, seq)
    assert row is not None
    return MessagePlace(*row)


async def find_deletion(
    connection: Connection, tenant: TenantId, conversation: ConversationId, seq: int
) -> datetime | None:
    """When a message was deleted; None where it was not."""
    deleted_at: datetime | None = await connection.fetchval(FIND_DELETION, tenant, conversation, seq)
    return deleted_at


async def find_by_client_id(
    connection: Connection, tenant: TenantId, sender: UserId, client_id: ClientId
) -> tuple[MessageRow, bytes] | None:
    """What ``sender`` sent under this id, wherever that was and whether they are still there, and its digest."""
    row = await connection.fetchrow(FIND_BY_CLIENT_ID, tenant, sender, client_id)
    return None if row is None else (message_row(row), row["sent_digest"])


async def replace_body(
    connection: Connection, tenant: TenantId, conversation: ConversationId, seq: int, body: str
) -> tuple[int, datetime]:
    """Keeps the text as a former one and puts ``body`` in its place; gives the edit's number, and when."""
    row = await connection.fetchrow(REPLACE_BODY, tenant, conversation, seq, body)
    assert row is not None
    return row["version"], row["edited_at"]


async def place_edit(
    connection: Connection,
    tenant: TenantId,
    conversation: ConversationId,
    seq: int,
    version: int,
    position: int,
) -> None:
    """Notes which event told of an edit, so that a later deletion can redact it."""
    await connection.execute(PLACE_EDIT, tenant, conversation, seq, version, position)


async def list_edits(
    connection: Connection, tenant: TenantId, conversation: ConversationId, seq: int
) -> list[EditRow]:
    """The texts that edits replaced, the first one first."""
    return [EditRow(*row) for row in await connection.fetch(READ_EDITS, tenant, conversation, seq)]


async def bury(connection: Connection, tenant: TenantId, conversation: ConversationId, seq: int) -> datetime:
    """Makes a message a tombstone: its text, its former texts and its reactions are gone. Returns when."""
    deleted_at: datetime = await connection.fetchval(BURY, tenant, conversation, seq)
    return deleted_at
