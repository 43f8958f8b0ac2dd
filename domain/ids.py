"""Identifiers. Each entity has its own type, so that mypy refuses a user id where a conversation id belongs."""

from __future__ import annotations

from typing import NewType
from uuid import UUID

import uuid_utils

TenantId = NewType("TenantId", UUID)
UserId = NewType("UserId", UUID)
SessionId = NewType("SessionId", UUID)
"""A sign-in (one refresh-token family), not a connection."""
ConversationId = NewType("ConversationId", UUID)
MessageId = NewType("MessageId", UUID)
ClientId = NewType("ClientId", UUID)
"""The id an author chose for a message: unique per author for ever, so a retry is recognised."""

DEFAULT_TENANT = TenantId(UUID("00000000-0000-7000-8000-000000000000"))


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): unique, and ordered by creation time to the millisecond."""
    return UUID(int=uuid_utils.uuid7().int)


def new_id_text() -> str:
    """The same as text, made without the detour by an object: on the path of every message."""
    return str(uuid_utils.uuid7())


def parse_id(text: str) -> UUID | None:
    """The id in its canonical text form (any case), or None. Braces, URNs and bare hex are not ids."""
    if len(text) != 36:
        return None
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text.lower() else None
