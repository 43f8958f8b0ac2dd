"""The roster on a real Redis, which is flushed, killed and frozen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from domain.ids import UserId, new_id
from realtime.roster import RedisRoster, RosterAway, RosterTiming
from storage.redis import connect
from tests.support.services import OwnRedis

ALIVE = 0.1
Open = Callable[..., RedisRoster]


@asynccontextmanager
async def rosters(url: str, namespace: str | None = None) -> AsyncIterator[Open]:
    """Makes instances of one deployment."""
    deployment = namespace or str(new_id())
    async with AsyncExitStack() as stack:

        def make(
            name: str,
            *,
            alive: float = 60.0,
            reap: float = 60.0,
            answer: float = 2.0,
            clock: Callable[[], float] = time.monotonic,
        ) -> RedisRoster:
            redis = connect(url)
            stack.push_async_callback(redis.aclose)
            timing = RosterTiming(alive=alive, reap=reap, answer=answer)
            return RedisRoster(redis, deployment, name, clock=clock, wall=time.time, timing=timing)

        yield make


@pytest.fixture
def crowd() -> list[UserId]:
    return [UserId(new_id()) for _ in range(2500)]


async def gone(roster: RedisRoster, user: UserId) -> None:
    """Returns once ``user`` is on no living instance."""
    async with asyncio.timeout(10):
        while (await roster.look_up([user], seen=False)).on:
            pass


async def test_users_are_found_on_the_instances_they_are_connected_to(
    redis_url: str, crowd: list[UserId]
) -> None:
    async with rosters(redis_url) as make:
        a, b, c = make("a"), make("b"), make("c")
        for roster in (a, b, c):
            assert await roster.beat() == 0
        await a.replace(crowd[:2000])
        await b.change(crowd[1000:], {})
        found = await c.look_up([*crowd, UserId(new_id())], seen=True)
        assert found.on == (
            dict.fromkeys(crowd[:1000], frozenset("a"))
            | dict.fromkeys(crowd[1000:2000], frozenset("ab"))
            | dict.fromkeys(crowd[2000:], frozenset("b"))
        )
        assert not found.seen
        assert (await a.look_up(crowd[:1], seen=False)).on == {}, "what is here, this instance knows better"
        assert await a.beat() == 2000
        assert await b.beat() == 1500


async def test_users_who_leave_are_gone_and_when_is_known(redis_url: str, crowd: list[UserId]) -> None:
    async with rosters(redis_url) as make:
        a, b = make("a"), make("b")
        await a.beat()
        await a.replace(crowd)
        at = time.time() - 5
        await a.change([], dict.fromkeys(crowd[:1200], at))
        found = await b.look_up(crowd, seen=True)
        assert found.on.keys() == set(crowd[1200:])
        assert found.seen == pytest.approx(dict.fromkeys(crowd[:1200], at), abs=0.001)
        assert await a.beat() == 1300


async def test_users_of_an_instance_that_stops_beating_are_gone(redis_url: str, crowd: list[UserId]) -> None:
    async with rosters(redis_url) as make:
        a, b = make("a", alive=ALIVE), make("b")
        before = time.time()
        await a.beat()
        await a.replace(crowd)
        await gone(b, crowd[0])
        found = await b.look_up(crowd, seen=True)
        assert not found.on
        assert found.seen.keys() == set(crowd)
        assert before - 0.001 <= found.seen[crowd[0]] <= time.time()
        again = make("a")
        assert await again.beat() == len(crowd), "it was only late: it comes back whole"
        assert (await b.look_up(crowd, seen=False)).on.keys() == set(crowd)


async def test_a_dead_instance_is_reaped_after_a_while_by_one(redis_url: str, crowd: list[UserId]) -> None:
    clock = 0.0

    def moved() -> float:
        return clock

    async with rosters(redis_url) as make:
        a = make("a", alive=ALIVE)
        b, c = make("b", reap=60, clock=moved), make("c", reap=60, clock=moved)
        await a.beat()
        await a.replace(crowd)
        await gone(b, crowd[0])
        assert [*await b.reap(), *await c.reap()] == []
        clock = 59.0
        assert [*await b.reap(), *await c.reap()] == []
        clock = 61.0
        reaped = [dead for both in await asyncio.gather(b.reap(), c.reap()) for dead in both]
        assert len(reaped) == 1
        assert sorted(reaped[0].users) == sorted(crowd)
        assert await a.beat() == 0, "should it live after all, it writes its users again"
        assert (await b.look_up(crowd, seen=True)).seen == {}


async def test_an_instance_that_leaves_counts_a_while_longer(redis_url: str, crowd: list[UserId]) -> None:
    async with rosters(redis_url) as make:
        a, b = make("a"), make("b")
        await a.beat()
        await a.replace(crowd)
        await a.leave(60)
        assert (await b.look_up(crowd, seen=False)).on.keys() == set(crowd)
        await a.leave(ALIVE)
        await gone(b, crowd[0])


async def test_replacing_with_nobody_leaves_nobody(redis_url: str, crowd: list[UserId]) -> None:
    async with rosters(redis_url) as make:
        a, b = make("a"), make("b")
        await a.beat()
        await a.replace(crowd)
        await a.replace([])
        assert (await b.look_up(crowd, seen=False)).on == {}
        assert await a.beat() == 0


async def test_deployments_on_one_redis_do_not_see_each_other(redis_url: str, crowd: list[UserId]) -> None:
    async with rosters(redis_url) as make, rosters(redis_url) as make_other:
        a, b = make("a"), make_other("b")
        await a.beat()
        await a.replace(crowd)
        assert (await b.look_up(crowd, seen=True)).on == {}
        assert list(await b.reap()) == []


async def test_a_flush_is_noticed_and_nobody_is_believed_to_be_gone(
    own_redis: OwnRedis, crowd: list[UserId]
) -> None:
    async with rosters(own_redis.url) as make:
        a, b = make("a"), make("b")
        await a.beat()
        await a.replace(crowd)
        assert (await b.look_up(crowd, seen=False)).young
        await asyncio.to_thread(own_redis.flush)
        found = await b.look_up(crowd, seen=False)
        assert not found.on
        assert found.young
        assert await a.beat() == 0
        await a.replace(crowd)
        assert (await b.look_up(crowd, seen=False)).on.keys() == set(crowd)


async def test_a_roster_of_some_age_is_believed(redis_url: str) -> None:
    async with rosters(redis_url) as make:
        a = make("a")
        await a.beat()
        # As if it had begun a minute ago: that much less of its time is left.
        key = a._key("began")
        left = await a._redis.pttl(key)
        await a._redis.pexpire(key, left - 60_000)
        assert not (await a.look_up([UserId(new_id())], seen=False)).young


async def calls(roster: RedisRoster, user: UserId) -> None:
    """Every call must say that Redis is away."""
    with pytest.raises(RosterAway):
        await roster.beat()
    with pytest.raises(RosterAway):
        await roster.replace([user])
    with pytest.raises(RosterAway):
        await roster.change([user], {})
    with pytest.raises(RosterAway):
        await roster.look_up([user], seen=True)
    with pytest.raises(RosterAway):
        await roster.reap()
    with pytest.raises(RosterAway):
        await roster.leave(1)


async def test_a_killed_redis_is_away_and_comes_back(own_redis: OwnRedis, crowd: list[UserId]) -> None:
    async with rosters(own_redis.url) as make:
        a = make("a")
        await a.beat()
        await a.replace(crowd)
        await asyncio.to_thread(own_redis.kill)
        await calls(a, crowd[0])
        await asyncio.to_thread(own_redis.start)
        assert await a.beat() == 0


async def test_a_frozen_redis_is_away_within_its_time(own_redis: OwnRedis, crowd: list[UserId]) -> None:
    async with rosters(own_redis.url) as make:
        a = make("a", answer=0.1)
        await a.beat()
        await a.replace(crowd)
        await asyncio.to_thread(own_redis.freeze)
        began = time.monotonic()
        await calls(a, crowd[0])
        assert time.monotonic() - began < 6 * 1.0
        await asyncio.to_thread(own_redis.thaw)
        assert await a.beat() == len(crowd)
