"""Sign-ins and their refresh tokens as stored. A sign-in is one family of refresh tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from domain.identity import Permission
from domain.ids import SessionId, TenantId, UserId
from storage.database import Connection

INSERT_SESSION = """
WITH signed_in AS (
    INSERT INTO auth_sessions (tenant_id, id, user_id, user_agent, ip, expires_at)
    VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $7))
    RETURNING tenant_id, id
)
INSERT INTO refresh_tokens (digest, tenant_id, session_id, generation) SELECT $6, tenant_id, id, 0 FROM signed_in
"""

# Statements of their own: what the second reads may have been written while the first waited for its lock.
LOCK_FOR_REFRESH = """
SELECT s.id FROM refresh_tokens t
CROSS JOIN LATERAL (
    SELECT a.id FROM auth_sessions a WHERE a.tenant_id = t.tenant_id AND a.id = t.session_id LIMIT 1 FOR NO KEY UPDATE
) s
WHERE t.digest = $2 AND t.tenant_id = $1
"""
READ_FOR_REFRESH = """
SELECT s.id, s.user_id, s.expires_at <= clock_timestamp() AS expired,
    s.revoked_at IS NOT NULL OR u.suspended_at IS NOT NULL OR u.deleted_at IS NOT NULL AS revoked,
    extract(epoch FROM clock_timestamp() - t.superseded_at)::float8 AS superseded_for
FROM refresh_tokens t
CROSS JOIN LATERAL (SELECT * FROM auth_sessions a WHERE a.tenant_id = t.tenant_id AND a.id = t.session_id LIMIT 1) s
CROSS JOIN LATERAL (SELECT * FROM users a WHERE a.tenant_id = s.tenant_id AND a.id = s.user_id LIMIT 1) u
WHERE t.digest = $2 AND t.tenant_id = $1
"""

# A new generation: all tokens there were are superseded from now on, unless they were already.
ROTATE = """
WITH moved AS (
    UPDATE auth_sessions SET generation = generation + 1, last_seen_at = now(), user_agent = $4, ip = $5,
        expires_at = now() + make_interval(secs => $6)
    WHERE tenant_id = $1 AND id = $2 RETURNING generation
), superseded AS (
    UPDATE refresh_tokens SET superseded_at = clock_timestamp()
    WHERE tenant_id = $1 AND session_id = $2 AND superseded_at IS NULL
), forgotten AS (
    DELETE FROM refresh_tokens
    WHERE tenant_id = $1 AND session_id = $2 AND superseded_at < now() - make_interval(secs => $6)
)
INSERT INTO refresh_tokens (digest, tenant_id, session_id, generation) SELECT $3, $1, $2, generation FROM moved
"""

# One more token of the present generation: the answer that held the other one may have been lost.
REPEAT = """
WITH moved AS (
    UPDATE auth_sessions SET last_seen_at = now(), user_agent = $4, ip = $5,
        expires_at = now() + make_interval(secs => $6)
    WHERE tenant_id = $1 AND id = $2 RETURNING generation
)
INSERT INTO refresh_tokens (digest, tenant_id, session_id, generation) SELECT $3, $1, $2, generation FROM moved
"""

REVOKE = """
UPDATE auth_sessions SET revoked_at = now(), revoke_reason = $3
WHERE tenant_id = $1 AND user_id = $2 AND revoked_at IS NULL AND expires_at > now()
    AND ($4::uuid IS NULL OR id = $4)
RETURNING id
"""

# LIMIT 1 keeps it at one probe of a primary key each. As plain joins, and before the tables have statistics, each of
# 5,000 sign-ins read the tenant's whole index: over 10 s.
LOAD_ALIVE = """
SELECT s.tenant_id, s.id, s.user_id, s.expires_at, u.permissions
FROM unnest($1::uuid[], $2::uuid[]) AS k (tenant, id)
CROSS JOIN LATERAL (SELECT * FROM auth_sessions a WHERE a.tenant_id = k.tenant AND a.id = k.id LIMIT 1) s
CROSS JOIN LATERAL (SELECT * FROM users a WHERE a.tenant_id = s.tenant_id AND a.id = s.user_id LIMIT 1) u
WHERE s.revoked_at IS NULL AND s.expires_at > now() AND u.suspended_at IS NULL AND u.deleted_at IS NULL
"""

LIST_SESSIONS = """
SELECT id, created_at, last_seen_at, user_agent, ip FROM auth_sessions
WHERE tenant_id = $1 AND user_id = $2 AND revoked_at IS NULL AND expires_at > now()
    AND id < coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY id DESC LIMIT $4
"""

# Rows that somebody else holds are skipped: the next time will do, and no order of locks is needed.
TOUCH = """
UPDATE auth_sessions s SET last_seen_at = greatest(s.last_seen_at, l.at)
FROM (
    SELECT a.place, k.at FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS k (tenant, id, at)
    CROSS JOIN LATERAL (
        SELECT a.ctid AS place FROM auth_sessions a WHERE a.tenant_id = k.tenant AND a.id = k.id
        LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
    ) a
) l
WHERE s.ctid = l.place
"""

PURGE = """
DELETE FROM auth_sessions WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM auth_sessions
    WHERE least(expires_at, revoked_at) < now() - make_interval(secs => $1)
    ORDER BY least(expires_at, revoked_at) LIMIT $2 FOR UPDATE SKIP LOCKED
))
"""


Key = tuple[TenantId, SessionId]
"""What a sign-in is looked up by."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A sign-in as its owner sees it."""

    id: SessionId
    created_at: datetime
    last_seen_at: datetime
    user_agent: str
    ip: str


@dataclass(frozen=True, slots=True)
class AliveRow:
    """A sign-in that is not revoked or over, of an account that is not suspended or deleted."""

    tenant: TenantId
    id: SessionId
    user: UserId
    permissions: Permission
    expires_at: float
    """Seconds since the epoch; each refresh moves it on."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A refresh token and the sign-in it belongs to."""

    session: SessionId
    user: UserId
    revoked: bool
    expired: bool
    superseded_for: float | None
    """Seconds since a token of its generation was first used; None: it is the present one."""


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])


def _alive(row: asyncpg.Record) -> AliveRow:
    return AliveRow(
        TenantId(row["tenant_id"]),
        SessionId(row["id"]),
        UserId(row["user_id"]),
        Permission(row["permissions"]),
        row["expires_at"].timestamp(),
    )


async def insert_session(
    connection: Connection,
    tenant: TenantId,
    session: SessionId,
    user: UserId,
    *,
    user_agent: str,
    ip: str,
    digest: bytes,
    seconds: float,
) -> None:
    """Stores a sign-in and its first refresh token, good for ``seconds``."""
    await connection.execute(INSERT_SESSION, tenant, session, user, user_agent, ip, digest, seconds)


async def lock_token(connection: Connection, tenant: TenantId, digest: bytes) -> TokenRow | None:
    """A refresh token, its sign-in locked so that two uses of it come one after the other; None where unknown."""
    if await connection.fetchval(LOCK_FOR_REFRESH, tenant, digest) is None:
        return None
    row = await connection.fetchrow(READ_FOR_REFRESH, tenant, digest)
    if row is None:
        return None
    return TokenRow(
        SessionId(row["id"]), UserId(row["user_id"]), row["revoked"], row["expired"], row["superseded_for"]
    )


async def insert_token(
    connection: Connection,
    tenant: TenantId,
    session: SessionId,
    digest: bytes,
    *,
    rotate: bool,
    user_agent: str,
    ip: str,
    seconds: float,
) -> None:
    """Stores a new refresh token of a locked sign-in, whose life is moved on to ``seconds`` from now.

    With ``rotate`` it starts a new generation and supersedes all others; without, it joins the present one.
    """
    await connection.execute(
        ROTATE if rotate else REPEAT, tenant, session, digest, user_agent, ip, float(seconds)
    )


async def revoke(
    connection: Connection, tenant: TenantId, user: UserId, reason: str, session: SessionId | None
) -> list[SessionId]:
    """Ends one sign-in of a user, or all; the ones that this ended. The user's row is locked by the caller."""
    return [SessionId(row["id"]) for row in await connection.fetch(REVOKE, tenant, user, reason, session)]


async def load_alive(connection: Connection, sessions: Sequence[Key]) -> dict[Key, AliveRow]:
    """Those of the sign-ins that are good now. One statement for any number of them."""
    rows = await connection.fetch(LOAD_ALIVE, [t for t, _ in sessions], [s for _, s in sessions])
    return {(row.tenant, row.id): row for row in map(_alive, rows)}


async def list_sessions(
    connection: Connection, tenant: TenantId, user: UserId, *, before: UUID | None, limit: int
) -> list[SessionRow]:
    """A user's live sign-ins, newest first, with an id below ``before``."""
    rows = await connection.fetch(LIST_SESSIONS, tenant, user, before, limit)
    return [SessionRow(**dict(row)) for row in rows]


async def touch(connection: Connection, seen: Mapping[Key, datetime]) -> None:
    """Notes when sign-ins were last used. Waits for no lock: a row that is busy keeps its time."""
    await connection.execute(TOUCH, [t for t, _ in seen], [s for _, s in seen], list(seen.values()))


async def delete_dead(connection: Connection, *, older_than_seconds: float, limit: int) -> int:
    """Deletes sign-ins that ended that long ago, with their tokens; how many."""
    return _count(await connection.execute(PURGE, older_than_seconds, limit))
