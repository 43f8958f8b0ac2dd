"""Two instances and a real Redis, which is killed, frozen and cut off: buses, rosters and presence as the server joins
them, with shorter times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from domain.ids import ConversationId, UserId, new_id
from domain.log import conversation_topic
from realtime.roster import RosterTiming
from storage.redis import connect
from tests.support.live import BRIEF, ROSTER, TIMING, HeardHub, Node, until
from tests.support.services import OwnRedis

AWAY = 8.0  # seconds the client may take to see that Redis is away or back


class Told(Node):
    """Writes down what it is told, and what is shown."""

    def __init__(self, redis: Redis, namespace: str, name: str, roster_timing: RosterTiming) -> None:
        hub = HeardHub()
        super().__init__(redis, namespace, name, hub, roster_timing)
        self.shown = hub.shown
        self.told: list[tuple[UserId, bool]] = []
        self.presence.changed = self._changed

    def _changed(self, users: Collection[UserId]) -> None:
        self.told += [(user, self.online(user)) for user in users]


@asynccontextmanager
async def nodes(
    url: str, *names: str, roster_timing: RosterTiming = ROSTER
) -> AsyncIterator[list[tuple[Told, asyncio.Task[None]]]]:
    namespace = str(new_id())
    made = [Told(connect(url), namespace, name, roster_timing) for name in names]
    tasks = [asyncio.create_task(node.run()) for node in made]
    try:
        await until(lambda: all(node.joined for node in made))
        yield list(zip(made, tasks, strict=True))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in made:
            await node.redis.aclose()


async def test_users_come_and_go_across_instances(redis_url: str) -> None:
    async with nodes(redis_url, "a", "b") as ((a, _), (b, _)):
        bob = UserId(new_id())
        await b.watch(bob)
        before = time.time()
        a.presence.appeared(bob)
        await until(lambda: b.online(bob))
        a.presence.disappeared(bob)
        await until(lambda: not b.online(bob))
        seen = b.presence.status(bob).last_seen
        assert seen is not None
        assert before <= seen <= time.time()
        assert b.told == [(bob, True), (bob, False)]


async def test_an_instance_that_dies_is_forgotten(redis_url: str) -> None:
    async with nodes(redis_url, "a", "b", roster_timing=BRIEF) as ((a, running), (b, _)):
        bob = UserId(new_id())
        a.presence.appeared(bob)
        await b.watch(bob)
        await until(lambda: b.online(bob))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        died = time.monotonic()
        await until(lambda: not b.online(bob))
        assert time.monotonic() - died < BRIEF.alive + TIMING.recheck + AWAY


async def test_typing_crosses_instances(redis_url: str) -> None:
    async with nodes(redis_url, "a", "b") as ((a, _), (b, _)):
        conversation, ann = ConversationId(new_id()), UserId(new_id())
        topic = conversation_topic(conversation).key
        a.typing.start(conversation, ann, frozenset())
        await until(lambda: b.shown == [("typing.started", topic)])
        b.typing.stop(conversation, ann)
        await until(lambda: a.shown == [("typing.started", topic), ("typing.stopped", topic)])


async def test_a_killed_redis_makes_nobody_go_and_is_taken_up_again(own_redis: OwnRedis) -> None:
    async with nodes(own_redis.url, "a", "b") as ((a, _), (b, _)):
        bob, eve, ann = UserId(new_id()), UserId(new_id()), UserId(new_id())
        a.presence.appeared(bob)
        await b.watch(bob, eve, ann)
        await until(lambda: b.online(bob))
        b.told.clear()
        await asyncio.to_thread(own_redis.kill)
        await until(lambda: not a.presence.available and not b.presence.available)
        a.presence.appeared(eve)
        b.presence.appeared(ann)
        assert b.online(ann), "what is here needs no Redis"
        assert b.online(bob), "the last that was known"
        await asyncio.to_thread(own_redis.start)
        await until(lambda: b.online(eve))
        await until(lambda: a.joined and b.joined)
        a.presence.disappeared(bob)
        await until(lambda: not b.online(bob))
        assert sorted(b.told) == sorted([(ann, True), (eve, True), (bob, False)])


async def test_a_flushed_redis_makes_nobody_go(own_redis: OwnRedis) -> None:
    async with nodes(own_redis.url, "a", "b") as ((a, _), (b, _)):
        bob, eve = UserId(new_id()), UserId(new_id())
        a.presence.appeared(bob)
        await b.watch(bob)
        await until(lambda: b.online(bob))
        b.told.clear()
        await asyncio.to_thread(own_redis.flush)
        a.presence.appeared(eve)
        await b.watch(eve)
        await until(lambda: b.online(eve))
        rewritten: list[int] = []

        async def look() -> None:
            while not rewritten:
                found = await b.presence._roster.look_up([bob], seen=False)
                if bob in found.on and not found.young:
                    rewritten.append(1)

        async with asyncio.timeout(AWAY):
            await look()
        assert (bob, False) not in b.told


async def test_a_redis_that_cuts_every_connection_costs_nothing(own_redis: OwnRedis) -> None:
    async with nodes(own_redis.url, "a", "b") as ((a, _), (b, _)):
        bob, eve = UserId(new_id()), UserId(new_id())
        a.presence.appeared(bob)
        await b.watch(bob, eve)
        await until(lambda: b.online(bob))
        await asyncio.to_thread(own_redis.drop_clients)
        a.presence.appeared(eve)
        await until(lambda: b.online(eve))
        assert (bob, False) not in b.told


async def test_a_frozen_redis_holds_up_nobody(own_redis: OwnRedis) -> None:
    async with nodes(own_redis.url, "a", "b") as ((a, _), (b, _)):
        bob, eve = UserId(new_id()), UserId(new_id())
        a.presence.appeared(bob)
        await b.watch(bob)
        await until(lambda: b.online(bob))
        await asyncio.to_thread(own_redis.freeze)
        try:
            began = time.monotonic()
            await b.watch(eve)
            assert time.monotonic() - began < ROSTER.answer + 1
            await until(lambda: not b.presence.available)
            began = time.monotonic()
            await b.watch(UserId(new_id()))
            assert time.monotonic() - began < ROSTER.answer, "it is known to be away: nobody waits for it"
            assert b.online(bob)
        finally:
            await asyncio.to_thread(own_redis.thaw)
        a.presence.appeared(eve)
        await until(lambda: b.online(eve))
