"""Bodies, queries and answers of messages."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from domain.resources import Attachment, FormerText, OwnMessage
from handlers.schemas.common import MAX_INT64, Body, Query, QueryInt, Seq

MAX_BODY = 4000
MAX_ATTACHMENTS = 10

Text = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_BODY,
        description="1 to 4,000 Unicode code points, kept as given. U+0000 is refused.",
    ),
]


class MessageCreate(Body):
    body: Text
    client_id: UUID | None = Field(
        None, description="Unique for each author for ever: sending it again gives the first message again."
    )
    reply_to_seq: Seq | None = None
    attachments: list[Attachment] = Field(default_factory=list, max_length=MAX_ATTACHMENTS)


class MessagePatch(Body):
    body: Text


class MessageQuery(Query):
    """Newest first, or with `after_seq` oldest first."""

    before_seq: QueryInt | None = Field(
        None, ge=0, le=MAX_INT64, description="Only messages before this one."
    )
    after_seq: QueryInt | None = Field(None, ge=0, le=MAX_INT64, description="Only messages after this one.")
    limit: QueryInt = Field(20, ge=1, le=100, description="How many items at most.")

    @field_validator("after_seq")
    @classmethod
    def _one_direction(cls, after: int | None, info: ValidationInfo) -> int | None:
        if after is not None and info.data.get("before_seq") is not None:
            raise ValueError("give before_seq or after_seq, not both")
        return after


class MessageList(BaseModel):
    model_config = ConfigDict(extra="forbid")

    items: list[OwnMessage]


class MessageHistory(BaseModel):
    """Former texts, the first one first; empty for a tombstone."""

    model_config = ConfigDict(extra="forbid")

    items: list[FormerText]
