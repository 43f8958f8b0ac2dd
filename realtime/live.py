"""Live-only events: typing and presence. Their shapes, their bytes, and what instances tell each other of them.

They have no position, are not in the log, travel by Redis pub/sub alone, and expire by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal, Protocol
from uuid import UUID

import orjson

from domain.ids import ConversationId, UserId
from domain.log import conversation_topic, inbox
from domain.resources import Resource, Time
from realtime.codec import encode_envelope
from realtime.events import Group

TypingType = Literal["typing.started", "typing.stopped"]


class TypingChanged(Resource):
    """``data`` of ``typing.started`` and ``typing.stopped``."""

    conversation_id: UUID
    user_id: UUID


class PresenceStatus(Resource):
    """``data`` of ``presence.changed``. ``last_seen_at`` is null while online, and where it is unknown or not shown."""

    user_id: UUID
    status: Literal["online", "offline"]
    last_seen_at: Time | None


class PresenceStatuses(Resource):
    """Reply of ``presence.subscribe``: one for each user asked for, in that order."""

    statuses: list[PresenceStatus]


def typing_envelope(type_: TypingType, conversation: ConversationId, user: UserId, at: float) -> bytes:
    """``at``: seconds since the epoch."""
    data = TypingChanged(conversation_id=conversation, user_id=user).model_dump_json().encode()
    return encode_envelope(
        None, type_, conversation_topic(conversation), datetime.fromtimestamp(at, UTC), data
    )


def presence_envelope(status: PresenceStatus, at: float) -> bytes:
    """``at``: seconds since the epoch."""
    moment = datetime.fromtimestamp(at, UTC)
    data = status.model_dump_json().encode()
    return encode_envelope(None, "presence.changed", inbox(UserId(status.user_id)), moment, data)


class LiveHub(Protocol):
    """What typing needs of the hub."""

    @property
    def fresh(self) -> bool:
        """Whether events may be written now (I9)."""

    def live(
        self, topic: bytes, payload: bytes, type_: str, group: Group, skip: Collection[UserId] = ()
    ) -> None: ...


class Channel(Protocol):
    """What live-only events need of the bus."""

    def listen(self, channel: str, handler: Callable[[bytes], None]) -> None: ...

    def publish(self, channel: str, payload: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class TypingHint:
    """``user`` has started (or, with ``typing`` False, stopped) to type, hidden from the users in ``hidden``."""

    conversation: ConversationId
    user: UserId
    typing: bool
    hidden: frozenset[UserId] = frozenset()


@dataclass(frozen=True, slots=True)
class PresenceHint:
    """What changed on one instance."""

    instance: str
    came: Collection[UserId] = ()
    left: Mapping[UserId, float] = field(default_factory=lambda: MappingProxyType({}))
    """Users who are there no more, and when they were last (seconds since the epoch)."""
    review: Collection[UserId] = ()
    """Users of whom somebody may see more, or less, than before."""


def encode_typing(hint: TypingHint) -> bytes:
    return orjson.dumps((str(hint.conversation), str(hint.user), hint.typing, _texts(hint.hidden)))


def decode_typing(payload: bytes) -> TypingHint:
    """The reverse of :func:`encode_typing`. Raises ValueError for anything else."""
    try:
        conversation, user, typing, hidden = orjson.loads(payload)
        return TypingHint(
            ConversationId(UUID(conversation)),
            UserId(UUID(user)),
            bool(typing),
            frozenset(map(_user, hidden)),
        )
    except (TypeError, AttributeError) as error:
        raise ValueError("not a typing hint") from error


def encode_presence(hint: PresenceHint) -> bytes:
    left = {str(user): at for user, at in hint.left.items()}
    return orjson.dumps((hint.instance, _texts(hint.came), left, _texts(hint.review)))


def decode_presence(payload: bytes) -> PresenceHint:
    """The reverse of :func:`encode_presence`. Raises ValueError for anything else."""
    try:
        instance, came, left, review = orjson.loads(payload)
        return PresenceHint(
            str(instance),
            [_user(text) for text in came],
            {_user(text): float(at) for text, at in left.items()},
            [_user(text) for text in review],
        )
    except (TypeError, AttributeError) as error:
        raise ValueError("not a presence hint") from error


def _texts(users: Collection[UserId]) -> list[str]:
    """Ids read from PostgreSQL are of a type of their own, which is no JSON."""
    return [str(user) for user in users]


def _user(text: str) -> UserId:
    return UserId(UUID(text))
