"""Accounts as stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

import asyncpg
import orjson

from domain.identity import Permission
from domain.ids import TenantId, UserId
from storage.database import Connection
from storage.visibility import user_visible

PROFILE_COLUMNS = (
    "u.tenant_id, u.id, u.username, u.email, u.display_name, u.bio, u.interests, u.settings, u.permissions, "
    "u.follower_count, u.following_count, u.post_count, u.suspended_at, u.deleted_at, u.created_at"
)
"""What :func:`user_row` needs of ``users u``."""

INSERT_USER = f"""
INSERT INTO users AS u (tenant_id, id, username, email, password_hash, display_name, permissions)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING
RETURNING {PROFILE_COLUMNS}
"""

FIND_TAKEN = """
SELECT EXISTS (SELECT 1 FROM users WHERE tenant_id = $1 AND username = $2 AND deleted_at IS NULL) AS username,
       EXISTS (SELECT 1 FROM users WHERE tenant_id = $1 AND lower(email) = lower($3) AND deleted_at IS NULL) AS email
"""

FIND_USER_BY_ID = (
    f"SELECT {PROFILE_COLUMNS} FROM users u WHERE u.tenant_id = $1 AND u.id = $2 AND u.deleted_at IS NULL"
)
FIND_USER_BY_NAME = f"""
SELECT {PROFILE_COLUMNS} FROM users u WHERE u.tenant_id = $1 AND u.username = $2 AND u.deleted_at IS NULL
"""

# LIMIT 1 keeps each name at one probe of an index, also before the table has statistics.
FIND_VISIBLE = f"""
SELECT n.n, {PROFILE_COLUMNS}
FROM unnest($3::uuid[], $4::text[]) WITH ORDINALITY AS n (id, username, n)
CROSS JOIN LATERAL (
    (SELECT * FROM users a WHERE a.tenant_id = $1 AND a.id = n.id LIMIT 1)
    UNION ALL
    (SELECT * FROM users a WHERE a.tenant_id = $1 AND a.username = n.username AND a.deleted_at IS NULL LIMIT 1)
) u
WHERE {user_visible("$2")}
"""

_CREDENTIALS = f"SELECT {PROFILE_COLUMNS}, u.password_hash FROM users u"
FIND_BY_USERNAME = f"{_CREDENTIALS} WHERE u.tenant_id = $1 AND u.username = $2 AND u.deleted_at IS NULL"
FIND_BY_EMAIL = (
    f"{_CREDENTIALS} WHERE u.tenant_id = $1 AND lower(u.email) = lower($2) AND u.deleted_at IS NULL"
)
FIND_BY_ID = f"{_CREDENTIALS} WHERE u.tenant_id = $1 AND u.id = $2 AND u.deleted_at IS NULL"
LOCK_USER = f"{FIND_BY_ID} FOR NO KEY UPDATE"

LIST_USERS = f"""
SELECT {PROFILE_COLUMNS} FROM users u
WHERE u.tenant_id = $1 AND u.id < coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    AND u.suspended_at IS NULL AND {user_visible("$2")}
ORDER BY u.id DESC LIMIT $4
"""

UPDATE_PROFILE = f"""
UPDATE users u SET
    display_name = coalesce($3, u.display_name),
    bio = coalesce($4, u.bio),
    interests = coalesce($5::text[], u.interests),
    settings = u.settings || $6::jsonb,
    updated_at = now()
WHERE u.tenant_id = $1 AND u.id = $2 AND u.deleted_at IS NULL
RETURNING {PROFILE_COLUMNS}
"""

REPLACE_HASH = "UPDATE users SET password_hash = $3, updated_at = now() WHERE tenant_id = $1 AND id = $2"

SET_SUSPENDED = """
UPDATE users SET suspended_at = CASE WHEN $3 THEN coalesce(suspended_at, now()) END, updated_at = now()
WHERE tenant_id = $1 AND id = $2
"""

# A hyphen cannot be in a username, so nobody can take this one or be mistaken for it.
ANONYMISE = """
UPDATE users SET username = 'deleted-' || right(id::text, 12), email = '', password_hash = '!',
    display_name = 'Deleted user', bio = '', avatar_media_id = NULL, interests = '{}', settings = '{}',
    permissions = 0, last_seen_at = NULL, deleted_at = now(), updated_at = now()
WHERE tenant_id = $1 AND id = $2
"""

CHECK_VISIBLE = f"""
SELECT u.id FROM unnest($3::uuid[]) AS k (id)
CROSS JOIN LATERAL (SELECT * FROM users a WHERE a.tenant_id = $1 AND a.id = k.id LIMIT 1) u
WHERE {user_visible("$2")}
"""


class Taken(Enum):
    """Why an account cannot be made."""

    USERNAME = "username"
    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class UserRow:
    """An account without its secrets."""

    tenant: TenantId
    id: UserId
    username: str
    email: str
    display_name: str
    bio: str
    interests: tuple[str, ...]
    settings: Mapping[str, object]
    permissions: Permission
    follower_count: int
    following_count: int
    post_count: int
    suspended_at: datetime | None
    deleted_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Credentials:
    """An account with the hash its password is checked against."""

    user: UserRow
    password_hash: str


Name = UserId | str
"""What a user is named by: an id, or a username in lower case."""

T = TypeVar("T")


def user_row(row: asyncpg.Record) -> UserRow:
    """A row of :data:`PROFILE_COLUMNS`."""
    return UserRow(
        tenant=TenantId(row["tenant_id"]),
        id=UserId(row["id"]),
        username=row["username"],
        email=row["email"],
        display_name=row["display_name"],
        bio=row["bio"],
        interests=tuple(row["interests"]),
        settings=orjson.loads(row["settings"]),
        permissions=Permission(row["permissions"]),
        follower_count=row["follower_count"],
        following_count=row["following_count"],
        post_count=row["post_count"],
        suspended_at=row["suspended_at"],
        deleted_at=row["deleted_at"],
        created_at=row["created_at"],
    )


def _credentials(row: asyncpg.Record | None) -> Credentials | None:
    return None if row is None else Credentials(user_row(row), row["password_hash"])


def _split(names: Sequence[Name]) -> tuple[list[Any], list[Any]]:
    ids = [None if isinstance(name, str) else name for name in names]
    return ids, [name if isinstance(name, str) else None for name in names]


async def insert_user(
    connection: Connection,
    tenant: TenantId,
    id: UserId,
    *,
    username: str,
    email: str,
    password_hash: str,
    display_name: str,
    permissions: Permission,
) -> UserRow | Taken:
    """Stores a new account; or says what is taken, also by an account that commits at the same time."""
    row = await connection.fetchrow(
        INSERT_USER, tenant, id, username, email, password_hash, display_name, int(permissions)
    )
    if row is not None:
        return user_row(row)
    # The conflict is with a row that has committed, but it may be gone again: then any of the two is an answer.
    return await find_taken(connection, tenant, username, email) or Taken.USERNAME


async def find_taken(connection: Connection, tenant: TenantId, username: str, email: str) -> Taken | None:
    """Which of the two an account holds already; the username where both."""
    row = await connection.fetchrow(FIND_TAKEN, tenant, username, email)
    assert row is not None
    return Taken.USERNAME if row["username"] else Taken.EMAIL if row["email"] else None


async def find_user(connection: Connection, tenant: TenantId, name: Name) -> UserRow | None:
    """An account that is not deleted, whoever asks."""
    find = FIND_USER_BY_NAME if isinstance(name, str) else FIND_USER_BY_ID
    row = await connection.fetchrow(find, tenant, name)
    return None if row is None else user_row(row)


async def find_visible(
    connection: Connection, tenant: TenantId, viewer: UserId, names: Sequence[Name]
) -> list[UserRow | None]:
    """The accounts so named, in that order; None for each that ``viewer`` may not see. One statement."""
    rows = await connection.fetch(FIND_VISIBLE, tenant, viewer, *_split(names))
    found: list[UserRow | None] = [None] * len(names)
    for row in rows:
        found[row["n"] - 1] = user_row(row)
    return found


async def check_visible(
    connection: Connection, tenant: TenantId, viewer: UserId, users: Sequence[UserId]
) -> frozenset[UserId]:
    """Those of ``users`` that ``viewer`` may see. One statement."""
    rows = await connection.fetch(CHECK_VISIBLE, tenant, viewer, list(users))
    return frozenset(UserId(row["id"]) for row in rows)


async def find_by_username(connection: Connection, tenant: TenantId, username: str) -> Credentials | None:
    """What a sign-in by username is checked against."""
    return _credentials(await connection.fetchrow(FIND_BY_USERNAME, tenant, username))


async def find_by_email(connection: Connection, tenant: TenantId, email: str) -> Credentials | None:
    """What a sign-in by email, without case, is checked against."""
    return _credentials(await connection.fetchrow(FIND_BY_EMAIL, tenant, email))


async def find_by_id(connection: Connection, tenant: TenantId, user: UserId) -> Credentials | None:
    """What somebody who is signed in and asked for their password is checked against."""
    return _credentials(await connection.fetchrow(FIND_BY_ID, tenant, user))


async def lock_user(connection: Connection, tenant: TenantId, user: UserId) -> Credentials | None:
    """An account, locked against everything else that changes its sign-ins; None where it is deleted."""
    return _credentials(await connection.fetchrow(LOCK_USER, tenant, user))


async def list_users(
    connection: Connection, tenant: TenantId, viewer: UserId, *, before: UserId | None, limit: int
) -> list[UserRow]:
    """Accounts that ``viewer`` may see and that are not suspended, newest first, with an id below ``before``."""
    return [user_row(row) for row in await connection.fetch(LIST_USERS, tenant, viewer, before, limit)]


async def update_profile(
    connection: Connection,
    tenant: TenantId,
    user: UserId,
    *,
    display_name: str | None,
    bio: str | None,
    interests: Sequence[str] | None,
    settings: Mapping[str, object],
) -> UserRow | None:
    """Changes what is not None, and the settings named; the account as it is then, None where it is deleted."""
    row = await connection.fetchrow(
        UPDATE_PROFILE,
        tenant,
        user,
        display_name,
        bio,
        None if interests is None else list(interests),
        orjson.dumps(dict(settings)).decode(),
    )
    return None if row is None else user_row(row)


async def update_password(connection: Connection, tenant: TenantId, user: UserId, password_hash: str) -> None:
    await connection.execute(REPLACE_HASH, tenant, user, password_hash)


async def set_suspended(connection: Connection, tenant: TenantId, user: UserId, suspended: bool) -> None:
    """Suspends an account or ends its suspension; the time of the first suspension stays."""
    await connection.execute(SET_SUSPENDED, tenant, user, suspended)


async def anonymise(connection: Connection, tenant: TenantId, user: UserId) -> None:
    """Empties an account of what is personal and frees its username and email. The row stays, for what refers to it."""
    await connection.execute(ANONYMISE, tenant, user)
