"""What a client is told, read from its bytes: events of the log, and the frames that steer a connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from faults.clients_wire import WireError

Json = dict[str, Any]

CONTROL = frozenset({"hello", "heartbeat", "reply", "resync", "token.expiring", "drain"})
"""Frames that are no events: they have no topic."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event, as `faults.history.Receipt` wants it."""

    cursor: str | None
    type: str
    topic: str
    conversation: str | None = None
    seq: int | None = None
    client_id: str | None = None
    body: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame, a block or an entry of a poll's answer. `value` is whole for those in CONTROL, and empty for events."""

    type: str
    cursor: str | None
    event: Event | None = None
    value: Json = field(default_factory=dict)


class FrameReader:
    """Reads payloads. Hundreds of clients are told the same bytes, so what they mean is looked up, not read again.

    Equal events are one object, also where they came in a poll's answer: a million receipts share them.
    """

    MOST = 4096  # remembered; twice that at most

    def __init__(self) -> None:
        self._young: dict[bytes, Frame] = {}
        self._old: dict[bytes, Frame] = {}
        self._events: dict[Event, Event] = {}

    def read(self, payload: bytes) -> Frame:
        """Raises WireError for what is no frame of the contract."""
        frame = self._young.get(payload)
        if frame is None:
            frame = self._old.get(payload) or self._parsed(payload)
            if frame.type != "reply":  # no two are the same
                self._keep(payload, frame)
        return frame

    def of(self, value: object) -> Frame:
        """The frame that a JSON value is. Raises WireError."""
        try:
            return self._frame(value)
        except (KeyError, TypeError) as error:
            raise WireError(f"not a frame: {str(value)[:200]}") from error

    def _parsed(self, payload: bytes) -> Frame:
        try:
            return self.of(orjson.loads(payload))
        except orjson.JSONDecodeError as error:
            raise WireError(f"not JSON: {payload[:200]!r}") from error

    def _keep(self, payload: bytes, frame: Frame) -> None:
        if len(self._young) >= self.MOST:
            self._old, self._young = self._young, {}
            self._events = {}
        self._young[payload] = frame

    def _frame(self, value: Any) -> Frame:
        type_, cursor = value["type"], value.get("cursor")
        if not isinstance(type_, str) or not isinstance(cursor, str | None):
            raise TypeError
        if type_ in CONTROL:
            return Frame(type_, cursor, value=value)
        event = _event(type_, cursor, value["topic"], value["data"])
        return Frame(type_, cursor, self._events.setdefault(event, event))


def _event(type_: str, cursor: str | None, topic: Json, data: Json) -> Event:
    kind, about = topic["kind"], data.get("conversation_id")
    conversation = topic["id"] if kind == "conversation" else about
    if type_.startswith("message."):
        if not isinstance(data["seq"], int) or about != conversation:
            raise TypeError
        return Event(cursor, type_, kind, conversation, data["seq"], data.get("client_id"), data.get("body"))
    user = data["user"]["username"] if type_.startswith("member.") else None
    return Event(cursor, type_, kind, conversation, user=user)
