"""The data of each WebSocket command. It arrives as parsed JSON, so ids are text here and numbers must be numbers."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, StringConstraints

from domain.errors import FieldError, InvalidFields
from domain.resources import Attachment
from handlers.schemas.common import MAX_INT64

MAX_BODY = 4000  # Unicode code points
MAX_WATCHED = 200


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not hold U+0000")
    return text


Text = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=MAX_BODY), AfterValidator(_no_nul)
]
Emoji = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=64), AfterValidator(_no_nul)]
Seq = Annotated[int, Strict(), Field(ge=1, le=MAX_INT64)]
Count = Annotated[int, Strict(), Field(ge=0, le=MAX_INT64)]


class CommandData(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InConversation(CommandData):
    """``typing.start`` and ``typing.stop``."""

    conversation_id: UUID


class SendMessage(InConversation):
    body: Text
    client_id: UUID
    reply_to_seq: Seq | None = None
    attachments: list[Attachment] = Field(default_factory=list, max_length=10)

    def check_attachments(self) -> None:
        """There is no media to attach yet. Raises InvalidFields."""
        if self.attachments:
            raise InvalidFields(
                [FieldError("/attachments/0/media_id", "there is no such media")], code="media_not_found"
            )


class EditMessage(InConversation):
    seq: Seq
    body: Text


class OneMessage(InConversation):
    """``message.delete``."""

    seq: Seq


class React(InConversation):
    """``reaction.add`` and ``reaction.remove``."""

    seq: Seq
    emoji: Emoji


class ReadUpTo(InConversation):
    """``conversation.read`` and ``conversation.delivered``."""

    seq: Count


class WatchUsers(CommandData):
    """``presence.subscribe`` and ``presence.unsubscribe``."""

    user_ids: list[UUID] = Field(max_length=MAX_WATCHED)


class Acknowledge(CommandData):
    cursor: Annotated[str, StringConstraints(strict=True, max_length=200)]


class RefreshToken(CommandData):
    access_token: Annotated[str, StringConstraints(strict=True, max_length=4096)]


class Nothing(CommandData):
    """``ping``."""


class ExpiresIn(BaseModel):
    expires_in: int
