"""Kept answers of idempotent requests, and the lease that says the first request still runs."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

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


RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Leases:
    """Short holds in Redis. They save a second request from waiting; they protect nothing by themselves.

    While Redis is away every lease is granted, and it is asked again only every ``rest_seconds``, so that a frozen
    Redis costs a request its time limit once, not each time.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        prefix: str,
        seconds: float = 30.0,
        timeout: float = 0.5,
        rest_seconds: float = 1.0,
    ) -> None:
        self._redis = redis
        self._prefix = prefix
        self._milliseconds = int(seconds * 1000)
        self._timeout = timeout
        self._rest = rest_seconds
        self._away_until = 0.0

    async def take(self, tenant: TenantId, user: UserId, key: str) -> str | None:
        """A token to release with; "" where Redis is away; None where another request holds the key."""
        if time.monotonic() < self._away_until:
            return ""
        token = secrets.token_hex(8)
        try:
            async with asyncio.timeout(self._timeout):
                name = self._name(tenant, user, key)
                taken = await self._redis.set(name, token, nx=True, px=self._milliseconds)
        except (RedisError, OSError, TimeoutError):
            self._away_until = time.monotonic() + self._rest
            return ""
        return token if taken else None

    async def release(self, tenant: TenantId, user: UserId, key: str, token: str) -> None:
        """Gives a lease back, if it is still this one. Where Redis is away it ends by itself."""
        if not token or time.monotonic() < self._away_until:
            return
        try:
            async with asyncio.timeout(self._timeout):
                name = self._name(tenant, user, key)
                await cast("Awaitable[object]", self._redis.eval(RELEASE, 1, name, token))
        except (RedisError, OSError, TimeoutError):
            self._away_until = time.monotonic() + self._rest

    def _name(self, tenant: TenantId, user: UserId, key: str) -> str:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return f"{self._prefix}idempotency:{tenant}:{user}:{digest}"
