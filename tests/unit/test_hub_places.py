"""Where sessions start: cursors, the log's floor and epoch, and what a user may read as of that place."""

from __future__ import annotations

import asyncio

import pytest

from domain.ids import DEFAULT_TENANT, SessionId, UserId, new_id
from domain.log import Control, Topic, View, inbox
from realtime.codec import decode_cursor, encode_cursor
from realtime.hub import HubLimits
from realtime.log import LogTiming
from realtime.places import NotFresh
from tests.support.fakes import FakeLog, Instance, conversation, passes, turns, user
from tests.support.instances import NO_POLLS, instance, positions
from tests.support.simulated import simulated


@simulated
async def test_without_a_cursor_a_session_starts_at_now() -> None:
    async with instance() as it:
        ann = user()
        it.log.append(inbox(ann))
        place = await it.hub.places.find(None)
        assert (place.position, place.presented, place.resync) == (1, encode_cursor(it.log.epoch, 1), None)


@simulated
async def test_a_cursor_that_is_ahead_of_this_instance_is_waited_for() -> None:
    async with instance(hinted=False, timing=LogTiming(poll=1e6, stale=1e6)) as it:
        ann = user()
        for _ in range(3):
            it.log.append(inbox(ann))
        cursor = encode_cursor(it.log.epoch, 2)
        place = await it.hub.places.find(cursor)
        assert (place.position, place.presented, place.resync) == (2, cursor, None)
        assert it.hub.position >= 2


@simulated
async def test_a_cursor_ahead_of_what_can_be_dispatched_in_time_is_not_declared_void() -> None:
    """The log has the position; that this instance does not get there means come back later, not start over."""
    async with instance(hinted=False, timing=NO_POLLS) as it:
        for _ in range(3):
            it.log.append(inbox(user()))
        it.hub.pump = lambda: None  # type: ignore[method-assign]
        with pytest.raises(NotFresh):
            await it.hub.places.find(encode_cursor(it.log.epoch, 3))
        assert it.counted.resyncs == []


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        (encode_cursor(7, 11), "epoch_changed"),
        (encode_cursor(7, 2**64 - 1), "epoch_changed"),
        (encode_cursor(6, 5), "epoch_changed"),
        (encode_cursor(8, 5), "epoch_changed"),
        (encode_cursor(7, 3), "cursor_expired"),
        (encode_cursor(7, 0), "cursor_expired"),
        ("", "cursor_invalid"),
        ("garbage", "cursor_invalid"),
        ("A" * 26, "cursor_invalid"),
        (encode_cursor(7, 4), None),
        (encode_cursor(7, 10), None),
    ],
)
def test_a_cursor_of_no_use_is_told_so_once_and_the_session_goes_on_from_now(
    cursor: str, reason: str | None
) -> None:
    async def story() -> None:
        log, ann = FakeLog(), user()
        for _ in range(10):
            log.append(inbox(ann))
        log.drop(4)
        async with instance(log) as it:
            _, transport = await it.connect(ann, cursor)
            await passes(1)
            frames = transport.frames()
            log.append(inbox(ann))
            await turns()
            if reason is None:
                start = decode_cursor(cursor).position
                assert [f.type for f in frames] == ["hello"] + ["message.created"] * (10 - start)
                assert it.counted.resyncs == []
                return
            assert [f.type for f in frames] == ["hello", "resync"]
            assert frames[1].data == {"type": "resync", "reason": reason, "cursor": encode_cursor(7, 10)}
            assert frames[0].data["cursor"] == encode_cursor(7, 10)
            assert it.counted.resyncs == [reason]
            assert transport.events() == [11]

    simulated(story)()


@simulated
async def test_a_cursor_that_expires_while_a_slow_session_reads_is_told_so() -> None:
    async with instance(limits=HubLimits(queue_bytes=3000), ring_events=5) as it:
        ann = user()
        _, transport = await it.connect(ann)
        transport.stall()
        for _ in range(60):
            it.log.append(inbox(ann))
        await passes(1)
        it.log.drop(55)
        await passes(0.3)
        transport.take()
        await passes(1)
        frames = transport.frames()
        assert [f.data["reason"] for f in frames if f.type == "resync"] == ["cursor_expired"]
        it.log.append(inbox(ann))
        await turns()
        assert transport.events() == [61]


@simulated
async def test_what_retention_drops_while_it_is_being_read_is_not_passed_over() -> None:
    """The floor rises after the look at it, and the rows go before the slow reading comes to them: what it brings has a
    hole in front. Retention waits longer between the two than an instance may live on what it knows of the head."""
    async with instance(ring_events=5) as it:
        ann, loop = user(), asyncio.get_running_loop()
        for _ in range(60):
            it.log.append(inbox(ann))
        it.source.latencies["windows"] = 6.0
        _, transport = await it.connect(ann, encode_cursor(it.log.epoch, 10))
        view = await it.hub.view(DEFAULT_TENANT, ann)
        poll = it.hub.poll(view, sign_in=SessionId(new_id()), expires_at=1e9, groups=None)
        reading = loop.create_task(poll.read(10, 100))
        await passes(0.1)
        it.log.floor = 30
        await passes(2.0)
        it.log.drop(30)
        await passes(20)
        told = [f.data.get("reason", f.type) for f in transport.frames() if f.type != "heartbeat"]
        assert told == ["hello", "cursor_expired"]
        with pytest.raises(NotFresh):
            await reading


@simulated
async def test_no_session_begins_while_the_log_cannot_be_read() -> None:
    async with instance() as it:
        await it.hub.view(DEFAULT_TENANT, user())
        it.source.away = True
        await passes(1.5)
        with pytest.raises(NotFresh):
            await it.hub.places.find(None)
        it.source.away = False
        await it.hub.places.find(None)


@simulated
async def test_a_place_found_before_the_log_was_replaced_is_no_place_in_the_new_one() -> None:
    async with instance() as it:
        for _ in range(9):
            it.log.append(inbox(user()))
        place = await it.hub.places.find(encode_cursor(it.log.epoch, 8))
        assert it.hub.places.holds(place)
        it.log.restore(4)
        await passes(1)
        assert not it.hub.places.holds(place)


@simulated
async def test_a_view_loaded_while_members_come_and_go_is_exact_when_it_is_used() -> None:
    """Joins and leaves in the middle of the load, between its snapshot and its arrival, in any order."""
    for case in range(16):
        async with instance() as it:
            ann, one, two = user(), conversation(), conversation()
            it.log.join(one, ann)
            it.source.latency = 0.01

            def moves(
                it: Instance = it, case: int = case, ann: UserId = ann, one: Topic = one, two: Topic = two
            ) -> None:
                for bit, (topic, control) in enumerate(
                    [
                        (two, Control(joins=(ann,))),
                        (one, Control(leaves=(ann,))),
                        (two, Control(leaves=(ann,))),
                        (one, Control(joins=(ann,))),
                    ]
                ):
                    if case >> bit & 1:
                        it.log.append(topic, control=control)
                    it.log.append(topic)

            it.source.during = moves
            _, transport = await it.connect(ann, encode_cursor(it.log.epoch, 0))
            await passes(0.5)
            for topic in (one, two):
                it.log.append(topic)
            await passes(0.5)
            assert transport.events() == positions(it.log.visible(ann)), case


@simulated
async def test_a_view_whose_snapshot_is_newer_than_this_instance_waits_until_it_fits() -> None:
    async with instance(hinted=False, timing=NO_POLLS) as it:
        ann, topic = user(), conversation()
        it.log.join(topic, ann)
        it.log.append(topic)
        loading = asyncio.get_running_loop().create_task(it.hub.view(DEFAULT_TENANT, ann))
        await passes(0.5)
        assert not loading.done()
        it.reader.offer(it.log.events)
        view = await loading
        assert topic.key in view.open


@simulated
async def test_a_view_older_than_memory_is_loaded_again() -> None:
    """What opened and closed since its snapshot is no longer held: the ring may even be empty."""
    for restart in (False, True):
        async with instance(ring_events=10_000) as it:
            ann, topic = user(), conversation()
            it.log.join(topic, ann)

            def passes_by(
                it: Instance = it, restart: bool = restart, ann: UserId = ann, topic: Topic = topic
            ) -> None:
                it.log.leave(topic, ann)
                it.log.append(topic)
                if restart:  # as after a hole that nobody can read
                    it.reader.ring.clear(it.log.head)
                    it.reader.lost()
                else:
                    for _ in range(20_000 // 2):
                        it.log.append(inbox(user()))

            it.source.during = passes_by
            view = await it.hub.view(DEFAULT_TENANT, ann)
            await turns(50)
            assert topic.key not in view.open
            assert it.source.calls["views"] == 2


@simulated
async def test_idle_views_are_dropped_after_a_while_and_cost_one_query_to_come_back() -> None:
    async with instance(limits=HubLimits(idle_views=3, idle_seconds=30.0)) as it:
        people, topic = [user() for _ in range(6)], conversation()
        it.log.join(topic, *people)
        sessions = [(await it.connect(person))[0] for person in people]
        await passes(60)
        assert len(it.hub._views) == 6, "a view with a session stays"
        for session in sessions[:5]:
            session.detach()
        await passes(1)
        assert len(it.hub._views) == 4, "the oldest idle ones go where there are too many"
        _, transport = await it.connect(people[4])
        assert it.source.calls["views"] == 6
        await passes(31)
        assert set(it.hub._views) == {people[4], people[5]}
        transport.frames()
        it.log.append(topic)
        await turns()
        assert transport.events() == [2]
        _, again = await it.connect(people[0], encode_cursor(it.log.epoch, 1))
        assert it.source.calls["views"] == 7
        assert again.events() == [2]
        assert len(list(it.hub._topics.of(topic.key))) == 3


@simulated
async def test_what_was_left_long_ago_is_not_kept_for_ever() -> None:
    """A session of weeks, in a conversation it leaves and joins all the time."""
    async with instance() as it:
        ann, topic = user(), conversation()
        session, _ = await it.connect(ann)
        for _ in range(50):
            it.log.join(topic, ann)
            it.log.leave(topic, ann)
            it.log.drop(max(0, it.log.head - 10))
            await passes(0.3)
        assert len(session.view.closed) <= 6


def test_a_view_is_what_the_log_says(request: pytest.FixtureRequest) -> None:
    """The fake's own answers agree with each other: its windows hold exactly what it says is visible."""
    log, ann, topic = FakeLog(), user(), conversation()
    for control in (
        Control(joins=(ann,)),
        Control(),
        Control(leaves=(ann,)),
        Control(),
        Control(joins=(ann,)),
    ):
        log.append(topic, control=control)
    view = View(ann, log.head, log.windows_of(ann))
    inside = [
        e.position
        for e in log.events
        if any(w.topic == e.topic and w.opens <= e.position <= (w.closes or log.head) for w in view.windows)
    ]
    assert inside == positions(log.visible(ann)) == [1, 2, 3, 5]
