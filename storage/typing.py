"""What has to be known before somebody is shown typing."""

from __future__ import annotations

from collections.abc import Sequence

from domain.ids import ConversationId, TenantId, UserId
from storage.database import Connection
from storage.visibility import hidden_users

READ_TYPISTS = f"""
SELECT k.n, ARRAY(
    SELECT h.id FROM {hidden_users("k.tenant", "k.id")} h
    JOIN conversation_members o ON o.tenant_id = k.tenant AND o.conversation_id = k.conversation AND o.user_id = h.id
    WHERE o.left_at IS NULL
) AS hidden
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) WITH ORDINALITY AS k (tenant, conversation, id, n)
JOIN conversation_members m ON m.tenant_id = k.tenant AND m.conversation_id = k.conversation AND m.user_id = k.id
WHERE m.left_at IS NULL
"""

TypistKey = tuple[TenantId, ConversationId, UserId]


async def read_typists(
    connection: Connection, typists: Sequence[TypistKey]
) -> dict[TypistKey, frozenset[UserId]]:
    """For each who is a member, the other members that a block hides them from. One statement."""
    tenants, conversations, users = zip(*typists, strict=True)
    rows = await connection.fetch(READ_TYPISTS, list(tenants), list(conversations), list(users))
    return {typists[row["n"] - 1]: frozenset(map(UserId, row["hidden"])) for row in rows}
