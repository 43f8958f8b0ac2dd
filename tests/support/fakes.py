"""What stands in for PostgreSQL, Redis and sockets under the realtime core, and nowhere else.

The fake log decides by itself, from the events alone and in the plainest way, what a user may see; what the core does
is compared with that.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

import orjson

from domain.ids import DEFAULT_TENANT, SessionId, TenantId, UserId, new_id
from domain.log import NO_CONTROL, Control, Head, StoredEvent, Topic, TopicKind, View, Window, inbox
from realtime.closing import Closing
from realtime.codec import Wire
from realtime.events import Group
from realtime.hub import Hub, HubLimits
from realtime.log import LogReader, LogTiming
from realtime.ring import Ring
from realtime.session import Session
from tests.support.simulated import Misuse
from tests.support.wire import Frame, read_frames

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeLog:
    """A stored log: the truth that every instance reads. Commits at once; positions are dense."""

    def __init__(self) -> None:
        self.epoch = 7
        self.floor = 0
        """Positions up to here are declared past retention; those up to ``dropped`` are gone."""
        self.dropped = 0
        self.events: list[StoredEvent] = []
        self.committed: Callable[[Sequence[StoredEvent]], None] = lambda events: None

    @property
    def head(self) -> int:
        return len(self.events)

    def append(
        self, topic: Topic, type_: str = "message.created", text: str = "", control: Control = NO_CONTROL
    ) -> StoredEvent:
        """Commits one event and says so to :attr:`committed`."""
        return self.append_all([(topic, type_, text, control)])[0]

    def append_all(self, drafts: Sequence[tuple[Topic, str, str, Control]]) -> Sequence[StoredEvent]:
        """Commits a batch; redactions take effect in the same commit."""
        batch = []
        for topic, type_, text, control in drafts:
            data = orjson.dumps({"seq": self.head + 1, "body": text or None})
            event = StoredEvent(self.head + 1, DEFAULT_TENANT, topic, type_, START, data, control)
            self.events.append(event)
            batch.append(event)
            for position in control.redacts:
                old = self.events[position - 1]
                fields = orjson.loads(old.data) | {"body": None, "attachments": [], "reactions": []}
                self.events[position - 1] = replace(old, data=orjson.dumps(fields))
        self.committed(batch)
        return batch

    def join(self, topic: Topic, *users: UserId) -> StoredEvent:
        return self.append(topic, "member.added", control=Control(joins=users))

    def leave(self, topic: Topic, *users: UserId) -> StoredEvent:
        return self.append(topic, "member.removed", control=Control(leaves=users))

    def revoke(self, user: UserId, sign_in: SessionId) -> StoredEvent:
        return self.append(inbox(user), "session.revoked", control=Control(revokes=(sign_in,)))

    def drop(self, position: int) -> None:
        """Retention takes everything up to there, at once."""
        self.floor = self.dropped = position

    def restore(self, position: int) -> None:
        """The log is that of an older backup: what came later is gone, and the epoch is a new one."""
        del self.events[position:]
        self.epoch += 1

    def visible(self, user: UserId) -> list[StoredEvent]:
        """What the user may see of the whole log, by walking through it."""
        seen: list[StoredEvent] = []
        members: dict[Topic, int] = {inbox(user): 0}
        for event in self.events:
            if user in event.control.joins:
                members.setdefault(event.topic, event.position)
            about = event.control.about
            if event.topic in members and (about is None or members[event.topic] <= about):
                seen.append(event)
            if user in event.control.leaves:
                members.pop(event.topic, None)
        return seen

    def windows_of(self, user: UserId) -> list[Window]:
        windows = [Window(inbox(user), 0)]
        for event in self.events:
            if user in event.control.joins:
                windows.append(Window(event.topic, event.position))
            if user in event.control.leaves:
                windows = [
                    replace(w, closes=event.position) if w.topic == event.topic and w.closes is None else w
                    for w in windows
                ]
        return [w for w in windows if w.closes is None or w.closes > self.floor]


class SourceAway(Exception):
    """The stored log cannot be reached."""


class FakeSource:
    """One instance's connection to the log (a :class:`realtime.log.LogSource`), which can be slow, cut or hanging."""

    def __init__(self, log: FakeLog) -> None:
        self.log = log
        self.latency = 0.0
        self.latencies: dict[str, float] = {}
        """Of single calls, where they differ."""
        self.away = False
        self.hangs = False
        self.calls: dict[str, int] = defaultdict(int)
        self.readings: deque[tuple[float, int]] = deque(maxlen=64)
        """When a reading of the head began, and what it gave."""
        self.during: Callable[[], None] = lambda: None
        """Called in the middle of the next reading, after the snapshot was taken; once."""

    async def _reach(self, name: str) -> None:
        self.calls[name] += 1
        if self.hangs:
            await asyncio.sleep(60.0)  # the time limit of its own
            raise SourceAway
        await self._takes(name)

    async def _takes(self, name: str) -> None:
        latency = self.latencies.get(name, self.latency)
        if latency:
            await asyncio.sleep(latency / 2)
        if self.away:
            raise SourceAway

    async def _return(self, name: str) -> None:
        during, self.during = self.during, lambda: None
        during()
        await self._takes(name)

    async def head(self) -> Head:
        began = asyncio.get_running_loop().time()
        await self._reach("head")
        head = Head(self.log.head, self.log.epoch, self.log.floor)
        await self._return("head")
        self.readings.append((began, head.position))
        return head

    async def renew_epoch(self, old: int) -> Head:
        await self._reach("renew_epoch")
        if self.log.epoch == old:
            self.log.epoch += 1
        head = Head(self.log.head, self.log.epoch, self.log.floor)
        await self._return("renew_epoch")
        return head

    async def range(self, after: int, upto: int, limit: int) -> Sequence[StoredEvent]:
        await self._reach("range")
        events = self.log.events[max(after, self.log.dropped) : upto][:limit]
        await self._return("range")
        return events

    async def windows(
        self, windows: Sequence[Window], after: int, upto: int, limit: int
    ) -> Sequence[StoredEvent]:
        await self._reach("windows")
        inside = [
            event
            for event in self.log.events[max(after, self.log.dropped) : upto]
            for w in windows
            if w.topic == event.topic and w.opens <= event.position <= (w.closes or upto)
        ]
        await self._return("windows")
        return inside[:limit]

    async def views(self, users: Sequence[tuple[TenantId, UserId]]) -> dict[UserId, View]:
        await self._reach("views")
        found = {user: View(user, self.log.head, self.log.windows_of(user)) for _, user in users}
        await self._return("views")
        return found

    async def view(self, key: tuple[TenantId, UserId]) -> View:
        """A :class:`realtime.hub.ViewLoader`."""
        return (await self.views([key]))[key[1]]


class Counted:
    """Counts what the reader and the hub report."""

    def __init__(self) -> None:
        self.healed = self.behind = self.hints = 0
        self.caught: dict[str, int] = defaultdict(int)
        self.resyncs: list[str] = []
        self.written: dict[str, int] = defaultdict(int)

    def gap_healed(self) -> None:
        self.healed += 1

    def hint_received(self) -> None:
        self.hints += 1

    def log_read(self, head: int, behind: int, seconds: float) -> None:
        assert head >= 0
        assert behind >= 0
        assert seconds >= 0

    def caught_up(self, source: Literal["ring", "database"], events: int) -> None:
        self.caught[source] += events

    def delivered(self, transport: str, events: int) -> None:
        self.written[transport] += events

    def fell_behind(self) -> None:
        self.behind += 1

    def resynced(self, reason: str) -> None:
        self.resyncs.append(reason)


class FakeTransport:
    """A connection whose peer takes bytes at once, or nothing while ``stalled``, or as told by :meth:`take`."""

    def __init__(self, wire: Wire, clock: Callable[[], float]) -> None:
        self.wire = wire
        self._clock = clock
        self._waiting = bytearray()
        self._taken = bytearray()
        self.writes = 0
        self.stalled = False
        self.silent_since: float | None = None
        self.closing: Closing | None = None
        self.written: Callable[[bytes], None] = lambda data: None
        """Sees each write as it happens."""

    def write(self, data: bytes) -> int:
        if self.closing is not None:
            raise Misuse("written after the close")
        if not data:
            raise Misuse("an empty write is a wasted call")
        self.writes += 1
        self.written(data)
        (self._waiting if self.stalled else self._taken).extend(data)
        return self.buffered()

    def buffered(self) -> int:
        return len(self._waiting)

    def close(self, closing: Closing) -> None:
        if self.closing is not None:
            raise Misuse("closed twice")
        self.closing = closing

    def heard_at(self) -> float | None:
        if self.wire == "sse":
            return None
        return self._clock() if self.silent_since is None else self.silent_since

    def stall(self) -> None:
        self.stalled = True

    def take(self, size: int | None = None) -> None:
        """The peer takes so many bytes of what waits for it; all of it, and goes on reading, where no size is given."""
        self.stalled = size is not None
        count = len(self._waiting) if size is None else size
        self._taken.extend(self._waiting[:count])
        del self._waiting[:count]

    def frames(self) -> list[Frame]:
        """What has reached the peer since the last call; whole frames only, as bytes may stop anywhere."""
        whole = bytes(self._taken)
        if self._waiting or self.stalled:
            whole = _whole(self.wire, whole)
        del self._taken[: len(whole)]
        return read_frames(self.wire, whole)

    def events(self) -> list[int]:
        """The positions of the durable events that have reached the peer since the last call."""
        return [f.data["data"]["seq"] for f in self.frames() if f.data.get("cursor") and "topic" in f.data]


def _whole(wire: Wire, data: bytes) -> bytes:
    """The part of the bytes that is whole frames."""
    if wire == "sse":
        return data[: data.rfind(b"\n\n") + 2] if b"\n\n" in data else b""
    at = 0
    while at + 2 <= len(data):
        size, start = data[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, start = int.from_bytes(data[start : start + width], "big"), start + width
        if start + size > len(data):
            break
        at = start + size
    return data[:at]


class Background:
    """Runs what the core wants run beside it, and keeps what went wrong."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(_as_none(work))
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)

    async def stop(self) -> None:
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not self.failures, self.failures


async def _as_none(work: Coroutine[object, object, None]) -> None:
    await work


@dataclass
class Instance:
    """A reader and a hub on the fake log: what one process has of the realtime core."""

    log: FakeLog
    limits: HubLimits = field(default_factory=HubLimits)
    timing: LogTiming = field(default_factory=LogTiming)
    ring_events: int = 10_000
    ring_bytes: int = 1 << 24

    def __post_init__(self) -> None:
        clock = asyncio.get_running_loop().time
        self.source = FakeSource(self.log)
        self.counted = Counted()
        self.background = Background()
        ring = Ring(max_events=self.ring_events, max_bytes=self.ring_bytes)
        self.reader = LogReader(self.source, ring, self.counted, clock, self.timing)
        self.hub = Hub(
            self.reader,
            self.source,
            self.source.view,
            self.counted,
            clock=clock,
            wall=clock,
            spawn=self.background.spawn,
            limits=self.limits,
        )

    async def start(self, warm: int = 0) -> Instance:
        await self.reader.start(warm)
        self.hub.start()
        self.background.spawn(self.reader.run())
        self.background.spawn(self.hub.run())
        return self

    async def connect(
        self,
        user: UserId,
        cursor: str | None = None,
        *,
        wire: Wire = "ws",
        groups: frozenset[Group] | None = None,
        sign_in: SessionId | None = None,
        expires_at: float = float("inf"),
        transport: FakeTransport | None = None,
    ) -> tuple[Session, FakeTransport]:
        """A session as a handler opens one. Raises NotFresh."""
        place = await self.hub.places.find(cursor)
        view = await self.hub.view(DEFAULT_TENANT, user)
        if transport is None:
            transport = FakeTransport(wire, self.hub.clock)
        session = self.hub.open(
            view,
            transport,
            place,
            sign_in=sign_in or SessionId(new_id()),
            expires_at=expires_at,
            groups=groups,
        )
        session.greet({"type": "hello", "cursor": place.presented}, place.resync)
        session.start()
        return session, transport


def user() -> UserId:
    return UserId(new_id())


def conversation() -> Topic:
    return Topic(TopicKind.CONVERSATION, new_id())


async def passes(seconds: float) -> None:
    """Simulated time passes."""
    await asyncio.sleep(seconds)


async def turns(count: int = 3) -> None:
    """The loop turns, and no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)
