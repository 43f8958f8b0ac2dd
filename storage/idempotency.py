"""Kept answers of idempotent requests, and the lease that says the first request still runs."""

from __future__ import annotations

from dataclasses import dataclass

from domain.ids import TenantId, UserId
from storage.database import Connection

KEPT = "interval '24 hours'"

INSERT_KEY = f"""
INSERT INTO idempotency_keys AS k (tenant_id, user_id, key, fingerprint) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, user_id, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, status = NULL, body = NULL, created_at = now()
    WHERE k.created_at <= now() - {KEPT}
RETURNING 1
"""

UPDATE_ANSWER = """
UPDATE idempotency_keys SET status = $4, body = $5 WHERE tenant_id = $1 AND user_id = $2 AND key = $3
"""

READ_ANSWER = f"""
SELECT fingerprint, status, body FROM idempotency_keys
WHERE tenant_id = $1 AND user_id = $2 AND key = $3 AND status IS NOT NULL AND created_at > now() - {KEPT}
"""

DELETE_EXPIRED = f"""
DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency_keys WHERE created_at <= now() - {KEPT} LIMIT $1 FOR UPDATE SKIP LOCKED))
"""


@dataclass(frozen=True, slots=True)
class KeptRow:
    fingerprint: bytes
    status: int
    body: bytes


async def insert_key(
    connection: Connection, tenant: TenantId, user: UserId, key: str, fingerprint: bytes
) -> bool:
    """Takes the key, or one past its time; False where an answer is kept under it. Waits for whoever is taking it."""
    return await connection.fetchval(INSERT_KEY, tenant, user, key, fingerprint) is not None


async def update_answer(
    connection: Connection, tenant: TenantId, user: UserId, key: str, status: int, body: bytes
) -> None:
    await connection.execute(UPDATE_ANSWER, tenant, user, key, status, body)


async def read_answer(connection: Connection, tenant: TenantId, user: UserId, key: str) -> KeptRow | None:
    """The kept answer, where one is and its time is not over."""
    row = await connection.fetchrow(READ_ANSWER, tenant, user, key)
    return None if row is None else KeptRow(row["fingerprint"], row["status"], row["body"])


async def delete_expired(connection: Connection, limit: int) -> int:
    """Deletes up to ``limit`` rows past their time; says how many."""
    return int((await connection.execute(DELETE_EXPIRED, limit)).rpartition(" ")[2])
