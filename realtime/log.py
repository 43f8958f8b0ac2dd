"""Following the log: hints are the fast way, the stored log is the truth, and the difference between them is healed."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from domain.ids import TenantId, UserId
from domain.log import Head, StoredEvent, View, Window, rfc3339
from domain.waiting import within
from realtime.events import Event
from realtime.ring import Ring

logger = structlog.get_logger(__name__)


class LogSource(Protocol):
    """The stored log. Every call may raise, and has a time limit of its own."""

    async def head(self) -> Head: ...

    async def renew_epoch(self, old: int) -> Head:
        """Stores another epoch in place of ``old``, unless that was done already. The head afterwards."""
        ...

    async def range(self, after: int, upto: int, limit: int) -> Sequence[StoredEvent]:
        """Events with ``after < position <= upto``, oldest first and without holes, at most ``limit``."""

    async def windows(
        self, windows: Sequence[Window], after: int, upto: int, limit: int
    ) -> Sequence[StoredEvent]:
        """Of those, the ones inside ``windows``."""

    async def views(self, users: Sequence[tuple[TenantId, UserId]]) -> dict[UserId, View]:
        """What users may read, all as of one snapshot."""


class LogMetrics(Protocol):
    """What the reader counts."""

    def gap_healed(self) -> None: ...

    def log_read(self, head: int, behind: int, seconds: float) -> None:
        """The head as stored, how far this instance had been behind it, and for how long it then was."""
        ...


@dataclass(frozen=True, slots=True)
class LogTiming:
    """Seconds. ``poll``: how often the head is read, hints or not, which bounds delivery without Redis. ``gap``: how
    long a hole may wait for its hint. ``stale``: without a reading of the head for this long nothing is written to
    anyone (I9). ``source``: how long one reading may take."""

    poll: float = 0.2
    gap: float = 0.015
    stale: float = 1.0
    source: float = 2.0


class LogReader:
    """One instance's place in the log.

    Guarantees: ``applied`` is called with batches that are dense and in order, each position once, whatever is lost,
    repeated or reordered among the hints. ``fresh`` is true only while the log was read up to its head less than
    ``stale`` seconds ago, by the clock that also runs while the process is stopped.
    """

    PAGE = 2000
    MAX_EARLY = (
        20_000  # events that wait for a hole in front of them; more than that is read from the stored log
    )

    def __init__(
        self,
        source: LogSource,
        ring: Ring,
        metrics: LogMetrics,
        clock: Callable[[], float],
        timing: LogTiming | None = None,
    ) -> None:
        self._source = source
        self._clock = clock
        self._metrics = metrics
        self._timing = timing or LogTiming()
        self.ring = ring
        self.epoch = 0
        self.floor = 0
        self.offered = 0
        """The newest position this instance has heard of; what lies before it may still be on its way."""
        self._fresh_until = float("-inf")
        self._early: list[tuple[int, int, Sequence[StoredEvent]]] = []
        self._early_count = 0
        self._early_events = 0
        self._replaced = 0
        self._gap = asyncio.Event()
        self._poll_now = asyncio.Event()
        self._moved: asyncio.Future[None] | None = None
        self._reading = asyncio.Lock()
        self._head_lock = asyncio.Lock()
        self._head_began = float("-inf")
        self._head_error: Exception | None = None
        self.applied: Callable[[], None] = lambda: None
        self.became_fresh: Callable[[], None] = lambda: None
        self.lost: Callable[[], None] = lambda: None
        """Called where positions this instance had read are gone: the log was restored or replaced."""

    @property
    def position(self) -> int:
        """Everything up to here has been read."""
        return self.ring.last

    @property
    def fresh(self) -> bool:
        return self._clock() < self._fresh_until

    async def start(self, warm: int) -> None:
        """Reads the head, and the newest ``warm`` events into the ring."""
        started = self._clock()
        head = await self._source.head()
        self.epoch, self.floor = head.epoch, head.floor
        self.ring.clear(max(head.floor, head.position - warm))
        await self._read_to(head.position)
        self._fresh_until = started + self._timing.stale

    async def run(self) -> None:
        """Follows the log until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll_forever())
            tasks.create_task(self._heal_forever())

    def offer(self, events: Sequence[StoredEvent]) -> None:
        """Takes a dense batch from a hint or from this instance's own commit; late, early or repeated."""
        if not events or events[-1].position <= self.position:
            return
        self.offered = max(self.offered, events[-1].position)
        if events[0].position > self.position + 1:
            if self._early_events < self.MAX_EARLY:
                self._early_count += 1
                self._early_events += len(events)
                heapq.heappush(self._early, (events[0].position, self._early_count, events))
            self._gap.set()
            return
        self._apply(events)

    def poke(self) -> None:
        """Asks for a reading of the head now: something may have been missed."""
        self._poll_now.set()

    def _apply(self, events: Sequence[StoredEvent]) -> None:
        self._append(events)
        while self._early and self._early[0][0] <= self.position + 1:
            early = heapq.heappop(self._early)[2]
            self._early_events -= len(early)
            self._append(early)
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)
        self.applied()

    def _append(self, events: Sequence[StoredEvent]) -> None:
        expected, epoch, append = self.position, self.epoch, self.ring.append
        at, text = None, ""
        for event in events:
            if event.position > expected:
                if event.at is not at:
                    at, text = event.at, rfc3339(event.at)
                append(Event(event, epoch, text))

    async def reached(self, position: int, seconds: float) -> bool:
        """Waits until everything up to ``position`` has been read. False where it took longer."""
        deadline = self._clock() + seconds
        while self.position < position:
            if self._moved is None or self._moved.done():
                self._moved = asyncio.get_running_loop().create_future()
            try:
                await within(max(0.0, deadline - self._clock()), asyncio.shield(self._moved))
            except TimeoutError:
                return self.position >= position
        return True

    async def confirm(self, position: int) -> bool:
        """Whether ``position`` exists, by the stored head where it was not seen here. Raises as the source does."""
        if position <= self.position:
            return True
        await self.read_head()
        return position <= self.position

    async def _poll_forever(self) -> None:
        while True:
            try:
                await self.read_head()
            except Exception as error:
                logger.warning("log.unreadable", error=type(error).__name__)
            self._poll_now.clear()
            try:
                await within(self._timing.poll, self._poll_now.wait())
            except TimeoutError:
                pass

    async def read_head(self) -> None:
        """Reads the head and everything up to it; afterwards the instance is fresh.

        One reading at a time: who asks while one is under way shares the next, so a storm costs two. Raises as the
        source does.
        """
        asked = self._clock()
        async with self._head_lock:
            if self._head_began > asked:
                if self._head_error is not None:
                    raise self._head_error
                return
            began = self._clock()
            try:
                await self._read_head()
            except Exception as error:
                self._head_began, self._head_error = began, error
                raise
            self._head_began, self._head_error = (
                began,
                None,
            )  # one that was cancelled says nothing to the others

    async def _read_head(self) -> None:
        started = self._clock()
        before = self.position
        head = await within(self._timing.source, self._source.head())
        if head.epoch != self.epoch or head.position < self.position:
            # A position that was seen had been committed, so a head below it is another log: unless it was read before
            # the newest hint came, or before another reading found the log replaced. A second one cannot be.
            started, head = await self._read_again()
        await self._read_up_to(head)
        while self.position < head.position:
            # Not all of it was there to be read any more: it was replaced in between.
            started, head = await self._read_again()
            await self._read_up_to(head)
        was_fresh = self.fresh
        self._fresh_until = max(self._fresh_until, started + self._timing.stale)
        self._metrics.log_read(head.position, max(0, head.position - before), self._clock() - started)
        if not was_fresh and self.fresh:
            self.became_fresh()

    async def _read_up_to(self, head: Head) -> None:
        self.floor = head.floor
        if head.position > self.position and not await self.reached(head.position, self._timing.gap):
            await self._read_to(head.position)

    async def _read_again(self) -> tuple[float, Head]:
        while True:
            started, seen, epoch = self._clock(), self.position, self.epoch
            head = await within(self._timing.source, self._source.head())
            if head.epoch == epoch and head.position < seen:
                # PostgreSQL lost what it had committed, as a failover can. Positions will be given a second time, so
                # cursors of the first must be told apart from them: for good, and by every instance.
                head = await within(self._timing.source, self._source.renew_epoch(epoch))
            if epoch != self.epoch:
                continue  # another reading found it first
            if head.epoch != epoch:
                self._start_over(head)
            return started, head

    def _start_over(self, head: Head) -> None:
        logger.error("log.replaced", had=self.position, has=head.position)
        self.epoch = head.epoch
        self._replaced += 1
        self._forget_hints()
        self.ring.clear(head.position)
        self.lost()

    def _forget_hints(self) -> None:
        self._early.clear()
        self._early_events = 0
        self.offered = 0

    async def _heal_forever(self) -> None:
        while True:
            await self._gap.wait()
            self._gap.clear()
            if not self._early:
                continue
            upto = self._early[0][0] - 1
            if await self.reached(upto, self._timing.gap):
                if self._early:
                    self._gap.set()
                continue
            try:
                await self._read_to(upto)
            except Exception as error:
                logger.warning("log.unreadable", error=type(error).__name__)
                await asyncio.sleep(self._timing.poll)
            if self._early:
                self._gap.set()

    async def _read_to(self, upto: int) -> None:
        """Reads from the stored log what no hint brought."""
        async with self._reading:
            healed = 0
            while self.position < upto:
                after, replaced = self.position, self._replaced
                page = await within(self._timing.source * 5, self._source.range(after, upto, self.PAGE))
                if not page:
                    head = await within(self._timing.source, self._source.head())
                    if self._replaced == replaced and head.position < upto:
                        logger.error("log.no_such_position", had=self.position, hinted=upto + 1)
                        self._forget_hints()  # they were of another log
                        return
                if self._replaced != replaced:
                    return  # what was read is of the log as it was before it was replaced
                if not page:
                    self._skip_to(upto)
                elif page[0].position > self.position + 1 and page[0].position > after + 1:
                    self._skip_to(page[0].position - 1)
                healed += len(page)
                self._apply(page)
            if healed:
                self._metrics.gap_healed()

    def _skip_to(self, position: int) -> None:
        """Goes on behind what retention dropped while this instance was away: it can be read by nobody."""
        logger.error("log.hole", after=self.position, upto=position)
        self.ring.clear(position)
        self.lost()
