"""How far members have received and read, and which of it is still to be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domain.ids import ConversationId, TenantId, UserId
from storage.database import Connection

APART = "interval '1 second'"
"""Receipt events of one kind, member and conversation are at least this far apart."""

LOCK_CONVERSATIONS = """
SELECT 1 FROM conversations c
WHERE (c.tenant_id, c.id) IN (SELECT t, c FROM unnest($1::uuid[], $2::uuid[]) AS u (t, c))
ORDER BY c.id FOR NO KEY UPDATE
"""

READ_STATES = f"""
SELECT m.tenant_id, m.conversation_id, m.user_id, c.last_seq, c.member_count, m.read_seq, m.delivered_seq,
    m.read_announced_seq, m.delivered_announced_seq,
    m.read_announced_at > now() - {APART} AS read_lately,
    m.delivered_announced_at > now() - {APART} AS delivered_lately
FROM (SELECT DISTINCT t, c, u FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS a (t, c, u)) a
JOIN conversation_members m ON m.tenant_id = a.t AND m.conversation_id = a.c AND m.user_id = a.u AND m.left_at IS NULL
JOIN conversations c ON c.tenant_id = m.tenant_id AND c.id = m.conversation_id
"""

WRITE = f"""
WITH d AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::boolean[], $9::boolean[])
        AS d (t, c, u, read, delivered, read_told, delivered_told, tell_read, tell_delivered)
), moved AS (
    UPDATE conversation_members m SET read_seq = d.read, delivered_seq = d.delivered,
        read_announced_seq = d.read_told, delivered_announced_seq = d.delivered_told,
        read_announced_at = CASE WHEN d.tell_read THEN now() ELSE m.read_announced_at END,
        delivered_announced_at = CASE WHEN d.tell_delivered THEN now() ELSE m.delivered_announced_at END
    FROM d WHERE m.tenant_id = d.t AND m.conversation_id = d.c AND m.user_id = d.u
    RETURNING m.tenant_id, m.conversation_id, m.user_id, least(
        CASE WHEN m.read_seq > m.read_announced_seq THEN m.read_announced_at END,
        CASE WHEN m.delivered_seq > m.delivered_announced_seq THEN m.delivered_announced_at END) + {APART} AS due_at
), told AS (
    DELETE FROM receipts_owed o USING moved m
    WHERE o.tenant_id = m.tenant_id AND o.conversation_id = m.conversation_id AND o.user_id = m.user_id
        AND m.due_at IS NULL
)
INSERT INTO receipts_owed AS o (tenant_id, conversation_id, user_id, due_at)
SELECT tenant_id, conversation_id, user_id, due_at FROM moved WHERE due_at IS NOT NULL
ON CONFLICT (tenant_id, conversation_id, user_id) DO UPDATE SET due_at = excluded.due_at
    WHERE o.due_at <> excluded.due_at
"""

FIND_DUE = """
SELECT tenant_id, conversation_id, user_id FROM receipts_owed WHERE due_at <= now() ORDER BY due_at LIMIT $1
"""

FORGET_OWED = """
DELETE FROM receipts_owed o USING unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS p (t, c, u)
WHERE o.tenant_id = p.t AND o.conversation_id = p.c AND o.user_id = p.u
"""

TRY_SWEEP = "SELECT pg_try_advisory_xact_lock($1)"
_SWEEP_LOCK = 0x7265636569707473  # "receipts"

FIND_DELIVERED = """
SELECT tenant_id, conversation_id, user_id, 0 AS read, seq FROM (
    SELECT m.tenant_id, m.conversation_id, m.user_id, m.delivered_seq,
        CASE WHEN c.activity_position <= u.position THEN c.last_seq
            ELSE seq_at(m.tenant_id, m.conversation_id, m.delivered_seq, c.last_seq, u.position) END AS seq
    FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS u (tenant_id, user_id, position)
    JOIN conversation_members m ON m.tenant_id = u.tenant_id AND m.user_id = u.user_id AND m.left_at IS NULL
    JOIN conversations c ON c.tenant_id = m.tenant_id AND c.id = m.conversation_id AND c.last_seq > m.delivered_seq
) f WHERE seq > delivered_seq
"""

Place = tuple[TenantId, ConversationId, UserId]
"""One member of one conversation."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a member says of a conversation: everything up to ``read`` is read, up to ``delivered`` received."""

    tenant: TenantId
    conversation: ConversationId
    user: UserId
    read: int = 0
    delivered: int = 0

    @property
    def place(self) -> Place:
        return self.tenant, self.conversation, self.user


@dataclass(frozen=True, slots=True)
class ReceiptState:
    """How far a member is, and how far the others were told."""

    tenant: TenantId
    conversation: ConversationId
    user: UserId
    last_seq: int
    member_count: int
    read: int
    delivered: int
    read_told: int
    delivered_told: int
    read_lately: bool
    """A receipt.read was told less than a second ago."""
    delivered_lately: bool

    @property
    def place(self) -> Place:
        return self.tenant, self.conversation, self.user


@dataclass(frozen=True, slots=True)
class ReceiptWrite:
    """What to store of a member: how far they are, how far told, and what this transaction tells."""

    place: Place
    read: int
    delivered: int
    read_told: int
    delivered_told: int
    tell_read: bool
    tell_delivered: bool


def _columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    return [list(column) for column in zip(*rows, strict=True)]


async def lock_conversations(connection: Connection, places: Sequence[Place]) -> None:
    """Locks the conversations of these members, in the order all transactions use."""
    await connection.execute(LOCK_CONVERSATIONS, [p[0] for p in places], [p[1] for p in places])


async def read_states(connection: Connection, places: Sequence[Place]) -> list[ReceiptState]:
    """How far these members are, each once; those who have left, or never were in, are not there."""
    rows = await connection.fetch(READ_STATES, *_columns(places))
    return [ReceiptState(*row) for row in rows]


async def write(connection: Connection, writes: Sequence[ReceiptWrite]) -> None:
    """Stores how far members are, and what of it a sweep has to tell later. Their conversations must be locked."""
    tenants, conversations, users = zip(*(w.place for w in writes), strict=True)
    await connection.execute(
        WRITE,
        list(tenants),
        list(conversations),
        list(users),
        [w.read for w in writes],
        [w.delivered for w in writes],
        [w.read_told for w in writes],
        [w.delivered_told for w in writes],
        [w.tell_read for w in writes],
        [w.tell_delivered for w in writes],
    )


async def find_due(connection: Connection, limit: int) -> list[Place]:
    """Members of whom something held back may be told now, the longest waiting first."""
    return [
        (TenantId(t), ConversationId(c), UserId(u)) for t, c, u in await connection.fetch(FIND_DUE, limit)
    ]


async def forget_owed(connection: Connection, places: Sequence[Place]) -> None:
    """Nothing of these members is to be told any more. Their conversations must be locked."""
    await connection.execute(FORGET_OWED, *_columns(places))


async def try_sweep(connection: Connection) -> bool:
    """Makes this transaction the only one that sweeps; False where another does."""
    return bool(await connection.fetchval(TRY_SWEEP, _SWEEP_LOCK))


async def find_delivered(
    connection: Connection, positions: Sequence[tuple[TenantId, UserId, int]]
) -> list[Mark]:
    """What users who have received the log up to a position have received of each of their conversations, where new."""
    rows = await connection.fetch(FIND_DELIVERED, *_columns(positions))
    return [Mark(*row) for row in rows]
