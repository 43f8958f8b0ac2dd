"""The hub: who is given what, in which order, and what happens where a session or the dispatching fails."""

from __future__ import annotations

import asyncio

from domain.ids import DEFAULT_TENANT, SessionId, new_id
from domain.log import Control, inbox
from realtime.codec import encode_cursor
from realtime.events import Chunk, Event
from realtime.hub import HubLimits
from tests.support.fakes import conversation, passes, turns, user
from tests.support.instances import HUB_LIMITS as LIMITS
from tests.support.instances import draft, instance, positions
from tests.support.simulated import simulated
from tests.support.wire import read_frames


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
                frames = read_frames("ws", it.hub.shared.joined(chunks, "ws"))
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
        assert len(it.hub.shared) <= 2 * len(people)
        assert it.counted.written["ws"] > 1000, "counted as it goes, not at the next pause"


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
