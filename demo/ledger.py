"""The books of the show: what was sent and acknowledged, and when each copy arrived."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(slots=True)
class Entry:
    """One message as its sender knows it; `place` is where they sat.

    Times are monotonic seconds; `seq` is 0 until it is acknowledged.
    """

    client_id: str
    sender: str
    place: str
    began: float
    seq: int = 0
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds from the first try of a send to a receiver having it."""

    count: int
    median: float
    worst: float


class Ledger:
    """Counts as it goes. Nothing here decides what is right: that is `proof`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.entries: dict[str, Entry] = {}
        self.acknowledged = 0
        self.retries = 0
        self.head = 0
        """The highest `seq` that anyone was told of."""
        self.delivered = 0
        self._open: dict[str, str] = {}
        self._arrivals: deque[tuple[float, float]] = deque()

    def begin(self, client_id: str, sender: str, place: str) -> None:
        self.entries[client_id] = Entry(client_id, sender, place, self._clock())
        self._open[client_id] = sender

    def acknowledge(self, client_id: str, seq: int, *, replayed: bool) -> None:
        entry = self.entries[client_id]
        entry.seq, entry.replayed = seq, replayed
        self.acknowledged += 1
        del self._open[client_id]
        self.head = max(self.head, seq)

    def deliver(self, client_id: str, seq: int) -> None:
        """A receiver got a copy."""
        now = self._clock()
        self.delivered += 1
        self.head = max(self.head, seq)
        entry = self.entries.get(client_id)
        if entry is not None:
            self._arrivals.append((now, now - entry.began))

    @property
    def sending(self) -> Collection[str]:
        """Who waits for an acknowledgement right now."""
        return self._open.values()

    @property
    def replayed(self) -> int:
        """How many sends turned out to be done already when they were repeated by REST."""
        return sum(entry.replayed for entry in self.entries.values())

    def delays(self, since: float, until: float = float("inf")) -> Delays:
        """Of what arrived in that time. Zeros where nothing did."""
        found = [delay for at, delay in self._arrivals if since <= at < until]
        if not found:
            return Delays(0, 0.0, 0.0)
        return Delays(len(found), statistics.median(found), max(found))

    def rates(self, width: float, count: int) -> list[float]:
        """Deliveries a second in each of the last `count` full spans of `width` seconds, oldest first."""
        spans = [0] * count
        newest = int(self._clock() / width) - 1
        for at, _ in reversed(self._arrivals):
            back = newest - int(at / width)
            if back >= count:
                break
            if back >= 0:
                spans[count - 1 - back] += 1
        return [number / width for number in spans]
