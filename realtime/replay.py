"""Reading the log for one user: from memory where memory reaches back far enough, else from the stored log."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Literal, Protocol

from realtime.events import Event
from realtime.log import LogReader, LogSource
from realtime.places import NotFresh
from realtime.views import UserView, window

_position = attrgetter("position")


class ReplayMetrics(Protocol):
    """What reading counts."""

    def caught_up(self, source: Literal["ring", "database"], events: int) -> None: ...


class Replay:
    """What a view may see between two places, whatever it was pushed before. Both ways give the same events."""

    def __init__(self, reader: LogReader, source: LogSource, metrics: ReplayMetrics) -> None:
        self._reader = reader
        self._source = source
        self._metrics = metrics

    @property
    def position(self) -> int:
        """How far this instance has read; the hub may be behind it."""
        return self._reader.position

    def in_memory(self, after: int) -> bool:
        """Whether memory holds everything behind ``after``."""
        return after >= self._reader.ring.floor

    def from_memory(self, view: UserView, after: int, upto: int, limit: int) -> tuple[list[Event], int]:
        """What the view may see of ``after < position <= upto``: ``limit`` events at most, and how far they reach."""
        ring = self._reader.ring
        events: list[Event] = []
        for topic, start, end in view.spans(after, upto):
            events.extend(ring.topic(topic, start, end, limit))
        events.sort(key=_position)
        reached = upto
        if len(events) >= limit:
            events = events[:limit]
            reached = events[-1].position
        self._metrics.caught_up("ring", len(events))
        return _shown(events, view), reached

    async def from_store(self, view: UserView, after: int, upto: int, limit: int) -> tuple[list[Event], int]:
        """The same from the stored log; ``upto`` has to be where the hub is.

        Raises as the source does, and :class:`NotFresh` where some of it was past retention before it was read.
        """
        reader = self._reader
        windows = [window(*span) for span in view.spans(after, upto)]
        stored = await self._source.windows(windows, after, upto, limit)
        if after < reader.floor:
            raise NotFresh
        events = [Event(e, reader.epoch) for e in stored]
        for control in reader.ring.controls(upto, reader.position):
            if control.control.redacts:  # withdrawn while it was on its way
                for event in events:
                    if event.position in control.control.redacts:
                        event.redact()
        self._metrics.caught_up("database", len(events))
        return _shown(events, view), events[-1].position if len(events) == limit else upto

    def withdraw(self, events: Sequence[Event], since: int) -> bool:
        """Withdraws from events that were read when :attr:`position` was ``since``, or later, what has been deleted
        meanwhile: copies of the stored log, and what memory has let go, are nobody else's to redact. False where memory
        does not reach back that far: they have to be read again."""
        ring, upto = self._reader.ring, self._reader.position
        if since == upto:
            return True
        if since < ring.floor:
            return False
        for control in ring.controls(since, upto):
            withdrawn = control.control.redacts
            for event in events if withdrawn else ():
                # Those in memory are the ring's, which redacts them when the hub gets there.
                if event.position in withdrawn and not ring.holds(event):
                    event.redact()
        return True


def _shown(events: list[Event], view: UserView) -> list[Event]:
    """Without those about a message from before the user's view of it."""
    return [event for event in events if event.control.about is None or view.shows(event)]
