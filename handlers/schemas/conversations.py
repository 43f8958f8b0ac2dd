"""Bodies of conversations and their members."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from domain.resources import History, Role
from handlers.schemas.common import MAX_INT64, Body, Patch

MAX_NAMED = 1000
"""Users named in one call."""


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _storable(at: datetime) -> datetime:
    try:
        at = at.astimezone(UTC)
    except OverflowError:
        raise ValueError("is too far away") from None
    if at.year < 1970:
        raise ValueError("is too long ago")
    return at


Title = Annotated[str, AfterValidator(_not_blank), Field(min_length=1, max_length=200)]
Names = Annotated[
    list[Annotated[str, Field(max_length=100)]],
    Field(max_length=MAX_NAMED, description="Usernames or ids.", examples=[["bob"]]),
]


class ConversationCreate(Body):
    """A direct conversation has one other member and no title; a group has a title."""

    kind: Literal["direct", "group"]
    members: Names = Field(default_factory=list)
    title: Title | None = None
    history: History | None = Field(
        None, description="What new members may read: from `joined` on (the default), or `all`."
    )


class ConversationPatch(Body):
    """`title` and `history` are the group's; `muted_until` and `pinned` are one's own. What is left out stays."""

    title: Patch[Title] = None
    history: Patch[History] = None
    pinned: Patch[bool] = None
    muted_until: Annotated[AwareDatetime, AfterValidator(_storable)] | None = Field(
        None, description="Null ends the muting."
    )


class MembersAdd(Body):
    members: Names = Field(min_length=1)


class MemberPatch(Body):
    role: Role


class TypingMark(Body):
    """Nothing need be said. A `seq`, as receipts have, is taken and changes nothing."""

    seq: int | None = Field(None, ge=0, le=MAX_INT64)


class ReceiptMark(Body):
    """Everything up to `seq`; what is beyond the newest message counts as that one."""

    seq: int = Field(ge=0, le=MAX_INT64)
