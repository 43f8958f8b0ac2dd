"""Reactions to messages as stored."""

from __future__ import annotations

from domain.ids import ConversationId, TenantId, UserId
from storage.database import Connection

# clock_timestamp, not now: reactions are in the order in which they took the conversation's lock.
INSERT = """
INSERT INTO reactions (tenant_id, conversation_id, seq, emoji, user_id, created_at)
VALUES ($1, $2, $3, $4, $5, clock_timestamp())
ON CONFLICT DO NOTHING RETURNING 1
"""

# One look into the index for each emoji, however many gave it.
COUNT_DIFFERENT = """
WITH RECURSIVE kinds AS (
    (SELECT emoji FROM reactions WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3 ORDER BY emoji LIMIT 1)
    UNION ALL
    SELECT (
        SELECT r.emoji FROM reactions r
        WHERE r.tenant_id = $1 AND r.conversation_id = $2 AND r.seq = $3 AND r.emoji > k.emoji
        ORDER BY r.emoji LIMIT 1)
    FROM kinds k WHERE k.emoji IS NOT NULL
)
SELECT count(emoji) FROM kinds
"""

DELETE = """
DELETE FROM reactions WHERE tenant_id = $1 AND conversation_id = $2 AND seq = $3 AND emoji = $4 AND user_id = $5
RETURNING 1
"""


async def insert(
    connection: Connection,
    tenant: TenantId,
    conversation: ConversationId,
    seq: int,
    emoji: str,
    user: UserId,
) -> bool:
    """Stores a reaction; False where it is there already."""
    return await connection.fetchval(INSERT, tenant, conversation, seq, emoji, user) is not None


async def count_different(
    connection: Connection, tenant: TenantId, conversation: ConversationId, seq: int
) -> int:
    """How many different emoji a message has."""
    count: int = await connection.fetchval(COUNT_DIFFERENT, tenant, conversation, seq)
    return count


async def delete(
    connection: Connection,
    tenant: TenantId,
    conversation: ConversationId,
    seq: int,
    emoji: str,
    user: UserId,
) -> bool:
    """Takes a reaction back; False where there is none."""
    return await connection.fetchval(DELETE, tenant, conversation, seq, emoji, user) is not None
