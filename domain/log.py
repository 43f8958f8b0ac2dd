"""What the log holds: topics, events before they have a position (drafts) and after (events)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from uuid import UUID

import orjson

from domain.ids import ConversationId, SessionId, TenantId, UserId


class TopicKind(IntEnum):
    """What a topic is about. The number is stored; never reuse one."""

    USER = 1
    CONVERSATION = 2
    AUTHOR = 3
    POST = 4

    @property
    def label(self) -> str:
        """The word clients see in ``topic.kind``."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Topic:
    """The thing an event is about. Ids are unique across tenants, so a topic needs no tenant to be told apart."""

    kind: TopicKind
    id: UUID
    text: str = field(default="", compare=False)
    """The id as text, where it is known already: making it anew costs as much as a tenth of an event."""

    @property
    def id_text(self) -> str:
        return self.text or str(self.id)

    @property
    def key(self) -> bytes:
        """17 bytes, cheap to hash and to keep: the kind, then the id."""
        return topic_key(self.kind, self.id)


def topic_key(kind: int, id: UUID) -> bytes:
    return bytes((kind,)) + id.bytes


def inbox(user: UserId) -> Topic:
    """A user's own topic: what only they are told."""
    return Topic(TopicKind.USER, user)


def conversation_topic(conversation: ConversationId) -> Topic:
    return Topic(TopicKind.CONVERSATION, conversation)


@dataclass(frozen=True, slots=True)
class Control:
    """What an event does to the sessions themselves; read by every instance, never shown to a client.

    ``joins``: users whose view of the event's topic opens *at* this event (they receive it).
    ``leaves``: users whose view of it closes *after* this event (they receive it, and nothing later).
    ``revokes``: sign-ins whose every open transport ends after this event.
    ``redacts``: positions of earlier events on this topic whose text is withdrawn.
    ``about``: the position at which the message this event is about was told of, where the history of its conversation
    starts at joining. The event is shown only in views of the topic that had opened by then.
    """

    joins: tuple[UserId, ...] = ()
    leaves: tuple[UserId, ...] = ()
    revokes: tuple[SessionId, ...] = ()
    redacts: tuple[int, ...] = ()
    about: int | None = None

    def __bool__(self) -> bool:
        return self.about is not None or bool(self.joins or self.leaves or self.revokes or self.redacts)

    def shown_from(self, opens: int) -> bool:
        """Whether the event is shown in a view of its topic that opened at ``opens``."""
        return self.about is None or opens <= self.about


NO_CONTROL = Control()


def encode_control(control: Control) -> str | None:
    """A control as text, or None where it says nothing."""
    if not control:
        return None
    fields: dict[str, object] = {
        "joins": [str(user) for user in control.joins],
        "leaves": [str(user) for user in control.leaves],
        "revokes": [str(session) for session in control.revokes],
        "redacts": list(control.redacts),
        "about": control.about,
    }
    return orjson.dumps({name: values for name, values in fields.items() if values}).decode()


def decode_control(text: str | None) -> Control:
    """The reverse of :func:`encode_control`."""
    if text is None:
        return NO_CONTROL
    raw = orjson.loads(text)
    return Control(
        joins=tuple(UserId(UUID(v)) for v in raw.get("joins", ())),
        leaves=tuple(UserId(UUID(v)) for v in raw.get("leaves", ())),
        revokes=tuple(SessionId(UUID(v)) for v in raw.get("revokes", ())),
        redacts=tuple(raw.get("redacts", ())),
        about=raw.get("about"),
    )


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event to append. ``data`` is the finished JSON object, UTF-8, as clients will see it under ``data``."""

    tenant: TenantId
    topic: Topic
    type: str
    data: bytes
    control: Control = NO_CONTROL


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as committed. Positions are dense and follow commit order."""

    position: int
    tenant: TenantId
    topic: Topic
    type: str
    at: datetime
    data: bytes
    control: Control = NO_CONTROL


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a topic a user may see: ``opens <= position <= closes`` (``closes`` None: still open)."""

    topic: Topic
    opens: int
    closes: int | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """The newest position, the log's epoch, and the newest position that is past retention."""

    position: int
    epoch: int
    floor: int


@dataclass(frozen=True, slots=True)
class View:
    """What one user may read of the log, as it stood when ``head`` was the newest position."""

    user: UserId
    head: int
    windows: Sequence[Window]


def rfc3339(at: datetime) -> str:
    """UTC with microseconds and ``Z`` (RFC 3339)."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
