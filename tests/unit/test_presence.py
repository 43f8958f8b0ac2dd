"""Who is online, on simulated time: several instances, a Redis that loses things, and a clock that is moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from domain.ids import UserId
from realtime.live import PresenceHint, encode_presence
from tests.support.fakes import passes, user
from tests.support.live import PresentInstance, World
from tests.support.simulated import simulated

LINGER = 3.0
FORGOTTEN = 30.0  # seconds after which a dead instance's users are offline everywhere, as promised


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def world(*names: str) -> AsyncIterator[World]:
    """Instances that have known each other for a while."""
    made = World(*names)
    try:
        await passes(20)
        made.channels.published.clear()
        made.store.calls.clear()
        yield made
    finally:
        await made.stop()


async def online_at(instance: PresentInstance, who: UserId, watcher: PresentInstance) -> None:
    instance.open(who)
    await watcher.watch(who)
    await passes(1)
    assert watcher.online(who)
    watcher.told.clear()


@simulated
async def test_a_user_is_online_with_the_first_session_and_offline_a_moment_after_the_last() -> None:
    async with world("a") as w:
        (a,), bob = w.instances, user()
        await a.watch(bob)
        a.open(bob)
        assert a.told == [(bob, True, None)]
        a.open(bob)
        a.close(bob)
        await passes(60)
        assert a.told == [(bob, True, None)]
        a.close(bob)
        left = now()
        await passes(LINGER - 0.1)
        assert a.online(bob)
        await passes(1)
        assert a.told[1:] == [(bob, False, left)]
        assert a.seen == {bob: left}


@simulated
async def test_other_instances_hear_of_it_at_once() -> None:
    async with world("a", "b") as w:
        (a, b), bob = w.instances, user()
        await b.watch(bob)
        a.open(bob)
        await passes(0.1)
        assert b.told == [(bob, True, None)]
        a.close(bob)
        left = now()
        await passes(LINGER + 0.7)
        assert b.told == [(bob, True, None), (bob, False, left)]


@simulated
async def test_who_is_watched_later_is_known_from_the_roster() -> None:
    async with world("a", "b", "c") as w:
        (a, b, c), bob, eve, ann = w.instances, user(), user(), user()
        a.open(bob)
        b.open(eve)
        a.open(ann)
        await passes(1)
        a.close(ann)
        left = now()
        await passes(100)
        await c.watch(bob, eve, ann)
        assert c.online(bob)
        assert c.online(eve)
        assert c.presence.status(ann).last_seen == left
        assert not c.online(user())


@simulated
async def test_a_quick_reconnect_is_no_event() -> None:
    async with world("a", "b") as w:
        (a, b), bob = w.instances, user()
        await online_at(a, bob, b)
        await a.watch(bob)
        for _ in range(20):
            a.close(bob)
            await passes(LINGER - 0.2)
            a.open(bob)
            await passes(0.1)
        await passes(30)
        assert not a.told
        assert not b.told


@simulated
async def test_a_quick_reconnect_to_another_instance_is_no_event() -> None:
    async with world("a", "b", "c") as w:
        (a, b, c), bob = w.instances, user()
        await online_at(a, bob, c)
        await a.watch(bob)
        await b.watch(bob)
        a.close(bob)
        await passes(LINGER - 0.3)
        b.open(bob)
        await passes(30)
        assert [i.told for i in w.instances] == [[], [], []]
        assert a.gone == [bob], "what the user was doing on the first instance has ended all the same"


@simulated
async def test_a_quick_reconnect_to_another_instance_is_no_event_when_nothing_is_heard_of_it() -> None:
    async with world("a", "b", "c") as w:
        (a, b, c), bob = w.instances, user()
        await online_at(a, bob, c)
        await a.watch(bob)
        w.channels.lossy = lambda: True
        a.close(bob)
        await passes(1)
        b.open(bob)
        await passes(30)
        assert [i.told for i in w.instances] == [[], [], []]


@simulated
async def test_polls_that_come_and_go_are_one_presence() -> None:
    async with world("a", "b") as w:
        (a, b), bob = w.instances, user()
        await online_at(a, bob, b)
        w.store.calls.clear()
        w.channels.published.clear()
        for _ in range(500):
            a.close(bob)
            a.open(bob)
            await passes(0.01)
        assert not b.told
        assert not w.channels.published
        assert "change" not in w.store.calls


@simulated
async def test_whoever_is_connected_twice_stays_online_when_one_connection_goes() -> None:
    async with world("a", "b", "c") as w:
        (a, b, c), bob = w.instances, user()
        await online_at(a, bob, c)
        b.open(bob)
        await passes(1)
        a.close(bob)
        await passes(60)
        assert not c.told
        b.close(bob)
        left = now()
        await passes(LINGER + 1)
        assert c.told == [(bob, False, left)]


@simulated
async def test_users_of_an_instance_that_dies_are_offline_within_half_a_minute() -> None:
    async with world("a", "b") as w:
        (a, b), bob = w.instances, user()
        await online_at(a, bob, b)
        await a.die()
        last_beat, died = w.store.beats["a"], now()
        await passes(FORGOTTEN)
        assert b.told == [(bob, False, last_beat)]
        assert died - last_beat <= a.timing.beat + 0.1


@simulated
async def test_users_who_come_back_elsewhere_after_their_instance_died_never_left() -> None:
    async with world("a", "b", "c") as w:
        (a, b, c), bob = w.instances, user()
        await online_at(a, bob, c)
        await a.die()
        await passes(10)
        b.open(bob)
        await passes(120)
        assert not c.told


@simulated
async def test_when_users_of_a_dead_instance_were_last_seen_is_stored_once() -> None:
    async with world("a", "b", "c") as w:
        (a, b, c), bob = w.instances, user()
        a.open(bob)
        await passes(10)
        await a.die()
        last_beat = w.store.beats["a"]
        await passes(FORGOTTEN + 90)
        assert sorted([b.seen, c.seen], key=len) == [{}, {bob: last_beat}]
        assert "a" not in w.store.on


@simulated
async def test_what_the_bus_loses_is_found_within_seconds() -> None:
    async with world("a", "b") as w:
        (a, b), bob = w.instances, user()
        await b.watch(bob)
        w.channels.lossy = lambda: True
        a.open(bob)
        await passes(b.timing.recheck + 0.2)
        assert b.told == [(bob, True, None)]
        a.close(bob)
        left = now()
        await passes(LINGER + 0.6 + b.timing.recheck + 0.2)
        assert b.told == [(bob, True, None), (bob, False, left)]


@simulated
async def test_a_gap_on_the_bus_has_everyone_looked_up_at_once() -> None:
    async with world("a", "b") as w:
        (a, b), bob = w.instances, user()
        await b.watch(bob)
        w.channels.lossy = lambda: True
        a.open(bob)
        await passes(0.2)
        assert not b.told
        b.presence.gap()
        await passes(0.01)
        assert b.told == [(bob, True, None)]


@simulated
async def test_a_flushed_roster_makes_nobody_go() -> None:
    async with world("a", "b") as w:
        (a, b), bob, eve = w.instances, user(), user()
        await online_at(a, bob, b)
        w.store.flush()
        b.presence.gap()
        a.open(eve)
        await passes(0.2)
        assert bob not in w.store.on["a"], "at this moment the roster does not know"
        await passes(60)
        assert not b.told
        assert w.store.on["a"] == {bob, eve}, "every instance writes its users again"
        await b.watch(eve)
        assert b.online(eve)


@simulated
async def test_whoever_leaves_one_of_two_instances_after_a_flush_stays_online() -> None:
    async with world("a", "b", "c") as w:
        (a, b, c), bob = w.instances, user()
        await online_at(a, bob, c)
        b.open(bob)
        await passes(2)
        a.close(bob)
        await passes(LINGER - 0.01)
        w.store.flush()
        await passes(0.6)
        assert a.gone == [bob]
        assert "b" not in w.store.on, "at this moment the roster does not know"
        await passes(60)
        assert not c.told


@simulated
async def test_without_redis_an_instance_goes_by_what_it_knows() -> None:
    async with world("a", "b") as w:
        (a, b), bob, eve = w.instances, user(), user()
        await online_at(a, bob, b)
        w.store.away, w.channels.lossy = True, lambda: True
        await passes(10)
        began = now()
        await b.watch(eve)
        assert now() == began, "nobody waits for a Redis that is known to be away"
        b.open(eve)
        assert b.online(eve)
        await passes(60)
        assert b.online(bob), "the last that was known"
        b.close(eve)
        left = now()
        await passes(LINGER + 1)
        assert b.told == [(eve, True, None), (eve, False, left)]


@simulated
async def test_presence_is_right_again_soon_after_redis_is_back() -> None:
    async with world("a", "b") as w:
        (a, b), bob, eve = w.instances, user(), user()
        await online_at(a, bob, b)
        await b.watch(eve)
        w.store.away, w.channels.lossy = True, lambda: True
        await passes(5)
        a.close(bob)
        a.open(eve)
        left = now()
        await passes(30)
        assert not b.told
        w.store.away, w.channels.lossy = False, lambda: False
        await passes(a.timing.retry + w.store.timing.answer + b.timing.recheck + 1)
        assert sorted(b.told, key=str) == sorted([(bob, False, left), (eve, True, None)], key=str)
        assert w.store.on["a"] == {eve}


@simulated
async def test_what_could_not_be_written_is_told_when_redis_is_back() -> None:
    async with world("a", "b") as w:
        (a, b), bob, eve = w.instances, user(), user()
        await online_at(a, bob, b)
        await b.watch(eve)
        a.close(bob)
        left = now()
        await passes(LINGER - 0.01)
        assert a.presence.available
        w.store.away, w.channels.lossy = True, lambda: True
        a.open(eve)
        await passes(30)
        assert not b.told
        w.store.away, w.channels.lossy = False, lambda: False
        await passes(a.timing.retry + w.store.timing.answer + 0.1)
        assert sorted(b.told, key=str) == sorted([(bob, False, left), (eve, True, None)], key=str)


@simulated
async def test_who_came_while_redis_failed_is_written_when_it_is_back() -> None:
    async with world("a", "b") as w:
        (a, b), bob, eve = w.instances, user(), user()
        await online_at(a, bob, b)
        await b.watch(eve)
        w.store.away = True
        a.open(eve)
        await passes(0.2)
        w.store.away = False
        await passes(a.timing.retry + w.store.timing.answer + 0.5)
        assert b.told == [(eve, True, None)]
        assert w.store.on["a"] == {bob, eve}


@simulated
async def test_whoever_comes_back_before_it_is_told_that_they_went_never_left() -> None:
    async with world("a", "b") as w:
        (a, b), bob = w.instances, user()
        await online_at(a, bob, b)
        a.presence._remove({bob: now()})
        a.presence.appeared(bob)
        await passes(30)
        assert not b.told


@simulated
async def test_whoever_went_and_came_back_while_redis_was_away_never_left() -> None:
    async with world("a", "b") as w:
        (a, b), bob = w.instances, user()
        await online_at(a, bob, b)
        w.store.away, w.channels.lossy = True, lambda: True
        await passes(10)
        a.close(bob)
        await passes(10)
        assert a.gone == [bob]
        a.open(bob)
        await passes(1)
        w.store.away, w.channels.lossy = False, lambda: False
        await passes(60)
        assert not b.told


@simulated
async def test_a_restarted_empty_redis_makes_nobody_flap() -> None:
    async with world("a", "b", "c") as w:
        (a, b, c), bob, eve = w.instances, user(), user()
        await online_at(a, bob, c)
        await online_at(b, eve, c)
        w.store.away, w.channels.lossy = True, lambda: True
        await passes(30)
        w.store.flush()
        w.store.away, w.channels.lossy = False, lambda: False
        c.presence.gap()
        await passes(60)
        assert not c.told


@simulated
async def test_users_of_an_instance_that_ends_in_good_order_have_time_to_come_back() -> None:
    async with world("a", "b", "c") as w:
        (a, b, c), bob, eve = w.instances, user(), user()
        await online_at(a, bob, c)
        await online_at(a, eve, c)
        left = now()
        await a.leave()
        await passes(8)
        b.open(bob)
        await passes(60)
        assert [(who, online) for who, online, _ in c.told] == [(eve, False)]
        assert a.seen == {bob: left, eve: left}


@simulated
async def test_an_older_answer_of_the_roster_does_not_undo_what_was_heard_meanwhile() -> None:
    async with world("a", "b") as w:
        (a, b), bob = w.instances, user()
        await b.watch(bob)

        def come_meanwhile() -> None:
            a.presence.appeared(bob)
            b.presence._heard(encode_presence(PresenceHint("a", came=[bob])))

        b.roster.during = come_meanwhile
        await b.presence.recheck()
        w.store.away = True  # so that only what is known counts
        await passes(10)
        assert b.told == [(bob, True, None)]


@simulated
async def test_whoever_came_back_while_it_was_asked_about_them_never_left() -> None:
    async with world("a", "b", "c") as w:
        (a, b, c), bob = w.instances, user()
        await online_at(a, bob, c)
        a.close(bob)
        await passes(LINGER - 0.01)
        c.roster.during = lambda: c.presence._heard(encode_presence(PresenceHint("b", came=[bob])))
        c.presence._heard(encode_presence(PresenceHint("a", left={bob: now()})))
        b.open(bob)
        await passes(60)
        assert not c.told


@simulated
async def test_who_is_watched_no_more_costs_nothing() -> None:
    async with world("a", "b") as w:
        (a, b), bob = w.instances, user()
        await online_at(a, bob, b)
        b.presence.unwatch([bob])
        w.store.calls.clear()
        a.close(bob)
        await passes(30)
        assert not b.told
        assert "look_up" not in w.store.calls


@simulated
async def test_a_hint_that_cannot_be_read_is_left_alone() -> None:
    async with world("a") as w:
        (a,) = w.instances
        for payload in (b"", b"{}", b"[1]", b'["a",["x"],{},[]]', b'["a",[],{"x":1},[]]', b'["a",[],[],[]]'):
            a.presence._heard(payload)
        await passes(1)


@simulated
async def test_nineteen_thousand_users_cost_no_more_a_beat_than_one() -> None:
    async with world("a", "b") as w:
        a, _ = w.instances
        for _ in range(19_000):
            a.open(user())
        await passes(1)
        w.store.calls.clear()
        w.channels.published.clear()
        await passes(a.timing.beat * 4)
        assert len(w.store.calls) <= 2 * 2 * 5, "a beat and a look at the other instances, for each instance"
        assert not w.channels.published
