"""Ending sign-ins: in PostgreSQL, and on every open connection through the log (I9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from domain.ids import SessionId, TenantId, UserId
from domain.log import Control, EventDraft, inbox
from realtime.events import SessionRevoked
from services.unit_of_work import Transaction
from storage import auth_sessions

Reason = Literal["logout", "session_deleted", "refresh_reused", "account_suspended", "account_deleted"]


@dataclass(frozen=True, slots=True)
class Revocation:
    """What has been revoked, and the events that tell of it: to be appended in the same transaction."""

    sessions: Sequence[SessionId]
    events: Sequence[EventDraft]


async def revoke_sessions(
    tx: Transaction, tenant: TenantId, user: UserId, reason: Reason, session: SessionId | None = None
) -> Revocation:
    """Ends one sign-in of a user, or all of them. What had ended before is left alone and not told again.

    The caller holds the lock on the user's row (``FOR NO KEY UPDATE``), so that no new sign-in slips past.
    """
    ended = await auth_sessions.revoke(tx.connection, tenant, user, reason, session)
    return Revocation(
        ended,
        [
            EventDraft(
                tenant,
                inbox(user),
                "session.revoked",
                SessionRevoked(session_id=one, reason=reason).model_dump_json().encode(),
                Control(revokes=(one,)),
            )
            for one in ended
        ],
    )
