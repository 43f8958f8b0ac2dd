"""Realtime tickets as stored: digests, each deleted by its only use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domain.ids import SessionId, TenantId, UserId
from storage.database import Connection

INSERT_TICKETS = """
INSERT INTO realtime_tickets (digest, tenant_id, user_id, session_id, expires_at, access_expires_at)
SELECT d, t, u, s, now() + make_interval(secs => $6), to_timestamp(a)
FROM unnest($1::bytea[], $2::uuid[], $3::uuid[], $4::uuid[], $5::float8[]) AS k (d, t, u, s, a)
"""

TAKE_TICKETS = """
DELETE FROM realtime_tickets WHERE digest = ANY($1::bytea[])
RETURNING digest, tenant_id, user_id, session_id, expires_at > now() AS good,
    extract(epoch FROM access_expires_at)::float8 AS access_expires_at
"""

PURGE_TICKETS = "DELETE FROM realtime_tickets WHERE expires_at < now()"


@dataclass(frozen=True, slots=True)
class TicketRow:
    """Who a ticket was given to. ``access_expires_at``: when the access token that asked for it ends."""

    digest: bytes
    tenant: TenantId
    user: UserId
    session: SessionId
    access_expires_at: float


async def insert_tickets(connection: Connection, tickets: Sequence[TicketRow], seconds: float) -> None:
    """Stores tickets, each good for ``seconds`` from now."""
    await connection.execute(
        INSERT_TICKETS,
        [t.digest for t in tickets],
        [t.tenant for t in tickets],
        [t.user for t in tickets],
        [t.session for t in tickets],
        [t.access_expires_at for t in tickets],
        float(seconds),
    )


async def take_tickets(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, TicketRow]:
    """Spends tickets: each is given to one caller, once, whichever instance asks. Those out of time are not given."""
    rows = await connection.fetch(TAKE_TICKETS, list(digests))
    return {
        row["digest"]: TicketRow(
            row["digest"],
            TenantId(row["tenant_id"]),
            UserId(row["user_id"]),
            SessionId(row["session_id"]),
            row["access_expires_at"],
        )
        for row in rows
        if row["good"]
    }


async def delete_expired(connection: Connection) -> None:
    """Deletes the tickets that were never used."""
    await connection.execute(PURGE_TICKETS)
