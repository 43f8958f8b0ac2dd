"""What clients note down while a fault is on, in little room; `History` is made of it when all is over.

A minute of two hundred receivers is a million receipts: each is a time and a reference here, and becomes a `Receipt`
when somebody looks at it.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

from faults.clients_events import Event
from faults.history import (
    Connection,
    Membership,
    Reading,
    Receipt,
    Receiver,
    Resync,
    Revoked,
    Send,
    Transport,
)


class Receipts(Sequence[Receipt]):
    """What one receiver was given, in order."""

    def __init__(self, receiver: str, connections: list[Connection]) -> None:
        self._receiver = receiver
        self._connections = connections
        self._times = array("d")
        self._events: list[Event] = []
        self._starts: list[int] = []
        self._numbers: list[int] = []

    def add(self, at: float, event: Event) -> None:
        """One more."""
        self._times.append(at)
        self._events.append(event)

    def connected(self, number: int) -> None:
        """What comes from now on comes over this connection."""
        self._starts.append(len(self._events))
        self._numbers.append(number)

    def times(self) -> Sequence[tuple[float, Event]]:
        """Times and events alone, without the cost of receipts."""
        return list(zip(self._times, self._events, strict=True))

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Receipt]:
        for start, end, number in zip(
            self._starts, [*self._starts[1:], len(self)], self._numbers, strict=True
        ):
            wire = self._connections[number]
            for at, event in zip(self._times[start:end], self._events[start:end], strict=True):
                yield self._receipt(at, event, wire)

    @overload
    def __getitem__(self, index: int) -> Receipt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Receipt]: ...
    def __getitem__(self, index: int | slice) -> Receipt | list[Receipt]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = self._numbers[bisect.bisect_right(self._starts, index) - 1]
        return self._receipt(self._times[index], self._events[index], self._connections[number])

    def _receipt(self, at: float, event: Event, wire: Connection) -> Receipt:
        return Receipt(
            self._receiver,
            at,
            wire.transport,
            wire.instance,
            wire.number,
            event.cursor,
            event.type,
            event.topic,
            event.conversation,
            event.seq,
            event.client_id,
            event.body,
            event.user,
        )


@dataclass(slots=True)
class Record:
    """Everything of one fault. Connections are numbered by their place, from 0."""

    sends: list[Send] = field(default_factory=list)
    """Those that are over: acknowledged, refused for good, or given up."""
    begun: dict[str, float] = field(default_factory=dict)
    """By `client_id`, when it began, of messages that are over or not."""
    connections: list[Connection] = field(default_factory=list)
    receipts: dict[str, Receipts] = field(default_factory=dict)
    receivers: dict[str, Receiver] = field(default_factory=dict)
    resyncs: list[Resync] = field(default_factory=list)
    memberships: dict[tuple[str, str], Membership] = field(default_factory=dict)
    revocations: list[Revoked] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """What no server of this contract writes: each is a violation by itself."""
    head: dict[str, int] = field(default_factory=dict)
    """By conversation, the highest `seq` acknowledged."""
    head_began: dict[str, float] = field(default_factory=dict)
    """When the message of that `seq` began."""

    def complain(self, what: str) -> None:
        """Notes what nothing excuses."""
        self.complaints.append(what)

    def sent(self, send: Send) -> None:
        """A message is over."""
        self.sends.append(send)
        if send.seq is not None and send.seq > self.head.get(send.conversation, 0):
            self.head[send.conversation] = send.seq
            self.head_began[send.conversation] = send.began

    def opened(self, receiver: str, sign_in: str, transport: Transport, instance: str, opened: float) -> int:
        """A connection; its number."""
        number = len(self.connections)
        self.connections.append(Connection(number, receiver, sign_in, transport, instance, opened))
        self.receipts[receiver].connected(number)
        return number

    def closed(self, number: int, at: float, why: str) -> None:
        """The end of a connection."""
        self.connections[number] = replace(self.connections[number], closed_at=at, reason=why)

    def begins(self, receiver: Receiver) -> None:
        """Somebody has their first cursor."""
        self.receivers[receiver.name] = receiver
        self.receipts.setdefault(receiver.name, Receipts(receiver.name, self.connections))
