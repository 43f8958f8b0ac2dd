"""Who is asking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from domain.ids import SessionId, TenantId, UserId


class Permission(IntFlag):
    """What an account may do beyond its own things. The bits are stored; never reuse one."""

    NONE = 0
    MODERATE_USERS = 1
    ADMINISTER = 1 << 1


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified caller: signed in, not revoked and not suspended when this was made."""

    tenant: TenantId
    user: UserId
    session: SessionId
    permissions: Permission
    expires_at: float
    """When the credential ends, in seconds since the epoch."""
