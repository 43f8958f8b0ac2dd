"""Which users are connected to which instance, in Redis: what an instance asks of users it has no session of.

Keys, behind ``parley:<deployment>:presence:``

| key | what |
| --- | --- |
| ``instances`` | hash of instance → its last beat, milliseconds since the epoch |
| ``alive:<instance>`` | there while the instance beats; gone ``alive`` seconds after its last beat |
| ``on:<instance>`` | set of the users who have a session there, 16 bytes each |
| ``seen:<user>`` | when a user left last, milliseconds since the epoch; for an hour |
| ``began`` | there since the roster has been; its time to live tells for how long |

An instance costs five commands a beat whatever the number of its users, a user one entry in a set, and looking up a
thousand users one command an instance. A dead instance's users are all gone at once, with its ``alive`` key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from domain.ids import UserId

T = TypeVar("T")

CHUNK = 1000  # users in one command: less than a millisecond of Redis's time
DAY = 86_400
MONTH = 30 * DAY
HOUR = 3_600


class RosterAway(Exception):
    """Redis did not answer in time, or not well."""


@dataclass(frozen=True, slots=True)
class RosterTiming:
    """Seconds. ``alive``: how long an instance counts after its last beat. ``young``: how long after the roster began
    instances may still be missing from it. ``reap``: how long a dead instance's users stay, for others to learn when
    they were last seen. ``answer``: how long Redis may take."""

    alive: float = 22.0
    young: float = 12.0
    reap: float = 60.0
    answer: float = 2.0


@dataclass(frozen=True, slots=True)
class Found:
    """What the roster says of some users."""

    on: Mapping[UserId, frozenset[str]]
    """The other, living instances that have a session of theirs; not there for users without one."""
    seen: Mapping[UserId, float]
    """When they were last seen (seconds since the epoch), as far as it was asked for and is known."""
    young: bool
    """The roster was lost lately: who is missing in it may be connected all the same."""


@dataclass(frozen=True, slots=True)
class Dead:
    """Users of an instance that died, and its last beat (seconds since the epoch)."""

    users: Sequence[UserId]
    at: float


class Roster(Protocol):
    """Every method raises :class:`RosterAway`, soon, where Redis is away."""

    instance: str

    async def beat(self) -> int:
        """Says that this instance lives. Returns how many users the roster has for it."""

    async def replace(self, users: Sequence[UserId]) -> None:
        """Makes these the users of this instance."""

    async def change(self, came: Sequence[UserId], left: Mapping[UserId, float]) -> None:
        """Adds users, and takes out others who were there until the times given (seconds since the epoch)."""

    async def look_up(self, users: Sequence[UserId], *, seen: bool) -> Found:
        """What is known of users, this instance aside; with ``seen`` also when they were last seen."""

    async def reap(self) -> Sequence[Dead]:
        """Forgets instances that died a while ago; each is given to one caller only."""

    async def leave(self, seconds: float) -> None:
        """Says that this instance will be gone in that time."""


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


class RedisRoster:
    """The :class:`Roster` of one deployment."""

    def __init__(
        self,
        redis: Redis,
        namespace: str,
        instance: str,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        timing: RosterTiming | None = None,
    ) -> None:
        self.instance = instance
        self._redis = redis
        self._prefix = f"parley:{namespace}:presence:"
        self._clock = clock
        self._wall = wall
        self._timing = timing or RosterTiming()
        self._dead: dict[str, float] = {}
        """Since when this instance has known each to be dead."""

    async def beat(self) -> int:
        mine = self._key("on", self.instance)
        async with self._pipeline() as pipeline:
            pipeline.hset(self._key("instances"), self.instance, str(self._milliseconds()))
            pipeline.set(self._key("alive", self.instance), b"1", px=round(self._timing.alive * 1000))
            pipeline.set(self._key("began"), b"1", nx=True, ex=MONTH)
            pipeline.expire(mine, DAY)
            pipeline.scard(mine)
            answers = await pipeline.execute()
        return int(answers[-1])

    async def replace(self, users: Sequence[UserId]) -> None:
        mine, new = self._key("on", self.instance), self._key("on", self.instance, "new")
        async with self._pipeline() as pipeline:
            pipeline.unlink(new)
            await pipeline.execute()
        for chunk in chunks(users):
            async with self._pipeline() as pipeline:
                pipeline.sadd(new, *[user.bytes for user in chunk])
                await pipeline.execute()
        async with self._pipeline() as pipeline:
            if users:
                pipeline.rename(new, mine)
                pipeline.expire(mine, DAY)
            else:
                pipeline.unlink(mine)
            await pipeline.execute()

    async def change(self, came: Sequence[UserId], left: Mapping[UserId, float]) -> None:
        mine = self._key("on", self.instance)
        for chunk in chunks(came):
            async with self._pipeline() as pipeline:
                pipeline.sadd(mine, *[user.bytes for user in chunk])
                await pipeline.execute()
        for gone in chunks(list(left.items()), CHUNK // 2):
            async with self._pipeline() as pipeline:
                pipeline.srem(mine, *[user.bytes for user, _ in gone])
                for user, at in gone:
                    pipeline.set(self._seen_key(user), str(round(at * 1000)), ex=HOUR)
                await pipeline.execute()

    async def look_up(self, users: Sequence[UserId], *, seen: bool) -> Found:
        beats, alive, young = await self._instances()
        on: dict[UserId, frozenset[str]] = {}
        last: dict[UserId, float] = {}
        for chunk in chunks(users):
            ids = [user.bytes for user in chunk]
            async with self._pipeline() as pipeline:
                for instance in beats:
                    pipeline.smismember(self._key("on", instance), ids)
                if seen:
                    pipeline.mget([self._seen_key(user) for user in chunk])
                answers = await pipeline.execute()
            for (instance, beat), flags in zip(beats.items(), answers, strict=False):
                for user, flag in zip(chunk, flags, strict=True):
                    if flag and instance in alive:
                        on[user] = on.get(user, frozenset()) | {instance}
                    elif flag:
                        last[user] = max(beat, last.get(user, beat))
            if seen:
                for user, text in zip(chunk, answers[-1], strict=True):
                    if text is not None:
                        last[user] = max(int(text) / 1000, last.get(user, 0.0))
        return Found(on, last if seen else {}, young)

    async def reap(self) -> Sequence[Dead]:
        beats, alive, _ = await self._instances()
        now = self._clock()
        self._dead = {instance: self._dead.get(instance, now) for instance in beats.keys() - alive}
        reaped = []
        for instance, since in self._dead.items():
            if now - since >= self._timing.reap:
                users = await self._claim(instance)
                if users:
                    reaped.append(Dead(users, beats[instance]))
        return reaped

    async def leave(self, seconds: float) -> None:
        async with self._pipeline() as pipeline:
            pipeline.hset(self._key("instances"), self.instance, str(self._milliseconds()))
            pipeline.pexpire(self._key("alive", self.instance), max(1, round(seconds * 1000)))
            await pipeline.execute()

    async def _claim(self, instance: str) -> Sequence[UserId]:
        """Takes a dead instance out of the roster. Empty where another was first."""
        async with self._pipeline() as pipeline:
            pipeline.hdel(self._key("instances"), instance)
            claimed = (await pipeline.execute())[0]
        if not claimed:
            return ()
        users: list[UserId] = []
        cursor = None
        while cursor != 0:
            async with self._pipeline() as pipeline:
                pipeline.sscan(self._key("on", instance), cursor or 0, count=CHUNK)
                cursor, members = (await pipeline.execute())[0]
            users.extend(UserId(UUID(bytes=member)) for member in members)
        async with self._pipeline() as pipeline:
            pipeline.unlink(self._key("on", instance))
            await pipeline.execute()
        return users

    async def _instances(self) -> tuple[dict[str, float], frozenset[str], bool]:
        """The other instances and their last beats, which of them live, and whether the roster is young."""
        began = self._key("began")
        async with self._pipeline() as pipeline:
            pipeline.set(began, b"1", nx=True, ex=MONTH)
            pipeline.pttl(began)
            pipeline.hgetall(self._key("instances"))
            _, left, raw = await pipeline.execute()
        young = MONTH - left / 1000 < self._timing.young
        beats = {name.decode(): int(at) / 1000 for name, at in raw.items()}
        beats.pop(self.instance, None)
        if not beats:
            return {}, frozenset(), young
        async with self._pipeline() as pipeline:
            pipeline.mget([self._key("alive", name) for name in beats])
            answers = (await pipeline.execute())[0]
        return beats, frozenset(name for name, there in zip(beats, answers, strict=True) if there), young

    @asynccontextmanager
    async def _pipeline(self) -> AsyncIterator[Any]:
        """One round trip, within its time."""
        task = asyncio.current_task()
        cancelling = task.cancelling() if task else 0
        try:
            async with (
                asyncio.timeout(self._timing.answer),
                self._redis.pipeline(transaction=False) as pipeline,
            ):
                yield pipeline
        except (RedisError, OSError, TimeoutError) as error:
            raise RosterAway(type(error).__name__) from error
        if task and task.cancelling() > cancelling:
            # The client sends by asyncio.wait_for, which on Python 3.11 loses a cancellation that arrives in the
            # moment the sending is done (python/cpython#86296).
            raise asyncio.CancelledError

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    def _seen_key(self, user: UserId) -> str:
        return self._key("seen", str(user))

    def _milliseconds(self) -> int:
        return round(self._wall() * 1000)
