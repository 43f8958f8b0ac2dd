"""Conversations as stored, and one member's standing in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from domain.ids import ConversationId, TenantId, UserId
from domain.resources import History, Role
from storage.database import Connection

Kind = Literal["direct", "group"]

LOCK = "SELECT 1 FROM conversations WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE"

LOCK_GROUPS_OF = """
SELECT c.id FROM conversations c
WHERE c.tenant_id = $1 AND c.kind = 'group' AND c.id IN (
    SELECT conversation_id FROM conversation_members WHERE tenant_id = $1 AND user_id = $2 AND left_at IS NULL
) ORDER BY c.id LIMIT $3 FOR NO KEY UPDATE
"""

READ_STANDING = """
SELECT c.kind, c.title, c.history, c.last_seq, c.member_count, m.role, m.joined_seq,
    c.kind = 'direct' AND EXISTS (
        SELECT 1 FROM blocks b
        WHERE b.tenant_id = c.tenant_id AND b.blocker_id IN (c.direct_low, c.direct_high)
            AND b.blocked_id IN (c.direct_low, c.direct_high)) AS blocked
FROM conversations c
JOIN conversation_members m ON m.tenant_id = c.tenant_id AND m.conversation_id = c.id
WHERE c.tenant_id = $1 AND c.id = $2 AND m.user_id = $3 AND m.left_at IS NULL
"""

INSERT_GROUP = """
INSERT INTO conversations (tenant_id, id, kind, title, history, created_by) VALUES ($1, $2, 'group', $3, $4, $5)
"""

INSERT_DIRECT = """
INSERT INTO conversations (tenant_id, id, kind, direct_low, direct_high, created_by)
VALUES ($1, $2, 'direct', least($3::uuid, $4::uuid), greatest($3::uuid, $4::uuid), $3)
ON CONFLICT (tenant_id, direct_low, direct_high) DO NOTHING
RETURNING 1
"""

FIND_DIRECT = """
SELECT id FROM conversations
WHERE tenant_id = $1 AND direct_low = least($2::uuid, $3::uuid) AND direct_high = greatest($2::uuid, $3::uuid)
"""

# Everything that the position of its conversation.created event decides, in one statement: the log head is held.
PLACE = """
WITH conversation AS (
    UPDATE conversations SET created_position = $3, activity_position = $3 WHERE tenant_id = $1 AND id = $2
), members AS (
    UPDATE conversation_members SET joined_position = $3 WHERE tenant_id = $1 AND conversation_id = $2
)
INSERT INTO membership_windows (tenant_id, conversation_id, user_id, opens) SELECT $1, $2, unnest($4::uuid[]), $3
"""

UPDATE_DETAILS = """
UPDATE conversations SET title = coalesce($3, title), history = coalesce($4, history), updated_at = now()
WHERE tenant_id = $1 AND id = $2
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """A conversation as one of its members stands in it."""

    kind: Kind
    title: str | None
    history: History
    last_seq: int
    member_count: int
    role: Role
    joined_seq: int
    """``last_seq`` at the latest joining."""
    blocked: bool
    """A direct conversation in which one has blocked the other."""


async def lock(connection: Connection, tenant: TenantId, conversation: ConversationId) -> None:
    """Holds off other writes in the conversation. Read its state in a later statement, to see what was waited for."""
    await connection.execute(LOCK, tenant, conversation)


async def lock_groups_of(
    connection: Connection, tenant: TenantId, user: UserId, limit: int
) -> list[ConversationId]:
    """Locks groups a user is in, ``limit`` at most, in the order all transactions use, and names them.

    Who was waited for may have taken the user out of some of them.
    """
    rows = await connection.fetch(LOCK_GROUPS_OF, tenant, user, limit)
    return [ConversationId(row["id"]) for row in rows]


async def read_standing(
    connection: Connection, tenant: TenantId, conversation: ConversationId, user: UserId
) -> Standing | None:
    """How a member stands in a conversation; None for anyone else, and where there is none."""
    row = await connection.fetchrow(READ_STANDING, tenant, conversation, user)
    return None if row is None else Standing(*row)


async def insert_group(
    connection: Connection,
    tenant: TenantId,
    conversation: ConversationId,
    *,
    title: str,
    history: History,
    creator: UserId,
) -> None:
    """Stores a group without members; :func:`place` finishes it."""
    await connection.execute(INSERT_GROUP, tenant, conversation, title, history, creator)


async def insert_direct(
    connection: Connection, tenant: TenantId, conversation: ConversationId, creator: UserId, peer: UserId
) -> bool:
    """Stores a direct conversation without members; False where the pair has one, waiting for one being made."""
    return await connection.fetchval(INSERT_DIRECT, tenant, conversation, creator, peer) is not None


async def find_direct(
    connection: Connection, tenant: TenantId, one: UserId, other: UserId
) -> ConversationId | None:
    """The direct conversation of a pair, whichever of them made it."""
    found = await connection.fetchval(FIND_DIRECT, tenant, one, other)
    return None if found is None else ConversationId(found)


async def place(
    connection: Connection,
    tenant: TenantId,
    conversation: ConversationId,
    members: Sequence[UserId],
    position: int,
) -> None:
    """Gives a new conversation, its members and what they may read their place in the log."""
    await connection.execute(PLACE, tenant, conversation, position, list(members))


async def update_details(
    connection: Connection,
    tenant: TenantId,
    conversation: ConversationId,
    *,
    title: str | None,
    history: History | None,
) -> None:
    """Changes what is not None."""
    await connection.execute(UPDATE_DETAILS, tenant, conversation, title, history)
