"""Typing and presence in tests: what stands in for Redis under them, and instances that share it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis

from domain.ids import UserId
from realtime.bus import Bus
from realtime.events import Group
from realtime.live import LiveHub
from realtime.presence import Presence, PresenceTiming
from realtime.roster import Dead, Found, RedisRoster, RosterAway, RosterTiming
from realtime.typing import Typing
from tests.support.fakes import Background, passes


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits for what only real time brings (a key of Redis that expires): looks again and again, fails in the end."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class FakeChannels:
    """Redis pub/sub: what one bus publishes, all others hear a moment later, unless it is lost."""

    LATENCY = 0.001

    def __init__(self) -> None:
        self.buses: list[FakeBus] = []
        self.lossy: Callable[[], bool] = lambda: False
        self.published: list[tuple[str, bytes]] = []


class FakeBus:
    """One instance's :class:`realtime.live.Channel`."""

    def __init__(self, channels: FakeChannels) -> None:
        self._channels = channels
        self._handlers: dict[str, Callable[[bytes], None]] = {}
        self.deaf = False
        channels.buses.append(self)

    def listen(self, channel: str, handler: Callable[[bytes], None]) -> None:
        self._handlers[channel] = handler

    def publish(self, channel: str, payload: bytes) -> None:
        self._channels.published.append((channel, payload))
        for bus in self._channels.buses:
            if bus is not self and not self._channels.lossy():
                asyncio.get_running_loop().call_later(FakeChannels.LATENCY, bus._hear, channel, payload)

    def _hear(self, channel: str, payload: bytes) -> None:
        if not self.deaf and channel in self._handlers:
            self._handlers[channel](payload)


class FakeRosterStore:
    """The roster's keys, by simulated time."""

    LATENCY = 0.001

    def __init__(self, timing: RosterTiming | None = None) -> None:
        self.timing = timing or RosterTiming()
        self.away = False
        self.calls: list[str] = []
        self.flush()

    def flush(self) -> None:
        """FLUSHALL."""
        self.on: dict[str, set[UserId]] = {}
        self.alive_until: dict[str, float] = {}
        self.beats: dict[str, float] = {}
        self.seen: dict[UserId, float] = {}
        self.began: float | None = None


class FakeRoster:
    """One instance's :class:`realtime.roster.Roster`, as :class:`realtime.roster.RedisRoster` is one on Redis."""

    def __init__(self, store: FakeRosterStore, instance: str) -> None:
        self.instance = instance
        self.during: Callable[[], None] = lambda: None
        """Called when the next look-up has its answer, before it arrives; once."""
        self._store = store
        self._dead: dict[str, float] = {}

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _reach(self, name: str) -> None:
        self._store.calls.append(name)
        await asyncio.sleep(FakeRosterStore.LATENCY / 2)
        if self._store.away:
            await asyncio.sleep(self._store.timing.answer)
            raise RosterAway("away")

    async def _return(self) -> None:
        await asyncio.sleep(FakeRosterStore.LATENCY / 2)

    async def beat(self) -> int:
        await self._reach("beat")
        store = self._store
        store.beats[self.instance] = self._now()
        store.alive_until[self.instance] = self._now() + store.timing.alive
        store.began = self._now() if store.began is None else store.began
        size = len(store.on.get(self.instance, ()))
        await self._return()
        return size

    async def replace(self, users: Sequence[UserId]) -> None:
        await self._reach("replace")
        self._store.on[self.instance] = set(users)
        await self._return()

    async def change(self, came: Sequence[UserId], left: Mapping[UserId, float]) -> None:
        await self._reach("change")
        mine = self._store.on.setdefault(self.instance, set())
        mine.update(came)
        mine.difference_update(left)
        self._store.seen.update(left)
        await self._return()

    async def look_up(self, users: Sequence[UserId], *, seen: bool) -> Found:
        await self._reach("look_up")
        store, now = self._store, self._now()
        store.began = now if store.began is None else store.began
        on: dict[UserId, frozenset[str]] = {}
        last: dict[UserId, float] = {}
        for user in users:
            there = {name for name in store.beats if name != self.instance and user in store.on.get(name, ())}
            alive = {name for name in there if store.alive_until.get(name, 0.0) > now}
            if alive:
                on[user] = frozenset(alive)
            times = [store.beats[name] for name in there - alive]
            if user in store.seen:
                times.append(store.seen[user])
            if seen and times:
                last[user] = max(times)
        young = now - store.began < store.timing.young
        during, self.during = self.during, lambda: None
        during()
        await self._return()
        return Found(on, last, young)

    async def reap(self) -> Sequence[Dead]:
        await self._reach("reap")
        store, now = self._store, self._now()
        dead = {
            name for name in store.beats if name != self.instance and store.alive_until.get(name, 0.0) <= now
        }
        self._dead = {name: self._dead.get(name, now) for name in dead}
        reaped = []
        for name, since in self._dead.items():
            if now - since >= store.timing.reap:
                reaped.append(Dead(list(store.on.pop(name, ())), store.beats.pop(name)))
        await self._return()
        return [d for d in reaped if d.users]

    async def leave(self, seconds: float) -> None:
        await self._reach("leave")
        self._store.beats[self.instance] = self._now()
        self._store.alive_until[self.instance] = self._now() + seconds
        await self._return()


@dataclass
class PresentInstance:
    """An instance as far as presence goes. ``open`` and ``close`` are what its hub says of sessions."""

    name: str
    channels: FakeChannels
    store: FakeRosterStore
    timing: PresenceTiming = field(default_factory=PresenceTiming)

    def __post_init__(self) -> None:
        clock = asyncio.get_running_loop().time
        self.bus = FakeBus(self.channels)
        self.roster = FakeRoster(self.store, self.name)
        self.presence = Presence(self.bus, self.roster, clock=clock, wall=clock, timing=self.timing)
        self.background = Background()
        self.sessions: dict[UserId, int] = {}
        self.told: list[tuple[UserId, bool, float | None]] = []
        self.seen: dict[UserId, float] = {}
        self.gone: list[UserId] = []
        self.presence.changed = self._changed
        self.presence.seen = self.seen.update
        self.presence.gone = self._gone

    def _changed(self, users: Collection[UserId]) -> None:
        for user in users:
            status = self.presence.status(user)
            self.told.append((user, status.online, status.last_seen))

    def _gone(self, users: Collection[UserId]) -> None:
        self.gone += users

    def start(self) -> PresentInstance:
        self.background.spawn(self.presence.run())
        return self

    def open(self, user: UserId) -> None:
        self.sessions[user] = self.sessions.get(user, 0) + 1
        if self.sessions[user] == 1:
            self.presence.appeared(user)

    def close(self, user: UserId) -> None:
        self.sessions[user] -= 1
        if not self.sessions[user]:
            self.presence.disappeared(user)

    async def watch(self, *users: UserId) -> None:
        """From here on :attr:`told` is kept."""
        await self.presence.learn(self.presence.watch(users))
        self.told.clear()

    def online(self, user: UserId) -> bool:
        return self.presence.status(user).online

    async def die(self) -> None:
        """As by kill -9: says nothing more, and hears nothing."""
        self.bus.deaf = True
        await self.background.stop()

    async def leave(self) -> None:
        """As by SIGTERM: its sessions end, then it does."""
        self.presence.hold()
        for user, count in list(self.sessions.items()):
            for _ in range(count):
                self.close(user)
        await passes(2 * self.timing.linger)  # while requests end and connections close
        await self.background.stop()
        await self.presence.leave()
        self.bus.deaf = True


class World:
    """Instances that share a Redis."""

    def __init__(self, *names: str, roster: RosterTiming | None = None) -> None:
        self.channels = FakeChannels()
        self.store = FakeRosterStore(roster)
        self.instances = [self.add(name) for name in names]

    def add(self, name: str) -> PresentInstance:
        return PresentInstance(name, self.channels, self.store).start()

    async def stop(self) -> None:
        for instance in self.instances:
            await instance.background.stop()


TIMING = PresenceTiming(linger=0.2, gather=0.01, step=0.05, beat=0.3, retry=0.1, recheck=0.3)
ROSTER = RosterTiming(young=0.8, answer=0.5)
BRIEF = RosterTiming(alive=1.0, young=0.8, answer=0.5)
"""An instance that does not beat for a second is dead: for tests of just that, as a busy machine is that slow."""


class HeardHub:
    """A hub that only writes down what is shown."""

    fresh = True

    def __init__(self) -> None:
        self.shown: list[tuple[str, bytes]] = []

    def live(
        self, topic: bytes, payload: bytes, type_: str, group: Group, skip: Collection[UserId] = ()
    ) -> None:
        self.shown.append((type_, topic))


class Node:
    """One instance's live-only events on a real Redis, joined as the server joins them, with shorter times."""

    def __init__(
        self, redis: Redis, namespace: str, name: str, hub: LiveHub, roster_timing: RosterTiming = ROSTER
    ) -> None:
        self.redis = redis
        self.bus = Bus(redis, namespace, name, gap=lambda: self.presence.gap())
        roster = RedisRoster(
            redis, namespace, name, clock=time.monotonic, wall=time.time, timing=roster_timing
        )
        self.presence = Presence(self.bus, roster, clock=time.monotonic, wall=time.time, timing=TIMING)
        self.typing = Typing(hub, self.bus, clock=time.monotonic, wall=time.time)
        self.presence.gone = self.typing.gone

    @property
    def joined(self) -> bool:
        return self.bus.connected and self.presence.available

    def online(self, user: UserId) -> bool:
        return self.presence.status(user).online

    async def watch(self, *users: UserId) -> None:
        await self.presence.learn(self.presence.watch(users))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.bus.run())
            tasks.create_task(self.presence.run())
            tasks.create_task(self.typing.run())
