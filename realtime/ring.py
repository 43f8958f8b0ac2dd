"""The memory tail: the newest events of the log, so that a reconnect storm costs no query a client."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import cast

from realtime.events import Event

_position = attrgetter("position")
_NOTHING = cast("Event", None)


class _Tail:
    """The newest events of one topic, oldest first. Dropped from the front in amortised constant time: the place of
    what was dropped stays, empty and never looked at, until there are more of those than events."""

    __slots__ = ("events", "start")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.start = 0

    def drop_first(self) -> bool:
        """Drops the oldest; True where nothing is left."""
        self.events[self.start] = _NOTHING  # let go now, or the ring would keep twice what its bounds say
        self.start += 1
        if self.start == len(self.events):
            return True
        if self.start * 2 > len(self.events):
            del self.events[: self.start]
            self.start = 0
        return False


class Ring:
    """The newest events, bounded in number and bytes, with an index by topic.

    Holds every event of ``floor < position <= last``: no holes.
    """

    def __init__(self, *, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self.clear(0)

    def clear(self, last: int) -> None:
        """Empties it; the next event is that of ``last + 1``."""
        self._events: deque[Event] = deque()
        self._topics: dict[bytes, _Tail] = {}
        self._controls: deque[Event] = deque()
        self._bytes = 0
        self.last = last

    @property
    def floor(self) -> int:
        """The newest position that is no longer (or was never) held."""
        return self._events[0].position - 1 if self._events else self.last

    def __len__(self) -> int:
        return len(self._events)

    def append(self, event: Event) -> None:
        assert event.position == self.last + 1, "the ring has no holes"
        self._events.append(event)
        tail = self._topics.get(event.topic)
        if tail is None:
            tail = self._topics[event.topic] = _Tail()
        tail.events.append(event)
        if event.control:
            self._controls.append(event)
        self.last = event.position
        self._bytes += event.size
        while len(self._events) > self._max_events or (
            self._bytes > self._max_bytes and len(self._events) > 1
        ):
            self._evict()

    def _evict(self) -> None:
        event = self._events.popleft()
        self._bytes -= event.size
        if self._topics[event.topic].drop_first():
            del self._topics[event.topic]
        if self._controls and self._controls[0] is event:
            self._controls.popleft()

    def holds(self, event: Event) -> bool:
        """Whether this very object is one of those here."""
        index = event.position - self.floor - 1
        return 0 <= index < len(self._events) and self._events[index] is event

    def slice(self, after: int, limit: int) -> list[Event]:
        """Events of every topic behind ``after``, at most ``limit``; ``after`` is at least the floor."""
        if after >= self.last:
            return []
        # The deque is indexed from its nearer end; what is asked for is nearly always the newest part.
        start = after - self.floor
        return [self._events[n] for n in range(start, min(start + limit, len(self._events)))]

    def controls(self, after: int, upto: int) -> Iterable[Event]:
        """The events with a control and ``after < position <= upto``, oldest first."""
        found = []
        for event in reversed(self._controls):  # what is asked for is nearly always the newest part
            if event.position <= after:
                break
            if event.position <= upto:
                found.append(event)
        return reversed(found)

    def topic(self, key: bytes, after: int, upto: int, limit: int) -> Sequence[Event]:
        """The first ``limit`` events of one topic with ``after < position <= upto``."""
        tail = self._topics.get(key)
        if tail is None:
            return ()
        events, start = tail.events, tail.start
        newest = events[-1].position
        if newest <= after:
            return ()
        # Who comes back mostly asks for a topic's events to the last, and often for all that is held of it.
        if events[start].position <= after:
            start = bisect_right(events, after, lo=start, key=_position)
        end = len(events) if newest <= upto else bisect_right(events, upto, lo=start, key=_position)
        return events[start : min(end, start + limit)]

    def redact(self, positions: Iterable[int]) -> None:
        """Withdraws the text of those events that are still held."""
        floor = self.floor
        for position in positions:
            if floor < position <= self.last:
                event = self._events[position - floor - 1]
                before = event.size
                event.redact()
                self._bytes += event.size - before
