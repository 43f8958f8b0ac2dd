"""Conversations as one member sees them: everything the list shows, in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from domain.ids import ConversationId, TenantId, UserId
from domain.resources import History, Role
from storage.conversations import Kind
from storage.database import Connection
from storage.members import PROFILE, MemberRow, member_row
from storage.messages import MessageRow, columns, message_row, reactions_of

MEMBERS_SHOWN = 10

_CONVERSATION = (
    "c.tenant_id, c.id, c.kind, c.title, c.history, c.last_seq, c.member_count, c.created_at, "
    "m.user_id, m.role, m.joined_seq, m.read_seq, m.muted_until, m.pinned"
)

# A conversation that has moved since the snapshot keeps the place it had: its newest message of then, or its making.
# Where it was made later, only a joining can have given it a place, and that was later too: it has none.
_ACTIVITY_THEN = """
CASE WHEN c.activity_position <= s.position THEN c.activity_position
    ELSE (SELECT a.position FROM messages a WHERE a.tenant_id = c.tenant_id AND a.conversation_id = c.id
        AND a.seq = seq_at(c.tenant_id, c.id, 0, c.last_seq, s.position)) END
"""

_LIST_PAGE = f"""
WITH s AS MATERIALIZED (
    SELECT coalesce($3, (SELECT position FROM log_heads WHERE log = 0)) AS position
), page AS MATERIALIZED (
    SELECT * FROM (
        SELECT {_CONVERSATION}, s.position AS snapshot, greatest(
            {_ACTIVITY_THEN},
            CASE WHEN c.created_position <= s.position THEN c.created_position END,
            CASE WHEN m.joined_position <= s.position THEN m.joined_position END) AS activity
        FROM s, conversation_members m
        JOIN conversations c ON c.tenant_id = m.tenant_id AND c.id = m.conversation_id
        WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.left_at IS NULL
    ) mine
    WHERE activity < coalesce($4, {2**63 - 1}) ORDER BY activity DESC LIMIT $5
)
"""

_ONE = f"""
WITH page AS MATERIALIZED (
    SELECT {_CONVERSATION}, 0::bigint AS snapshot, c.activity_position AS activity
    FROM conversation_members m
    JOIN conversations c ON c.tenant_id = m.tenant_id AND c.id = m.conversation_id
    WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.conversation_id = $3 AND m.left_at IS NULL
)
"""

_SHOWN = f"""
SELECT p.*, first.members, {columns("l", "message_")}, reactions.list AS reactions, low.read_low, low.delivered_low
FROM page p
LEFT JOIN LATERAL (
    SELECT json_agg(json_build_array({PROFILE}, m.role, m.joined_at, m.joined_position)
        ORDER BY m.joined_position, m.user_id) AS members
    FROM (
        SELECT tenant_id, user_id, role, joined_at, joined_position FROM conversation_members
        WHERE tenant_id = p.tenant_id AND conversation_id = p.id AND left_at IS NULL
        ORDER BY joined_position, user_id LIMIT {MEMBERS_SHOWN}
    ) m JOIN users u ON u.tenant_id = m.tenant_id AND u.id = m.user_id
) first ON true
LEFT JOIN messages l ON l.tenant_id = p.tenant_id AND l.conversation_id = p.id AND l.seq = p.last_seq
    AND (p.history = 'all' OR p.last_seq > p.joined_seq)
{reactions_of("l")}
LEFT JOIN LATERAL (
    SELECT min(o.read_seq) AS read_low, min(o.delivered_seq) AS delivered_low FROM conversation_members o
    WHERE l.sender_id = p.user_id AND o.tenant_id = p.tenant_id AND o.conversation_id = p.id
        AND o.user_id <> p.user_id AND o.left_at IS NULL
) low ON true
ORDER BY p.activity DESC
"""

LIST = _LIST_PAGE + _SHOWN
READ = _ONE + _SHOWN


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation as one of its members sees it."""

    id: ConversationId
    kind: Kind
    title: str | None
    history: History
    last_seq: int
    member_count: int
    created_at: datetime
    role: Role
    read_seq: int
    muted_until: datetime | None
    pinned: bool
    members: Sequence[MemberRow]
    """The first ten, the longest in first."""
    last_message: MessageRow | None
    """The newest message, where the member may see it."""
    activity: int
    """Position that orders the list: of the newest message, of the making, or of the member's joining."""
    snapshot: int
    """Position of the log that a list is a picture of."""


@dataclass(frozen=True, slots=True)
class ListPlace:
    """Where a page of the list ended, in the list as it stood when the log was at ``snapshot``."""

    snapshot: int
    activity: int


def _view(row: asyncpg.Record) -> ConversationView:
    return ConversationView(
        id=ConversationId(row["id"]),
        kind=row["kind"],
        title=row["title"],
        history=row["history"],
        last_seq=row["last_seq"],
        member_count=row["member_count"],
        created_at=row["created_at"],
        role=row["role"],
        read_seq=row["read_seq"],
        muted_until=row["muted_until"],
        pinned=row["pinned"],
        members=_members(row["members"]),
        last_message=None if row["message_seq"] is None else message_row(row, "message_"),
        activity=row["activity"],
        snapshot=row["snapshot"],
    )


def _members(text: str | None) -> Sequence[MemberRow]:
    rows: list[list[Any]] = [] if text is None else orjson.loads(text)
    for row in rows:
        row[0] = UserId(UUID(row[0]))
        row[4] = datetime.fromisoformat(row[4])
        row[9] = datetime.fromisoformat(row[9])
    return tuple(member_row(row) for row in rows)


async def list_conversations(
    connection: Connection, tenant: TenantId, user: UserId, *, after: ListPlace | None, limit: int
) -> list[ConversationView]:
    """A page of a member's conversations, newest activity first, in one round trip.

    The pages that follow one first page are parts of one list, that of the first page's moment: a conversation that
    moves meanwhile is neither skipped nor given again.
    """
    place = (after.snapshot, after.activity) if after else (None, None)
    return [_view(row) for row in await connection.fetch(LIST, tenant, user, *place, limit)]


async def read_conversation(
    connection: Connection, tenant: TenantId, user: UserId, conversation: ConversationId
) -> ConversationView | None:
    """One conversation as a member sees it; None for anyone else, and where there is none."""
    row = await connection.fetchrow(READ, tenant, user, conversation)
    return None if row is None else _view(row)
