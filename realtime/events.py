"""The catalogue of durable events, and an event as the core holds it: encoded once, shared by all its receivers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args
from uuid import UUID

import orjson

from domain.log import Control, StoredEvent
from domain.resources import Message, Resource, Role, SharedConversation, Time, User
from realtime.codec import Wire, encode_cursor, encode_envelope, sse_block, ws_frame, ws_payload

Group = Literal["messages", "notifications", "feed", "always"]
"""What a client selects with ``?topics=``; ``always`` cannot be left out."""


class MessageChanged(Message):
    """``message.created`` and ``message.updated`` carry the message without what differs by receiver."""


class MessageDeleted(Resource):
    conversation_id: UUID
    seq: int
    deleted_at: Time


class ReactionChanged(Resource):
    conversation_id: UUID
    seq: int
    emoji: str
    user_id: UUID


class Receipt(Resource):
    """Everything up to ``seq`` has been delivered to, or read by, ``user_id``."""

    conversation_id: UUID
    user_id: UUID
    seq: int


class MemberChanged(Resource):
    conversation_id: UUID
    user: User
    role: Role


class SessionRevoked(Resource):
    session_id: UUID
    reason: str


CATALOGUE: dict[str, tuple[type[Resource], Group]] = {
    "message.created": (MessageChanged, "messages"),
    "message.updated": (MessageChanged, "messages"),
    "message.deleted": (MessageDeleted, "messages"),
    "reaction.added": (ReactionChanged, "messages"),
    "reaction.removed": (ReactionChanged, "messages"),
    "receipt.delivered": (Receipt, "messages"),
    "receipt.read": (Receipt, "messages"),
    "conversation.created": (SharedConversation, "messages"),
    "conversation.updated": (SharedConversation, "messages"),
    "member.added": (MemberChanged, "messages"),
    "member.removed": (MemberChanged, "messages"),
    "member.updated": (MemberChanged, "messages"),
    "session.revoked": (SessionRevoked, "always"),
}

LIVE_ONLY: dict[str, Group] = {
    "typing.started": "messages",
    "typing.stopped": "messages",
    "presence.changed": "always",
}

GROUPS: tuple[Group, ...] = get_args(Group)


def group_of(type_: str) -> Group:
    """The group of an event type. Types this version does not know (a newer instance wrote them) reach everyone."""
    entry = CATALOGUE.get(type_)
    return entry[1] if entry else "always"


class Event:
    """An event of the log, encoded. Immutable to its users; shared by every session, so never changed per receiver.

    Kept as the WebSocket frame alone: the envelope is cut out of it and the SSE block built around that when needed,
    once a batch where it is pushed. Memory then reaches back twice as far as with all three of them (docs/adr/0010).
    """

    __slots__ = ("control", "cursor", "group", "position", "topic", "type", "ws")

    def __init__(self, stored: StoredEvent, epoch: int, at: str | None = None) -> None:
        """``at``: the event's time as text, where it is known: all of one commit have the same."""
        self.position = stored.position
        self.topic = stored.topic.key
        self.type = stored.type
        self.group = group_of(stored.type)
        self.control: Control = stored.control
        self.cursor = encode_cursor(epoch, stored.position)
        self.ws = ws_frame(
            encode_envelope(self.cursor, stored.type, stored.topic, at or stored.at, stored.data)
        )

    @property
    def envelope(self) -> bytes:
        """The event as JSON, as it reaches clients on every transport."""
        return ws_payload(self.ws)

    @property
    def size(self) -> int:
        """Bytes kept for it, about."""
        return len(self.ws) + 350

    def encoded(self, wire: Wire) -> bytes:
        """The event as one complete frame or block."""
        return self.ws if wire == "ws" else sse_block(self.envelope, self.type, self.cursor)

    def redact(self) -> None:
        """Withdraws the text of a message from this copy, as the stored one was redacted."""
        envelope: dict[str, Any] = orjson.loads(self.envelope)
        envelope["data"].update(REDACTED)
        self.ws = ws_frame(orjson.dumps(envelope))


#: What a redacted message event says in place of the text. Storage writes the same fields.
REDACTED: dict[str, object] = {"body": None, "attachments": [], "reactions": []}


class Chunk:
    """Consecutive events of one topic out of one batch: joined once a wire, written once a session."""

    __slots__ = ("_encoded", "_filtered", "events", "first", "size")

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.first = events[0].position
        self.size = sum([len(e.ws) for e in events])
        self._encoded: dict[Wire, bytes] = {}
        self._filtered: dict[frozenset[Group], Chunk | None] | None = None

    def encoded(self, wire: Wire) -> bytes:
        data = self._encoded.get(wire)
        if data is None:
            data = self._encoded[wire] = encode_events(self.events, wire)
        return data

    def only(self, groups: frozenset[Group]) -> Chunk | None:
        """The part of it in ``groups``; None where nothing is left."""
        if self._filtered is None:
            self._filtered = {}
        if groups not in self._filtered:
            kept = [e for e in self.events if e.group in groups]
            self._filtered[groups] = self if len(kept) == len(self.events) else Chunk(kept) if kept else None
        return self._filtered[groups]


def encode_events(events: Sequence[Event], wire: Wire) -> bytes:
    """Events in the order given, as one run of bytes."""
    if wire == "ws":
        return b"".join([e.ws for e in events])
    return b"".join([e.encoded(wire) for e in events])
