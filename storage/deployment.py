"""The one row that says which deployment a database belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from storage.database import Connection
from storage.log import LOG

READ_ORIGIN = """
SELECT s.system_identifier::text || ':' || c.timeline_id::text
FROM pg_control_system() s, pg_control_checkpoint() c
"""
INSERT_DEPLOYMENT = """
INSERT INTO deployment (id, origin, key_fingerprint) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""
# Two statements: who waited for the lock must read the epoch that was set meanwhile.
LOCK_DEPLOYMENT = "SELECT 1 FROM deployment FOR UPDATE"
READ_DEPLOYMENT = """
SELECT d.id, d.origin, d.key_fingerprint, h.epoch FROM deployment d, log_heads h WHERE h.log = $1
"""
SET_ORIGIN = "UPDATE deployment SET id = $1, origin = $2"
FILL_ORIGIN = "UPDATE deployment SET origin = $1"
SET_FINGERPRINT = "UPDATE deployment SET key_fingerprint = $1"

# Random, and never the one it was: an epoch that came back would make old cursors look good.
NEW_EPOCH = """
UPDATE log_heads SET epoch = (epoch + 1 + (random() * 9007199254740989)::bigint) % 9007199254740991
WHERE log = $1 RETURNING epoch
"""


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    """``origin``: the cluster and timeline it was last started on; empty where PostgreSQL would not say."""

    id: UUID
    origin: str
    key_fingerprint: str
    epoch: int


async def read_origin(connection: Connection) -> str:
    """What tells this cluster from a copy of it that was restored: its identifier and its timeline.

    Empty where the role may not ask (``pg_control_system`` and ``pg_control_checkpoint`` can be kept from it) or a
    hosted PostgreSQL does not have them. Not to be called inside a transaction, which an error would spoil.
    """
    try:
        origin = await connection.fetchval(READ_ORIGIN)
    except (
        asyncpg.InsufficientPrivilegeError,
        asyncpg.UndefinedFunctionError,
        asyncpg.FeatureNotSupportedError,
    ):
        return ""
    return str(origin or "")


async def insert_deployment(connection: Connection, id: UUID, origin: str, key_fingerprint: str) -> None:
    """Stores the row at the first start; later it does nothing."""
    await connection.execute(INSERT_DEPLOYMENT, id, origin, key_fingerprint)


async def lock_deployment(connection: Connection) -> DeploymentRow:
    """The row, held against other instances that start at the same time, and the log's epoch."""
    await connection.execute(LOCK_DEPLOYMENT)
    row = await connection.fetchrow(READ_DEPLOYMENT, LOG)
    assert row is not None
    return DeploymentRow(**dict(row))


async def replace_deployment(connection: Connection, id: UUID, origin: str) -> int:
    """Makes it another deployment: a new id and a new epoch of the log, which is returned."""
    await connection.execute(SET_ORIGIN, id, origin)
    epoch: int = await connection.fetchval(NEW_EPOCH, LOG)
    return epoch


async def update_origin(connection: Connection, origin: str) -> None:
    await connection.execute(FILL_ORIGIN, origin)


async def update_fingerprint(connection: Connection, key_fingerprint: str) -> None:
    await connection.execute(SET_FINGERPRINT, key_fingerprint)
