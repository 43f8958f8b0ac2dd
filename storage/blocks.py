"""Who has blocked whom."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain.ids import TenantId, UserId
from storage.database import Connection
from storage.users import PROFILE_COLUMNS, UserRow, user_row

# A send that checked for a block holds this lock until it has committed.
LOCK_DIRECT = """
SELECT 1 FROM conversations
WHERE tenant_id = $1 AND direct_low = least($2::uuid, $3::uuid) AND direct_high = greatest($2::uuid, $3::uuid)
FOR NO KEY UPDATE
"""
INSERT_BLOCK = """
INSERT INTO blocks (tenant_id, blocker_id, blocked_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""
DELETE_BLOCK = "DELETE FROM blocks WHERE tenant_id = $1 AND blocker_id = $2 AND blocked_id = $3"
DELETE_BLOCKS_OF = "DELETE FROM blocks WHERE tenant_id = $1 AND (blocker_id = $2 OR blocked_id = $2)"
LIST_BLOCKS = f"""
SELECT b.created_at AS blocked_at, {PROFILE_COLUMNS}
FROM blocks b
CROSS JOIN LATERAL (SELECT * FROM users a WHERE a.tenant_id = b.tenant_id AND a.id = b.blocked_id LIMIT 1) u
WHERE b.tenant_id = $1 AND b.blocker_id = $2 AND u.deleted_at IS NULL
    AND ($3::timestamptz IS NULL OR (b.created_at, b.blocked_id) < ($3, $4::uuid))
ORDER BY b.created_at DESC, b.blocked_id DESC LIMIT $5
"""


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A user somebody has blocked, and since when."""

    user: UserRow
    blocked_at: datetime


async def lock_direct(connection: Connection, tenant: TenantId, one: UserId, other: UserId) -> None:
    """Waits for sends under way in the direct conversation of two users, and holds off those to come."""
    await connection.execute(LOCK_DIRECT, tenant, one, other)


async def insert_block(connection: Connection, tenant: TenantId, blocker: UserId, blocked: UserId) -> None:
    """Stores a block; one that is there stays as it is."""
    await connection.execute(INSERT_BLOCK, tenant, blocker, blocked)


async def delete_block(connection: Connection, tenant: TenantId, blocker: UserId, blocked: UserId) -> None:
    """Deletes a block where there is one."""
    await connection.execute(DELETE_BLOCK, tenant, blocker, blocked)


async def delete_blocks_of(connection: Connection, tenant: TenantId, user: UserId) -> None:
    """Deletes every block by or of a user."""
    await connection.execute(DELETE_BLOCKS_OF, tenant, user)


async def list_blocks(
    connection: Connection,
    tenant: TenantId,
    blocker: UserId,
    *,
    before: tuple[datetime, UserId] | None,
    limit: int,
) -> list[BlockRow]:
    """Whom a user has blocked, the latest first, after the place ``before``."""
    at, user = before if before is not None else (None, None)
    rows = await connection.fetch(LIST_BLOCKS, tenant, blocker, at, user, limit)
    return [BlockRow(user_row(row), row["blocked_at"]) for row in rows]
