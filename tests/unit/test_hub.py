"""The hub: who is given what, in which order, and where sessions start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from domain.ids import DEFAULT_TENANT, SessionId, UserId, new_id
from domain.log import Control, StoredEvent, Topic, View, inbox
from realtime.codec import decode_cursor, encode_cursor
from realtime.events import Chunk, Event
from realtime.hub import HubLimits, NotFresh
from realtime.log import LogTiming
from realtime.session import Session
from tests.support.fakes import FakeLog, FakeTransport, Instance, conversation, passes, turns, user
from tests.support.simulated import SimulatedLoop, simulated
from tests.support.wire import read_frames

LIMITS = HubLimits(heartbeat=10.0)
NO_POLLS = LogTiming(poll=1e6, stale=1e6)
"""For tests that say themselves when the log is read."""


@asynccontextmanager
async def instance(
    log: FakeLog | None = None,
    limits: HubLimits = LIMITS,
    *,
    ring_events: int = 10_000,
    timing: LogTiming | None = None,
    hinted: bool = True,
) -> AsyncIterator[Instance]:
    it = await Instance(log or FakeLog(), limits, timing or LogTiming(), ring_events=ring_events).start()
    if hinted:
        it.log.committed = it.reader.offer
    await turns()
    try:
        yield it
    finally:
        await it.background.stop()


def freeze(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    loop.freeze(seconds)


def closed_with(transport: FakeTransport) -> int | None:
    return transport.closing.code if transport.closing else None


def draft(topic: Topic, control: Control | None = None) -> tuple[Topic, str, str, Control]:
    return (topic, "message.created", "text", control or Control())


def positions(events: Iterable[StoredEvent]) -> list[int]:
    return [e.position for e in events]


# Who is given what.


@simulated
async def test_membership_changes_in_the_middle_of_a_batch_count_from_their_own_place() -> None:
    async with instance() as it:
        ann, bob, topic = user(), user(), conversation()
        it.log.join(topic, ann)
        _, to_ann = await it.connect(ann)
        _, to_bob = await it.connect(bob)
        to_ann.frames(), to_bob.frames()
        it.log.append_all(
            [
                draft(topic),
                draft(topic, Control(joins=(bob,))),
                draft(topic),
                draft(topic, Control(leaves=(ann,))),
                draft(topic),
                draft(topic, Control(joins=(ann,), leaves=(bob,))),
                draft(topic),
            ]
        )
        await turns()
        assert to_ann.events() == [2, 3, 4, 5, 7, 8] == positions(it.log.visible(ann))[1:]
        assert to_bob.events() == [3, 4, 5, 6, 7] == positions(it.log.visible(bob))


@simulated
async def test_joining_and_leaving_in_one_event_shows_that_event_alone() -> None:
    async with instance() as it:
        ann, topic = user(), conversation()
        _, transport = await it.connect(ann)
        transport.frames()
        it.log.append_all([draft(topic), draft(topic, Control(joins=(ann,), leaves=(ann,))), draft(topic)])
        await turns()
        assert transport.events() == [2] == positions(it.log.visible(ann))


@simulated
async def test_what_is_about_a_message_from_before_joining_is_hidden_live_in_replay_and_from_polls() -> None:
    for ring_events in (100, 2):
        async with instance(ring_events=ring_events) as it:
            ann, bob, topic = user(), user(), conversation()
            it.log.join(topic, ann)
            it.log.join(topic, bob)
            _, live = await it.connect(bob)
            _, to_ann = await it.connect(ann)
            live.frames()
            to_ann.frames()
            for control in (Control(), Control(about=1), Control(about=3)):
                it.log.append(topic, control=control)
            await turns()
            assert live.events() == [3, 5]
            assert to_ann.events() == [3, 4, 5]
            _, replayed = await it.connect(bob, encode_cursor(it.log.epoch, 2))
            await passes(1)
            assert replayed.events() == [3, 5]
            view = await it.hub.view(DEFAULT_TENANT, bob)
            poll = it.hub.poll(view, sign_in=SessionId(new_id()), expires_at=1e9, groups=None)
            for limit, expected in ((10, ([3, 5], 5, False)), (1, ([3], 3, True))):
                events, reached, more = await poll.read(2, limit)
                assert ([e.position for e in events], reached, more) == expected
            events, reached, more = await poll.read(3, 1)
            while not events:
                events, reached, more = await poll.read(reached, 1)
            assert ([e.position for e in events], reached, more) == ([5], 5, False)


@simulated
async def test_each_stay_hides_what_is_about_messages_from_before_it() -> None:
    for ring_events in (100, 2):
        async with instance(ring_events=ring_events) as it:
            bob, topic = user(), conversation()
            it.log.append(topic)
            _, live = await it.connect(bob)
            live.frames()
            it.log.join(topic, bob)  # 2
            for control in (Control(about=1), Control(), Control(about=4)):
                it.log.append(topic, control=control)
            it.log.leave(topic, bob)  # 6
            it.log.append(topic)
            it.log.join(topic, bob)  # 8
            for control in (Control(about=4), Control(), Control(about=10)):
                it.log.append(topic, control=control)
            await turns()
            shown = [2, 4, 5, 6, 8, 10, 11]
            assert live.events() == shown == positions(it.log.visible(bob))
            _, replayed = await it.connect(bob, encode_cursor(it.log.epoch, 0))
            await passes(1)
            assert replayed.events() == shown


@simulated
async def test_a_crowd_and_a_few_are_served_alike() -> None:
    async with instance() as it:
        topic = conversation()
        people = [user() for _ in range(60)]
        it.log.join(topic, *people)
        transports = [(await it.connect(person))[1] for person in people]
        for transport in transports:
            transport.frames()
        it.log.append(topic)
        it.log.leave(topic, *people[:50])
        it.log.append(topic)
        await turns()
        assert [t.events() for t in transports] == [[2, 3]] * 50 + [[2, 3, 4]] * 10
        it.log.leave(topic, *people[50:])
        assert not list(it.hub._topics.of(topic.key))


@simulated
async def test_two_sessions_of_one_user_are_given_the_same() -> None:
    async with instance() as it:
        ann = user()
        _, ws = await it.connect(ann)
        _, sse = await it.connect(ann, wire="sse")
        ws.frames(), sse.frames()
        it.log.append(inbox(ann))
        it.log.append(inbox(user()))
        await turns()
        assert ws.events() == sse.events() == [1]
        assert it.source.calls["views"] == 1


@simulated
async def test_a_long_backlog_is_dispatched_in_steps_and_in_order() -> None:
    async with instance(limits=HubLimits(dispatch=7, flush=2)) as it:
        topic = conversation()
        people = [user() for _ in range(5)]
        it.log.join(topic, *people)
        transports = [(await it.connect(person))[1] for person in people]
        for transport in transports:
            transport.frames()
        it.log.append_all([draft(topic) for _ in range(100)])
        assert it.hub.position == 8, "the first step at once"
        it.log.append(topic)
        await passes(0.1)
        assert [t.events() for t in transports] == [list(range(2, 103))] * 5


@simulated
async def test_more_than_memory_holds_sends_everyone_to_the_stored_log() -> None:
    async with instance(limits=HubLimits(dispatch=2), ring_events=10, hinted=False) as it:
        ann = user()
        forgotten: list[bool] = []
        it.hub.missed = lambda: forgotten.append(True)
        session, transport = await it.connect(ann)
        for _ in range(500):
            it.log.append(inbox(ann))
        waiting = asyncio.get_running_loop().create_task(it.hub.reached(500, 60.0))
        began = it.hub.clock()
        await waiting
        assert it.hub.clock() - began < 1, "those who wait for a place are told as soon as it is passed"
        assert transport.closing is not None
        assert transport.closing.reconnect_after_ms is not None
        assert forgotten, "what it says of sign-ins was not read: nothing kept of them is good"
        place = session.position
        _, again = await it.connect(ann, encode_cursor(it.log.epoch, place))
        await passes(1)
        assert transport.events() + again.events() == list(range(1, 501))


# Bytes are shared, and never mixed up.


@simulated
async def test_shared_bytes_are_never_those_of_events_that_are_gone() -> None:
    """Chunks come and go while what was joined is kept, and a new object may have the identity of an old one."""
    async with instance() as it:
        topics = [conversation() for _ in range(2)]
        events = [Event(it.log.append(topic), 1) for topic in topics * 50]
        for _ in range(4):
            for n in range(0, 100, 2):
                one, two = events[n], events[n + 1]
                chunks = [Chunk([one]), Chunk([two])] if n % 4 else [Chunk([two]), Chunk([one])]
                if n % 8 > 3:
                    second, first = Chunk([two]), Chunk([one])
                    chunks = [first, second]
                    del first, second
                frames = read_frames("ws", it.hub.joined(chunks, "ws"))
                assert [f.data["data"]["seq"] for f in frames] == [one.position, two.position]
                del chunks


@simulated
async def test_a_revocation_in_a_batch_hands_nobody_the_bytes_of_another() -> None:
    """It writes at once, in the middle of dispatching, what its own sessions still had to be given."""
    async with instance() as it:
        for round_ in range(30):
            ann, bob, ones = user(), user(), [conversation() for _ in range(4)]
            sign_in = SessionId(new_id())
            for topic in ones[:2]:
                it.log.join(topic, ann)
            for topic in ones[2:]:
                it.log.join(topic, bob)
            _, to_ann = await it.connect(ann, sign_in=sign_in)
            _, to_bob = await it.connect(bob)
            to_ann.frames(), to_bob.frames()
            mine = it.log.append_all(
                [
                    *[draft(topic) for topic in ones[:2]],
                    draft(inbox(ann), Control(revokes=(sign_in,))),
                    *[draft(topic) for topic in (ones[2:] if round_ % 2 else ones[:1:-1])],
                    draft(inbox(bob)),
                ]
            )
            await turns()
            assert to_ann.events() == positions(mine[:3])
            assert to_bob.events() == positions(mine[3:])


@simulated
async def test_writing_all_the_time_keeps_nothing_of_what_was_written() -> None:
    """Under a load that never pauses, what waits to be flushed must not be kept until a pause comes."""
    async with instance(limits=HubLimits(flush=5)) as it:
        topics = [conversation() for _ in range(2)]
        people = [user() for _ in range(6)]
        for topic in topics:
            it.log.join(topic, *people)
        for person in people:
            await it.connect(person)
        for _ in range(200):
            for topic in topics:
                it.log.append(topic)
            await turns(1)
        assert len(it.hub._dirty) <= 2 * len(people)
        assert len(it.hub._joined) <= 2 * len(people)
        assert it.counted.written["ws"] > 1000, "counted as it goes, not at the next pause"


# A session that fails is its own misfortune.


@simulated
async def test_a_session_that_fails_ends_alone() -> None:
    async with instance() as it:
        topic = conversation()
        people = [user() for _ in range(3)]
        it.log.join(topic, *people)
        sessions = [await it.connect(person) for person in people]
        for _, transport in sessions:
            transport.frames()

        def fails(data: bytes) -> None:
            raise RuntimeError("the handler is closed")

        sessions[0][1].written = fails
        it.log.append(topic)
        await turns()
        it.log.append(topic)
        await passes(1)
        assert [t.events() for _, t in sessions] == [[], [2, 3], [2, 3]]
        assert len(it.hub) == 2
        sessions[1][1].written = fails
        await passes(2 * LIMITS.heartbeat)
        assert len(it.hub) == 1
        assert "heartbeat" in {f.type for f in sessions[2][1].frames()}


@simulated
async def test_a_failure_to_dispatch_reaches_neither_the_reader_nor_the_one_who_committed() -> None:
    """An exception there would say of a commit that it failed, and its messages would be sent again."""
    async with instance() as it:
        ann = user()
        session, transport = await it.connect(ann)
        transport.frames()

        def fails(chunk: Chunk) -> None:
            raise RuntimeError

        it.hub._followers.clear()
        broken = it.hub.poll(session.view, sign_in=SessionId(new_id()), expires_at=1e9, groups=None)
        it.hub._followers[session] = None
        object.__setattr__(broken, "_groups", object())  # makes offer() raise
        event = it.log.append(inbox(ann))
        assert it.hub.position == event.position
        await passes(1)
        it.log.append(inbox(ann))
        _, again = await it.connect(ann, encode_cursor(it.log.epoch, 0))
        await passes(1)
        assert again.events() == [1, 2]


# Where sessions start.


@simulated
async def test_without_a_cursor_a_session_starts_at_now() -> None:
    async with instance() as it:
        ann = user()
        it.log.append(inbox(ann))
        place = await it.hub.place(None)
        assert (place.position, place.presented, place.resync) == (1, encode_cursor(it.log.epoch, 1), None)


@simulated
async def test_a_cursor_that_is_ahead_of_this_instance_is_waited_for() -> None:
    async with instance(hinted=False, timing=LogTiming(poll=1e6, stale=1e6)) as it:
        ann = user()
        for _ in range(3):
            it.log.append(inbox(ann))
        cursor = encode_cursor(it.log.epoch, 2)
        place = await it.hub.place(cursor)
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
            await it.hub.place(encode_cursor(it.log.epoch, 3))
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
            await it.hub.place(None)
        it.source.away = False
        await it.hub.place(None)


@simulated
async def test_a_place_found_before_the_log_was_replaced_is_no_place_in_the_new_one() -> None:
    async with instance() as it:
        for _ in range(9):
            it.log.append(inbox(user()))
        place = await it.hub.place(encode_cursor(it.log.epoch, 8))
        assert it.hub.holds(place)
        it.log.restore(4)
        await passes(1)
        assert not it.hub.holds(place)


# Views.


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


# Revocation and staleness.


@simulated
async def test_a_revocation_ends_that_sign_in_alone_and_after_what_came_before() -> None:
    async with instance() as it:
        ann, mine, other = user(), SessionId(new_id()), SessionId(new_id())
        ended: list[SessionId] = []
        it.hub.revoked = ended.extend
        _, first = await it.connect(ann, sign_in=mine)
        _, second = await it.connect(ann, sign_in=other)
        first.frames(), second.frames()
        view = await it.hub.view(DEFAULT_TENANT, ann)
        poll = it.hub.poll(view, sign_in=mine, expires_at=1e9, groups=None)
        waiting = asyncio.get_running_loop().create_task(poll.wait(30.0))
        await turns()
        it.log.append_all([draft(inbox(ann)), draft(inbox(ann), Control(revokes=(mine,))), draft(inbox(ann))])
        assert closed_with(first) == 4401
        await turns()
        assert first.events() == [1, 2]
        assert second.events() == [1, 2, 3]
        assert closed_with(second) is None
        assert waiting.done()
        assert poll.ended
        assert ended == [mine]


@simulated
async def test_a_sign_in_that_ends_while_its_session_is_being_opened_opens_nothing() -> None:
    """Checked before, revoked during the look-ups, opened after: nobody would ever end it."""
    async with instance() as it:
        ann, sign_in = user(), SessionId(new_id())
        it.source.latency = 0.2
        opening = asyncio.get_running_loop().create_task(it.connect(ann, sign_in=sign_in))
        await passes(0.1)
        it.log.revoke(ann, sign_in)
        session, transport = await opening
        assert closed_with(transport) == 4401
        it.log.append(inbox(ann))
        await passes(1)
        assert transport.frames() == []
        poll = it.hub.poll(
            await it.hub.view(DEFAULT_TENANT, ann), sign_in=sign_in, expires_at=1e9, groups=None
        )
        assert poll.ended
        session, transport = await it.connect(ann)
        session.renew(sign_in, 1e9)
        assert closed_with(transport) == 4401


@simulated
async def test_a_session_revoked_while_the_instance_was_stopped_is_given_nothing_more() -> None:
    """Not even what came before the revocation: it was over when its owner was told so, long before this is read."""
    async with instance(limits=HubLimits(dispatch=3), hinted=False) as it:
        ann, sign_in = user(), SessionId(new_id())
        (_, live), (_, slow) = [await it.connect(ann, sign_in=sign_in, wire="sse") for _ in range(2)]
        live.frames(), slow.frames()
        for _ in range(20):
            it.log.append(inbox(ann))
        it.log.revoke(ann, sign_in)
        for _ in range(20):
            it.log.append(inbox(ann))
        freeze(20)
        await passes(1)
        for transport in (live, slow):
            assert closed_with(transport) == 4401
            (notice,) = transport.frames()
            assert notice.type == "session.revoked"
            assert notice.data["cursor"] is None, "its place would pass what was not written"
            assert notice.id is None


@simulated
async def test_what_waited_when_the_log_could_not_be_read_is_not_written_where_its_end_was_missed() -> None:
    """The revocation is no longer in memory: whether this sign-in still stands is not known, so nothing goes out."""
    async with instance(ring_events=10, hinted=False) as it:
        ann, sign_in = user(), SessionId(new_id())
        session, transport = await it.connect(ann, sign_in=sign_in)
        transport.frames()
        it.reader.offer([it.log.append(inbox(ann))])
        freeze(20)
        await turns(1)
        it.log.revoke(ann, sign_in)
        for _ in range(30):
            it.log.append(inbox(ann))
        await passes(1)
        assert transport.closing is not None
        assert transport.events() == []
        assert session.position == 0


@pytest.mark.parametrize("ring_events", [1000, 3])
def test_a_session_that_starts_just_after_the_process_was_stopped_is_given_nothing_before_it_has_read(
    ring_events: int,
) -> None:
    async def story() -> None:
        async with instance(ring_events=ring_events) as it:
            ann = user()
            for _ in range(9):
                it.log.append(inbox(ann))
            place = await it.hub.place(encode_cursor(it.log.epoch, 2))
            view = await it.hub.view(DEFAULT_TENANT, ann)
            freeze(20)
            transport = FakeTransport("ws", it.hub.clock)
            session = it.hub.open(
                view, transport, place, sign_in=SessionId(new_id()), expires_at=1e9, groups=None
            )
            session.greet({"type": "hello", "cursor": place.presented}, place.resync)
            session.start()
            await turns(1)
            assert [f.type for f in transport.frames()] == ["hello"]
            await passes(1)
            assert transport.events() == list(range(3, 10))

    simulated(story)()


@simulated
async def test_a_stream_that_is_behind_is_told_why_it_ends() -> None:
    async with instance(limits=HubLimits(queue_bytes=3000)) as it:
        ann, sign_in = user(), SessionId(new_id())
        _, transport = await it.connect(ann, sign_in=sign_in, wire="sse")
        transport.stall()
        for _ in range(40):
            it.log.append(inbox(ann))
        await passes(0.1)
        it.log.revoke(ann, sign_in)
        assert closed_with(transport) == 4401
        transport.take()
        frames = transport.frames()
        assert frames[-1].type == "session.revoked"
        assert frames[-1].id is None
        assert frames[-2].data["data"]["seq"] < 40


@simulated
async def test_another_log_ends_every_session_and_every_poll() -> None:
    async with instance() as it:
        ann = user()
        for _ in range(9):
            it.log.append(inbox(ann))
        _, transport = await it.connect(ann)
        view = await it.hub.view(DEFAULT_TENANT, ann)
        poll = it.hub.poll(view, sign_in=SessionId(new_id()), expires_at=1e9, groups=None)
        old = encode_cursor(it.log.epoch, 9)
        assert encode_cursor(poll.epoch, 9) == old
        it.log.restore(6)
        await passes(1)
        assert transport.closing is not None
        assert transport.closing.reconnect_after_ms is not None
        assert poll.draining
        assert encode_cursor(poll.epoch, 9) == old, "its answer is of the log it read"
        it.hub.detach(poll)
        _, again = await it.connect(ann, old)
        assert [f.data.get("reason") for f in again.frames()] == [None, "epoch_changed"]
        await passes(LIMITS.heartbeat)
        (beat,) = again.frames()
        assert beat.data["cursor"] == encode_cursor(it.log.epoch, 6)


@simulated
async def test_a_heartbeat_never_names_the_epoch_before() -> None:
    async with instance() as it:
        ann = user()
        for _ in range(6):
            it.log.append(inbox(ann))
        await it.connect(ann)
        await passes(LIMITS.heartbeat + 1)
        it.log.restore(6)
        await passes(1)
        _, transport = await it.connect(ann)
        transport.frames()
        await passes(LIMITS.heartbeat + 1)
        assert {f.data["cursor"] for f in transport.frames()} == {encode_cursor(it.log.epoch, 6)}


@simulated
async def test_live_only_events_reach_who_has_the_topic_open_and_nobody_while_not_fresh() -> None:
    async with instance() as it:
        ann, bob, carol, topic = user(), user(), user(), conversation()
        it.log.join(topic, ann, bob)
        transports = [(await it.connect(person))[1] for person in (ann, bob, carol)]
        for transport in transports:
            transport.frames()
        typing = b'{"type":"typing.started","cursor":null}'
        it.hub.live(topic.key, typing, "typing.started", "messages", skip=(ann,))
        await turns()
        assert [len(t.frames()) for t in transports] == [0, 1, 0]
        freeze(20)
        it.hub.live(topic.key, typing, "typing.started", "messages")
        await turns(1)
        assert [len(t.frames()) for t in transports] == [0, 0, 0]


# Polls.


async def _poll(
    it: Instance, who: UserId, after: int, limit: int, **filters: object
) -> tuple[list[int], int, bool]:
    view = await it.hub.view(DEFAULT_TENANT, who)
    poll = it.hub.poll(view, sign_in=SessionId(new_id()), expires_at=1e9, groups=filters.get("groups"))  # type: ignore[arg-type]
    try:
        events, reached, more = await poll.read(after, limit)
    finally:
        it.hub.detach(poll)
    return [e.position for e in events], reached, more


@pytest.mark.parametrize("ring_events", [1000, 3])
def test_polls_give_pages_that_join_up_and_the_same_again_for_the_same_cursor(ring_events: int) -> None:
    async def story() -> None:
        async with instance(ring_events=ring_events) as it:
            ann, topic, foreign = user(), conversation(), conversation()
            it.log.join(topic, ann)
            for n in range(60):
                it.log.append(foreign if n % 3 else topic)
            wanted = positions(it.log.visible(ann))
            for limit in (1, 2, 7, 500):
                given, after, more = [], 0, True
                while more:
                    page, reached, more = await _poll(it, ann, after, limit)
                    assert (page, reached, more) == await _poll(it, ann, after, limit), "the same again"
                    assert len(page) <= limit
                    assert more == (wanted[-1] > page[-1])
                    assert reached == page[-1] if more else reached == it.hub.position
                    given += page
                    after = reached
                assert given == wanted
            assert await _poll(it, ann, it.hub.position, 10) == ([], it.hub.position, False)

    simulated(story)()


@pytest.mark.parametrize("ring_events", [1000, 3])
def test_a_poll_with_a_filter_never_says_more_where_there_is_none_for_it(ring_events: int) -> None:
    async def story() -> None:
        async with instance(ring_events=ring_events) as it:
            ann = user()
            for type_ in [
                "message.created",
                "x",
                "message.created",
                *["message.created"] * 120,
                "x",
                "message.created",
            ]:
                it.log.append(inbox(ann), type_)
            always = frozenset({"always"})
            assert await _poll(it, ann, 0, 1, groups=always) == ([2], 2, True)
            assert await _poll(it, ann, 2, 1, groups=always) == ([124], 125, False)
            assert await _poll(it, ann, 2, 500, groups=always) == ([124], 125, False)
            assert await _poll(it, ann, 124, 500, groups=always) == ([], 125, False)

    simulated(story)()


@simulated
async def test_a_waiting_poll_wakes_for_what_is_for_it_and_for_nothing_else() -> None:
    async with instance() as it:
        ann, always = user(), frozenset({"always"})
        view = await it.hub.view(DEFAULT_TENANT, ann)
        poll = it.hub.poll(view, sign_in=SessionId(new_id()), expires_at=1e9, groups=always)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting = loop.create_task(poll.wait(20.0))
        await passes(5)
        it.log.append(inbox(user()), "x")
        it.log.append(inbox(ann), "message.created")
        await passes(5)
        assert not waiting.done()
        it.log.append(inbox(ann), "x")
        await turns()
        assert waiting.done()
        assert loop.time() == pytest.approx(began + 10)
        await poll.wait(3.0)
        assert loop.time() == pytest.approx(began + 13)


@simulated
async def test_draining_sends_all_away_in_batches_each_with_its_own_time() -> None:
    async with instance() as it:
        sessions: list[tuple[Session, FakeTransport]] = [await it.connect(user()) for _ in range(25)]
        view = await it.hub.view(DEFAULT_TENANT, user())
        poll = it.hub.poll(view, sign_in=SessionId(new_id()), expires_at=1e9, groups=None)
        times = iter(range(100, 1000))
        draining = asyncio.get_running_loop().create_task(
            it.hub.drain(batch=10, pause=1.0, reconnect_after_ms=lambda: next(times))
        )
        await passes(0.5)
        assert sum(t.closing is not None for _, t in sessions) == 10
        await draining
        assert len(it.hub) == 0
        assert poll.draining
        closings = [t.closing for _, t in sessions]
        assert {c.code for c in closings if c} == {1012}
        assert len({c.reconnect_after_ms for c in closings if c}) == 25


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


@simulated
async def test_a_crowd_that_was_written_to_at_once_is_not_given_the_same_again() -> None:
    """A batch begins with events that a crowd is written at once, and goes on with more than a queue holds."""
    async with instance(limits=HubLimits(queue_bytes=3000)) as it:
        it.hub.CROWD = 2
        topic, people = conversation(), [user() for _ in range(3)]
        it.log.join(topic, *people)
        transports = [(await it.connect(person))[1] for person in people]
        for transport in transports:
            transport.frames()
        apart = Control(about=1)  # what has a control is dispatched on its own
        it.log.append_all(
            [
                (topic, "message.created", "", Control()),
                *[(inbox(person), "something.new", "", apart) for person in people],
                *[(topic, "message.created", "x" * 1500, Control()) for _ in range(3)],
            ]
        )
        await passes(1)
        for transport, person in zip(transports, people, strict=True):
            assert transport.events() == positions(it.log.visible(person))[1:]


@simulated
async def test_a_place_counts_what_was_written_in_the_middle_of_a_batch() -> None:
    async with instance() as it:
        it.hub.CROWD = 1
        ann, topic = user(), conversation()
        it.log.join(topic, ann)
        session, transport = await it.connect(ann)
        transport.frames()
        seen: list[tuple[int, int]] = []
        transport.written = lambda data: seen.append((session.position, it.hub.position))
        it.log.append_all(
            [
                draft(topic),
                draft(topic),
                draft(topic, Control(leaves=(ann,))),
                draft(topic),
                draft(inbox(ann)),
            ]
        )
        await turns()
        assert transport.events() == [2, 3, 4, 6]
        assert session.position == 6


@simulated
async def test_what_is_withdrawn_in_a_part_of_the_log_that_is_skipped_is_withdrawn_in_memory() -> None:
    async with instance(limits=HubLimits(dispatch=5), ring_events=40, hinted=False, timing=NO_POLLS) as it:
        ann, sign_in = user(), SessionId(new_id())
        it.log.append(inbox(ann), text="first")
        it.reader.offer(it.log.events)
        _, live = await it.connect(ann, sign_in=sign_in)
        for n in range(39):
            it.log.append(inbox(ann), text=f"text {n}")
        batch = list(it.log.events[1:])
        secret = it.log.append(inbox(ann), text="the secret")
        batch += [
            secret,
            it.log.append(inbox(ann), "message.deleted", control=Control(redacts=(secret.position,))),
        ]
        batch.append(it.log.revoke(ann, sign_in))
        it.reader.offer(batch)
        assert it.hub.position == it.log.head, "everyone was sent to the log"
        assert closed_with(live) == 4401
        assert it.hub.has_ended(sign_in)
        _, transport = await it.connect(ann, encode_cursor(it.log.epoch, it.log.head - 4))
        assert b"the secret" not in bytes(transport._taken)
        assert transport.events() == [it.log.head - n for n in (3, 2, 1, 0)]


@pytest.mark.parametrize("crowd", [1, 1000])
def test_a_process_that_is_stopped_in_the_middle_of_writing_writes_hardly_on(crowd: int) -> None:
    """To a crowd at once, or by flushing: what was fresh when the first was written to is not when the last is."""

    async def story() -> None:
        async with instance() as it:
            it.hub.CROWD = crowd
            topic, people = conversation(), [user() for _ in range(300)]
            it.log.join(topic, *people)
            transports = [(await it.connect(person))[1] for person in people]
            for transport in transports:
                transport.frames()
            transports[9].written = lambda data: freeze(5)
            it.log.append(topic)
            await turns(2)
            transports[9].written = lambda data: None
            assert sum(t.writes > 1 for t in transports) <= it.hub.STRIDE
            await passes(1)
            assert [t.events() for t in transports] == [[2]] * 300

    simulated(story)()
