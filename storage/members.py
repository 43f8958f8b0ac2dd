"""Members of conversations as stored: who is in, in which role, since when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.ids import ConversationId, TenantId, UserId
from domain.resources import Role
from storage.database import Connection

UNPLACED = 2**63 - 1
"""``joined_position`` until the event of joining has its position: behind every member who has one."""

PROFILE = (
    "u.id, u.username, u.display_name, u.bio, u.created_at, u.follower_count, u.following_count, u.post_count"
)
"""What :func:`member_row` needs of ``users u``, before the member's ``role``, ``joined_at`` and ``joined_position``."""

MEMBER = f"{PROFILE}, m.role, m.joined_at, m.joined_position"

# A row that is there is that of someone who left: joining again starts over.
ADD = f"""
WITH added AS (
    INSERT INTO conversation_members AS m (tenant_id, conversation_id, user_id, role, joined_position, joined_seq,
        read_seq, delivered_seq, read_announced_seq, delivered_announced_seq)
    SELECT c.tenant_id, c.id, u.id, u.role, {UNPLACED}, c.last_seq, c.last_seq, c.last_seq, c.last_seq, c.last_seq
    FROM conversations c, unnest($3::uuid[], $4::text[]) AS u (id, role)
    WHERE c.tenant_id = $1 AND c.id = $2
    ON CONFLICT (tenant_id, conversation_id, user_id) DO UPDATE SET
        role = excluded.role, joined_at = now(), joined_position = excluded.joined_position,
        joined_seq = excluded.joined_seq, left_at = NULL, read_seq = excluded.read_seq,
        delivered_seq = excluded.delivered_seq, read_announced_seq = excluded.read_announced_seq,
        delivered_announced_seq = excluded.delivered_announced_seq, muted_until = NULL, pinned = false
    WHERE m.left_at IS NOT NULL
    RETURNING 1
)
UPDATE conversations SET member_count = member_count + (SELECT count(*) FROM added), updated_at = now()
WHERE tenant_id = $1 AND id = $2
"""

# Waits for somebody who deletes their account, and holds off who would: they leave the groups they know of first.
HOLD_USERS = """
SELECT id FROM users WHERE tenant_id = $1 AND id = ANY($2::uuid[]) AND deleted_at IS NULL ORDER BY id FOR SHARE
"""

FIND_PRESENT = """
SELECT user_id FROM conversation_members
WHERE tenant_id = $1 AND conversation_id = $2 AND user_id = ANY($3::uuid[]) AND left_at IS NULL
"""

PLACE = """
WITH placed AS (
    SELECT * FROM unnest($3::uuid[], $4::bigint[]) AS p (user_id, position)
), moved AS (
    UPDATE conversation_members m SET joined_position = p.position FROM placed p
    WHERE m.tenant_id = $1 AND m.conversation_id = $2 AND m.user_id = p.user_id
)
INSERT INTO membership_windows (tenant_id, conversation_id, user_id, opens)
SELECT $1, $2, user_id, position FROM placed
"""

REMOVE = """
WITH gone AS (
    UPDATE conversation_members SET left_at = now()
    WHERE tenant_id = $1 AND conversation_id = $2 AND user_id = $3 AND left_at IS NULL
), untold AS (
    DELETE FROM receipts_owed WHERE tenant_id = $1 AND conversation_id = $2 AND user_id = $3
)
UPDATE conversations SET member_count = member_count - 1, updated_at = now() WHERE tenant_id = $1 AND id = $2
"""

IS_IN_GROUP = """
SELECT EXISTS (
    SELECT 1 FROM conversation_members m
    JOIN conversations c ON c.tenant_id = m.tenant_id AND c.id = m.conversation_id
    WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.left_at IS NULL AND c.kind = 'group')
"""

REMOVE_FROM = """
WITH gone AS (
    UPDATE conversation_members SET left_at = now()
    WHERE tenant_id = $1 AND user_id = $2 AND conversation_id = ANY($3::uuid[]) AND left_at IS NULL
    RETURNING conversation_id, role
), untold AS (
    DELETE FROM receipts_owed WHERE tenant_id = $1 AND user_id = $2 AND conversation_id = ANY($3::uuid[])
), counted AS (
    UPDATE conversations c SET member_count = c.member_count - 1, updated_at = now()
    FROM gone WHERE c.tenant_id = $1 AND c.id = gone.conversation_id
)
SELECT conversation_id, role FROM gone ORDER BY conversation_id
"""

CLOSE_WINDOWS = """
UPDATE membership_windows w SET closes = p.position
FROM unnest($3::uuid[], $4::bigint[]) AS p (conversation_id, position)
WHERE w.tenant_id = $1 AND w.user_id = $2 AND w.conversation_id = p.conversation_id AND w.closes IS NULL
"""

UPDATE_ROLE = """
UPDATE conversation_members SET role = $4 WHERE tenant_id = $1 AND conversation_id = $2 AND user_id = $3
"""

UPDATE_OWN = """
UPDATE conversation_members SET pinned = coalesce($4, pinned),
    muted_until = CASE WHEN $5 THEN $6 ELSE muted_until END
WHERE tenant_id = $1 AND conversation_id = $2 AND user_id = $3 AND left_at IS NULL
"""

FIND = f"""
SELECT {MEMBER} FROM conversation_members m
JOIN users u ON u.tenant_id = m.tenant_id AND u.id = m.user_id
WHERE m.tenant_id = $1 AND m.conversation_id = $2 AND m.left_at IS NULL
    AND (u.id = $3 OR (u.username = $4 AND u.deleted_at IS NULL))
"""


def _senior(columns: str, conversation: str) -> str:
    """Who ranks first in ``conversation``, other than $3."""
    return f"""
SELECT {columns} FROM conversation_members m
JOIN users u ON u.tenant_id = m.tenant_id AND u.id = m.user_id
WHERE m.tenant_id = $1 AND m.conversation_id = {conversation} AND m.left_at IS NULL AND m.user_id <> $3
ORDER BY m.role = 'owner' DESC, m.role = 'admin' DESC, u.deleted_at IS NOT NULL, m.joined_position, m.user_id LIMIT 1
"""


FIND_SENIOR = _senior(MEMBER, "$2")

PROMOTE_HEIRS = f"""
WITH heirs AS (
    SELECT g.id AS conversation_id, s.user_id FROM unnest($2::uuid[]) AS g (id)
    CROSS JOIN LATERAL ({_senior("m.user_id, m.role", "g.id")}) s WHERE s.role <> 'owner'
), promoted AS (
    UPDATE conversation_members m SET role = 'owner' FROM heirs h
    WHERE m.tenant_id = $1 AND m.conversation_id = h.conversation_id AND m.user_id = h.user_id
)
SELECT h.conversation_id, {PROFILE} FROM heirs h JOIN users u ON u.tenant_id = $1 AND u.id = h.user_id
"""

LIST = f"""
SELECT s.snapshot, p.* FROM (
    SELECT coalesce($4, (SELECT position FROM log_heads WHERE log = 0)) AS snapshot FROM conversation_members
    WHERE tenant_id = $1 AND conversation_id = $2 AND user_id = $3 AND left_at IS NULL
) s
LEFT JOIN LATERAL (
    SELECT {MEMBER} FROM conversation_members m
    JOIN users u ON u.tenant_id = m.tenant_id AND u.id = m.user_id
    WHERE m.tenant_id = $1 AND m.conversation_id = $2 AND m.left_at IS NULL AND m.joined_position <= s.snapshot
        AND (m.joined_position, m.user_id) > ($5::bigint, $6::uuid)
    ORDER BY m.joined_position, m.user_id LIMIT $7
) p ON true
ORDER BY p.joined_position, p.id
"""

_FIRST = (-1, UUID(int=0))


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """The public part of an account."""

    id: UserId
    username: str
    display_name: str
    bio: str
    created_at: datetime
    follower_count: int
    following_count: int
    post_count: int


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A member who has not left."""

    user: ProfileRow
    role: Role
    joined_at: datetime
    joined_position: int


@dataclass(frozen=True, slots=True)
class MembersPlace:
    """Where a page of members ended, in a list of those who were in when the log was at ``snapshot``."""

    snapshot: int
    joined_position: int
    user: UUID


def member_row(values: Sequence[Any]) -> MemberRow:
    """A row of :data:`MEMBER`."""
    *profile, role, joined_at, joined_position = values
    return MemberRow(ProfileRow(*profile), role, joined_at, joined_position)


async def add(
    connection: Connection,
    tenant: TenantId,
    conversation: ConversationId,
    roles: Sequence[tuple[UserId, Role]],
) -> None:
    """Takes in users who are not in; :func:`place` or :func:`storage.conversations.place` finishes it.

    What was said before counts as read and as delivered to them.
    """
    await connection.execute(ADD, tenant, conversation, [u for u, _ in roles], [r for _, r in roles])


async def hold_users(connection: Connection, tenant: TenantId, users: Sequence[UserId]) -> frozenset[UserId]:
    """Those of ``users`` whose account is there, and stays until this transaction ends."""
    rows = await connection.fetch(HOLD_USERS, tenant, list(users))
    return frozenset(UserId(row["id"]) for row in rows)


async def find_present(
    connection: Connection, tenant: TenantId, conversation: ConversationId, users: Sequence[UserId]
) -> frozenset[UserId]:
    """Those of ``users`` who are members."""
    rows = await connection.fetch(FIND_PRESENT, tenant, conversation, list(users))
    return frozenset(UserId(row["user_id"]) for row in rows)


async def place(
    connection: Connection,
    tenant: TenantId,
    conversation: ConversationId,
    positions: Sequence[tuple[UserId, int]],
) -> None:
    """Gives new members, and what they may read, the place of their joining in the log."""
    await connection.execute(
        PLACE, tenant, conversation, [u for u, _ in positions], [p for _, p in positions]
    )


async def remove(
    connection: Connection, tenant: TenantId, conversation: ConversationId, user: UserId
) -> None:
    """Takes out a member. What they may read stays open until :func:`storage.log.close_windows`."""
    await connection.execute(REMOVE, tenant, conversation, user)


async def is_in_group(connection: Connection, tenant: TenantId, user: UserId) -> bool:
    return bool(await connection.fetchval(IS_IN_GROUP, tenant, user))


async def remove_from(
    connection: Connection, tenant: TenantId, user: UserId, groups: Sequence[ConversationId]
) -> dict[ConversationId, Role]:
    """Takes a user out of those of the groups they are in, and gives their role in each.

    :func:`close_windows` follows.
    """
    rows = await connection.fetch(REMOVE_FROM, tenant, user, list(groups))
    return {ConversationId(row["conversation_id"]): row["role"] for row in rows}


async def promote_heirs(
    connection: Connection, tenant: TenantId, user: UserId, groups: Sequence[ConversationId]
) -> dict[ConversationId, ProfileRow]:
    """Makes who ranks first after ``user`` an owner, in each of the groups without one; gives those it made."""
    if not groups:
        return {}
    rows = await connection.fetch(PROMOTE_HEIRS, tenant, list(groups), user)
    return {ConversationId(group): ProfileRow(*profile) for group, *profile in map(tuple, rows)}


async def close_windows(
    connection: Connection, tenant: TenantId, user: UserId, positions: Sequence[tuple[ConversationId, int]]
) -> None:
    """Ends a user's reading of each of these conversations after the position beside it."""
    await connection.execute(
        CLOSE_WINDOWS, tenant, user, [group for group, _ in positions], [p for _, p in positions]
    )


async def update_role(
    connection: Connection, tenant: TenantId, conversation: ConversationId, user: UserId, role: Role
) -> None:
    await connection.execute(UPDATE_ROLE, tenant, conversation, user, role)


async def update_own(
    connection: Connection,
    tenant: TenantId,
    conversation: ConversationId,
    user: UserId,
    *,
    pinned: bool | None,
    mute: bool,
    muted_until: datetime | None,
) -> None:
    """Changes what a member has set for themselves: ``pinned`` unless None, ``muted_until`` where ``mute``."""
    await connection.execute(UPDATE_OWN, tenant, conversation, user, pinned, mute, muted_until)


async def find(
    connection: Connection, tenant: TenantId, conversation: ConversationId, name: UserId | str
) -> MemberRow | None:
    """A member by id or by username in lower case."""
    by_id, by_name = (None, name) if isinstance(name, str) else (name, None)
    row = await connection.fetchrow(FIND, tenant, conversation, by_id, by_name)
    return None if row is None else member_row(tuple(row))


async def find_senior(
    connection: Connection, tenant: TenantId, conversation: ConversationId, but: UserId
) -> MemberRow | None:
    """The member, other than ``but``, who ranks first: owners, then admins, then the rest, the longest in first."""
    row = await connection.fetchrow(FIND_SENIOR, tenant, conversation, but)
    return None if row is None else member_row(tuple(row))


async def list_members(
    connection: Connection,
    tenant: TenantId,
    conversation: ConversationId,
    viewer: UserId,
    *,
    after: MembersPlace | None,
    limit: int,
) -> tuple[list[MemberRow], int] | None:
    """A page of members, the longest in first, and the snapshot it is part of. None where ``viewer`` is no member.

    Who joins after the snapshot is in no page of it, so a member who leaves and comes back is not listed twice.
    """
    snapshot = after.snapshot if after else None
    place = (after.joined_position, after.user) if after else _FIRST
    rows = await connection.fetch(LIST, tenant, conversation, viewer, snapshot, *place, limit)
    if not rows:
        return None
    return [member_row(tuple(row)[1:]) for row in rows if row["id"] is not None], rows[0]["snapshot"]
