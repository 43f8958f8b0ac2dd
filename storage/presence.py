"""Who may see whose presence, and when users were last seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from domain.ids import TenantId, UserId
from storage.database import Connection
from storage.visibility import user_visible

READ_SHOWN = f"""
SELECT p.n, u.last_seen_at
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) WITH ORDINALITY AS p (tenant, viewer, id, n)
JOIN users u ON u.tenant_id = p.tenant AND u.id = p.id
WHERE {user_visible("p.viewer")}
    AND (u.id = p.viewer OR (u.settings -> 'presence') IS DISTINCT FROM 'false'::jsonb)
"""

# By id alone: ids are unique across tenants. Rows that somebody else holds are skipped, so no order of locks is needed;
# the caller sees that they are missing.
STORE_SEEN = """
UPDATE users u SET last_seen_at = greatest(u.last_seen_at, l.at)
FROM (
    SELECT u.tenant_id, u.id, k.at FROM unnest($1::uuid[], $2::timestamptz[]) AS k (id, at)
    JOIN users u ON u.id = k.id
    WHERE u.deleted_at IS NULL
    FOR NO KEY UPDATE OF u SKIP LOCKED
) l
WHERE u.tenant_id = l.tenant_id AND u.id = l.id
RETURNING u.id
"""


@dataclass(frozen=True, slots=True)
class Look:
    """Somebody who looks whether somebody else is online."""

    tenant: TenantId
    viewer: UserId
    user: UserId


async def read_shown(connection: Connection, looks: Sequence[Look]) -> dict[Look, datetime | None]:
    """The looks that may see anything, with when the user was last seen as far as that is stored. One statement."""
    rows = await connection.fetch(
        READ_SHOWN, [k.tenant for k in looks], [k.viewer for k in looks], [k.user for k in looks]
    )
    return {looks[row["n"] - 1]: row["last_seen_at"] for row in rows}


async def store_seen(connection: Connection, seen: Mapping[UserId, float]) -> frozenset[UserId]:
    """Moves forward when users were last seen (seconds since the epoch). Returns those whose row could be had."""
    at = [datetime.fromtimestamp(moment, UTC) for moment in seen.values()]
    rows = await connection.fetch(STORE_SEEN, list(seen), at)
    return frozenset(UserId(row["id"]) for row in rows)
