"""One session: what it writes, when, and what it does where its peer is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from domain.ids import SessionId, new_id
from domain.log import Control, Topic, inbox
from realtime.codec import decode_cursor, encode_cursor
from realtime.events import Group
from realtime.hub import HubLimits
from realtime.session import Session, State
from tests.support.fakes import FakeLog, FakeTransport, Instance, conversation, passes, turns, user
from tests.support.simulated import SimulatedLoop, simulated
from tests.support.wire import Frame

MESSAGES: frozenset[Group] = frozenset({"messages", "always"})
SMALL = HubLimits(heartbeat=10.0, queue_bytes=4000)


@asynccontextmanager
async def instance(
    log: FakeLog | None = None, limits: HubLimits = SMALL, *, ring_events: int = 10_000
) -> AsyncIterator[Instance]:
    it = await Instance(log or FakeLog(), limits, ring_events=ring_events).start()
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


def places(frames: list[Frame]) -> list[int]:
    """The positions of all cursors, in order."""
    return [decode_cursor(f.data["cursor"]).position for f in frames if f.data.get("cursor")]


def closed_with(transport: FakeTransport) -> int | None:
    return transport.closing.code if transport.closing else None


def state(session: Session) -> State:
    return session.state


def fill(log: FakeLog, topic: Topic, count: int, size: int = 300) -> list[int]:
    return [log.append(topic, text="x" * size).position for _ in range(count)]


# What is written.


@simulated
async def test_what_is_missing_follows_hello_and_then_it_is_pushed_to() -> None:
    async with instance() as it:
        me, topic = user(), conversation()
        start = encode_cursor(it.log.epoch, it.log.join(topic, me).position)
        missed = fill(it.log, topic, 3)
        session, transport = await it.connect(me, start)
        frames = transport.frames()
        assert [f.type for f in frames] == ["hello", *["message.created"] * 3]
        assert frames[0].data["cursor"] == start
        assert places(frames) == [1, *missed]
        assert session.state is State.LIVE
        pushed = fill(it.log, topic, 2)
        await turns()
        assert transport.events() == pushed


@simulated
async def test_one_turn_of_the_loop_is_one_write_in_the_order_of_the_log() -> None:
    async with instance() as it:
        me, one, two = user(), conversation(), conversation()
        it.log.join(one, me)
        it.log.join(two, me)
        session, transport = await it.connect(me)
        transport.frames()
        before = transport.writes
        wanted = [it.log.append(topic).position for topic in (one, two, one, two, inbox(me))]
        wanted += [
            e.position
            for e in it.log.append_all([(t, "message.created", "", Control()) for t in (two, one, two)])
        ]
        session.send_control(b'{"type":"reply"}', "reply")
        await turns()
        assert transport.writes == before + 1
        frames = transport.frames()
        assert frames[0].type == "reply"
        assert places(frames[1:]) == wanted


@simulated
async def test_a_filter_leaves_out_what_was_not_asked_for_and_counts_it_as_read() -> None:
    async with instance() as it:
        me = user()
        session, transport = await it.connect(me, groups=MESSAGES)
        transport.frames()
        for type_ in ("post.created", "message.created", "receipt.read", "session.revoked"):
            it.log.append(inbox(me), type_)
        await turns()
        # A type this version does not know reaches everyone, as a newer instance may have written it.
        assert transport.events() == [1, 2, 3, 4]
        assert session.position == 4
        only_always, other = await it.connect(me, groups=frozenset({"always"}))
        other.frames()
        it.log.append(inbox(me), "message.created")
        await turns()
        assert other.events() == []
        assert only_always.position == 5


@simulated
async def test_a_filter_never_moves_the_place_past_what_is_still_to_be_written() -> None:
    """One batch: the first topic begins early but the part of it that passes the filter comes late."""
    async with instance() as it:
        me, one, two = user(), conversation(), conversation()
        it.log.join(one, me)
        it.log.join(two, me)
        always: frozenset[Group] = frozenset({"always"})
        session, transport = await it.connect(me, groups=always)
        transport.frames()
        drafts = [(one, "message.created"), (two, "unknown.thing"), (one, "unknown.thing")]
        it.log.append_all([(topic, type_, "", Control()) for topic, type_ in drafts])
        assert session.position == 2, "nothing of the batch has been written yet"
        await turns()
        assert session.position == 5


@simulated
async def test_what_does_not_fit_is_not_lost_to_a_filter_either() -> None:
    async with instance() as it:
        me, one, two = user(), conversation(), conversation()
        it.log.join(one, me)
        it.log.join(two, me)
        always: frozenset[Group] = frozenset({"always"})
        _, transport = await it.connect(me, groups=always)
        transport.frames()
        drafts = [(one, "message.created", 10), (two, "unknown.thing", 10), (one, "unknown.thing", 6000)]
        it.log.append_all([(topic, type_, "x" * size, Control()) for topic, type_, size in drafts])
        await passes(1)
        assert transport.events() == [4, 5]


# Place and heartbeats.


@simulated
async def test_a_heartbeat_carries_how_far_everything_was_written() -> None:
    async with instance() as it:
        me, topic, foreign = user(), conversation(), conversation()
        it.log.join(topic, me)
        session, transport = await it.connect(me)
        transport.frames()
        fill(it.log, topic, 2)
        fill(it.log, foreign, 5)
        await passes(SMALL.heartbeat + 1)
        frames = transport.frames()
        assert [f.type for f in frames] == ["message.created", "message.created", "heartbeat"]
        assert places(frames)[-1] == it.log.head == session.position


@simulated
async def test_heartbeats_stand_still_while_the_log_cannot_be_read() -> None:
    async with instance() as it:
        me, topic = user(), conversation()
        it.log.join(topic, me)
        _, transport = await it.connect(me)
        transport.frames()
        it.source.away = True
        await passes(2)
        fill(it.log, topic, 3)
        await passes(3 * SMALL.heartbeat)
        frames = transport.frames()
        assert {f.type for f in frames} == {"heartbeat"}
        assert set(places(frames)) == {1}
        it.source.away = False
        await passes(0.5)
        assert transport.events() == [2, 3, 4]


@simulated
async def test_nothing_that_was_queued_before_the_process_was_stopped_goes_out_after_it() -> None:
    async with instance() as it:
        me, topic = user(), conversation()
        it.log.join(topic, me)
        session, transport = await it.connect(me)
        transport.frames()
        it.log.append(topic, text="queued")
        it.hub.live(topic.key, b'{"type":"typing.started"}', "typing.started", "messages")
        session.send_control(b'{"type":"reply"}', "reply")
        freeze(20)
        await turns(1)
        assert [f.type for f in transport.frames()] == ["reply"], "answers go on, events do not (I9)"
        assert session.position == 1
        await passes(1)
        assert transport.events() == [2]


@simulated
async def test_a_text_withdrawn_before_it_was_written_is_never_written() -> None:
    """Whatever other session has had the same events, and the same bytes of them, already."""
    async with instance(limits=HubLimits(flush=1)) as it:
        people, topic = [user() for _ in range(4)], conversation()
        it.log.join(topic, *people)
        transports = [(await it.connect(person))[1] for person in people]
        await turns()
        it.log.append_all([(topic, "message.created", f"secret {n}", Control()) for n in range(2)])
        await turns(1)  # one of the four has been written to
        assert sum(b"secret" in bytes(t._taken) for t in transports) == 1
        it.log.append(topic, "message.deleted", control=Control(redacts=(2, 3)))
        await turns(9)
        assert sum(b"secret" in bytes(t._taken) for t in transports) == 1
        assert [t.events() for t in transports] == [[2, 3, 4]] * 4


# A slow peer.


@simulated
async def test_a_slow_peer_falls_behind_loses_nothing_and_comes_back() -> None:
    async with instance() as it:
        me, topic = user(), conversation()
        it.log.join(topic, me)
        session, transport = await it.connect(me)
        transport.stall()
        wanted = fill(it.log, topic, 100)
        await passes(1)
        assert session.state is State.BEHIND
        assert it.counted.behind == 1
        assert transport.buffered() <= 3 * SMALL.queue_bytes
        for _ in range(200):
            transport.take(700)
            await passes(0.06)
        transport.take()
        await passes(1)
        assert state(session) is State.LIVE
        assert transport.events() == wanted
        wanted = fill(it.log, topic, 1)
        await turns()
        assert transport.events() == wanted


@simulated
async def test_what_waits_for_a_peer_that_reads_nothing_is_bounded() -> None:
    """Each page too is bounded in bytes: two hundred long messages are not one write."""
    async with instance() as it:
        me, topic = user(), conversation()
        it.log.join(topic, me)
        start = encode_cursor(it.log.epoch, 1)
        fill(it.log, topic, 400, size=1500)
        transport = FakeTransport("ws", it.hub.clock)
        transport.stall()
        await it.connect(me, start, transport=transport)
        worst = transport.buffered()
        for _ in range(50):
            fill(it.log, topic, 1, size=1500)
            await passes(0.1)
            worst = max(worst, transport.buffered())
        assert worst <= 2 * SMALL.queue_bytes + 2000


@simulated
async def test_an_answer_to_a_peer_that_is_behind_does_not_move_its_place() -> None:
    async with instance() as it:
        me, topic = user(), conversation()
        it.log.join(topic, me)
        session, transport = await it.connect(me)
        transport.stall()
        wanted = fill(it.log, topic, 60)
        await passes(0.1)
        assert session.state is State.BEHIND
        place = session.position
        session.send_control(b'{"type":"reply","padding":"' + b"x" * SMALL.queue_bytes + b'"}', "reply")
        await passes(0.1)
        assert session.position == place < it.log.head
        transport.take()
        await passes(2)
        assert transport.events() == wanted


@simulated
async def test_a_session_that_falls_behind_again_and_again_still_gets_each_event_once() -> None:
    log = FakeLog()
    async with instance(log, ring_events=5) as it:
        me, topic = user(), conversation()
        log.join(topic, me)
        it.source.latency = 0.02
        session, transport = await it.connect(me)
        transport.frames()
        wanted = []
        for _ in range(8):
            wanted += fill(log, topic, 20, size=100)
            for _ in range(12):
                await passes(0.004)
                wanted += fill(log, topic, 1, size=5000)
        await passes(20)
        assert transport.events() == wanted
        assert session.state is State.LIVE


@pytest.mark.parametrize("turns_later", range(6))
def test_falling_behind_in_the_very_turn_it_came_back_doubles_nothing(turns_later: int) -> None:
    """Going live and falling behind again within one turn must not leave two tasks reading for one session."""

    async def story() -> None:
        async with instance(ring_events=30) as it:
            me, topic = user(), conversation()
            it.log.join(topic, me)
            start = encode_cursor(it.log.epoch, 1)
            wanted = fill(it.log, topic, 20, size=100)
            it.source.latency = 0.01
            transport = FakeTransport("ws", it.hub.clock)
            place = await it.hub.places.find(start)
            view = await it.hub.view(it.log.events[0].tenant, me)
            session = it.hub.open(
                view, transport, place, sign_in=SessionId(new_id()), expires_at=float("inf"), groups=None
            )
            session.start()
            await turns(turns_later)
            wanted += fill(it.log, topic, 1, size=5000)
            wanted += fill(it.log, topic, 300, size=10)
            await passes(60)
            assert transport.events() == wanted

    simulated(story)()


@simulated
async def test_a_peer_that_takes_nothing_for_two_heartbeats_is_closed() -> None:
    async with instance() as it:
        me, topic = user(), conversation()
        it.log.join(topic, me)
        session, transport = await it.connect(me)
        transport.stall()
        fill(it.log, topic, 60)
        began = it.hub.clock()
        while transport.closing is None:
            await passes(0.5)
        assert transport.closing.code == 4408
        assert transport.closing.reconnect_after_ms is not None
        assert 2 * SMALL.heartbeat <= it.hub.clock() - began <= 2 * SMALL.heartbeat + 2
        assert session.state is State.CLOSED
        assert len(it.hub) == 0


@simulated
async def test_a_peer_that_takes_a_little_now_and_then_is_served_late() -> None:
    async with instance() as it:
        me, topic = user(), conversation()
        it.log.join(topic, me)
        _, transport = await it.connect(me)
        transport.stall()
        wanted = fill(it.log, topic, 60)
        for _ in range(30):
            await passes(SMALL.heartbeat)
            transport.take(1500)
        assert transport.closing is None
        transport.take()
        await passes(1)
        assert transport.events() == wanted


@simulated
async def test_answers_to_a_peer_that_reads_none_of_them_end_in_a_close_not_in_memory() -> None:
    async with instance() as it:
        session, transport = await it.connect(user())
        transport.stall()
        for _ in range(1000):
            session.send_control(b'{"type":"reply","padding":"' + b"x" * 300 + b'"}', "reply")
            await turns()
        assert transport.buffered() <= 6 * SMALL.queue_bytes
        assert transport.closing is not None
        assert transport.closing.code == 4408


@simulated
async def test_live_only_events_are_the_first_to_be_shed() -> None:
    async with instance() as it:
        me, topic = user(), conversation()
        it.log.join(topic, me)
        session, transport = await it.connect(me)
        transport.stall()
        typing = b'{"type":"typing.started","cursor":null}'
        wanted = fill(it.log, topic, 4)
        await turns()
        assert SMALL.queue_bytes // 4 < transport.buffered() < SMALL.queue_bytes
        assert not session.offer_live(typing, "typing.started", "messages")
        assert session.state is State.LIVE
        transport.take()
        assert session.offer_live(typing, "typing.started", "messages")
        await turns()
        frames = transport.frames()
        assert [f.type for f in frames] == ["hello", *["message.created"] * 4, "typing.started"]
        assert places(frames)[1:] == wanted


@simulated
async def test_live_only_events_obey_the_filter() -> None:
    async with instance() as it:
        session, _ = await it.connect(user(), groups=frozenset({"feed", "always"}))
        assert not session.offer_live(b"{}", "typing.started", "messages")
        assert session.offer_live(b"{}", "presence.changed", "always")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("ring_events", [1000, 5])
def test_a_session_that_is_behind_waits_while_the_log_cannot_be_read(ring_events: int) -> None:
    """From memory as little as from the stored log; and it waits, instead of trying all the time."""

    async def story() -> None:
        async with instance(ring_events=ring_events) as it:
            me, topic = user(), conversation()
            it.log.join(topic, me)
            session, transport = await it.connect(me)
            transport.stall()
            wanted = fill(it.log, topic, 60)
            await passes(0.1)
            assert session.state is State.BEHIND
            it.source.away = True
            await passes(1.1)
            transport.frames()
            read = it.source.calls["windows"]
            transport.take()
            given = transport.events()
            assert len(given) < 60
            await passes(30)
            assert transport.events() == []
            assert it.source.calls["windows"] <= read + 1
            it.source.away = False
            await passes(1)
            assert given + transport.events() == wanted
            assert state(session) is State.LIVE

    simulated(story)()


@simulated
async def test_what_a_crowd_is_written_at_once_is_bounded_too() -> None:
    """A batch for one topic that is more than a queue holds is read page by page, by those who take it."""
    async with instance() as it:
        it.hub.CROWD = 2
        topic, people = conversation(), [user() for _ in range(4)]
        it.log.join(topic, *people)
        transports = [(await it.connect(person))[1] for person in people]
        transports[0].frames()
        transports[0].stall()
        batch = [(topic, "message.created", "x" * 1000, Control()) for _ in range(50)]
        it.log.append_all(batch)
        assert max(t.buffered() for t in transports) <= 2 * SMALL.queue_bytes
        await passes(1)
        assert max(t.buffered() for t in transports) <= 2 * SMALL.queue_bytes
        assert [t.events() for t in transports[1:]] == [list(range(2, 52))] * 3
        transports[0].take()
        await passes(1)
        assert transports[0].events() == list(range(2, 52))


# Its end.


@simulated
async def test_a_silent_peer_is_closed_and_a_stream_has_no_such_signs() -> None:
    async with instance() as it:
        _, ws = await it.connect(user())
        _, sse = await it.connect(user(), wire="sse")
        ws.silent_since = it.hub.clock()
        await passes(2 * SMALL.heartbeat - 1)
        assert closed_with(ws) is None
        await passes(SMALL.heartbeat + 1)
        assert closed_with(ws) == 4408
        assert sse.closing is None


@simulated
async def test_a_peer_is_not_taken_for_silent_while_this_process_was_stopped() -> None:
    """What it sent meanwhile is still to be read."""
    async with instance() as it:
        _, peer = await it.connect(user())
        peer.silent_since = it.hub.clock()
        freeze(3 * SMALL.heartbeat)
        await passes(SMALL.heartbeat)
        assert closed_with(peer) is None
        await passes(SMALL.heartbeat + 1)
        assert closed_with(peer) == 4408, "it has been listened to for two intervals since"


@simulated
async def test_a_token_is_said_to_expire_a_minute_ahead_and_then_ends_the_session() -> None:
    async with instance() as it:
        now = it.hub.clock()
        session, transport = await it.connect(user(), expires_at=now + 100)
        await passes(39)
        assert "token.expiring" not in {f.type for f in transport.frames()}
        await passes(2)
        (notice,) = [f for f in transport.frames() if f.type == "token.expiring"]
        assert 55 <= notice.data["expires_in"] <= 60
        session.renew(SessionId(new_id()), now + 200)
        await passes(62)
        assert closed_with(transport) is None
        await passes(98)
        assert closed_with(transport) == 4401
        assert [f.type for f in transport.frames() if f.type != "heartbeat"] == ["token.expiring"]


@simulated
async def test_a_closed_session_writes_nothing_more() -> None:
    async with instance() as it:
        me = user()
        session, transport = await it.connect(me)
        transport.frames()
        it.log.append(inbox(me))
        session.send_control(b'{"type":"reply"}', "reply")
        session.detach()
        session.send_control(b'{"type":"reply"}', "reply")
        session.greet({"type": "hello", "cursor": "x"}, None)
        session.start()
        it.log.append(inbox(me))
        await passes(30)
        assert transport.frames() == []
        assert len(it.hub) == 0


@simulated
async def test_a_session_that_ends_while_it_waits_for_the_log_lets_its_task_end() -> None:
    async with instance(ring_events=2) as it:
        me = user()
        for _ in range(9):
            it.log.append(inbox(me))
        it.source.latency = 0.5
        session, transport = await it.connect(me, encode_cursor(it.log.epoch, 0))
        await turns()
        tasks = len(it.background.tasks)
        session.detach()
        await passes(2)
        assert len(it.background.tasks) == tasks - 1
        assert transport.events() == []


@simulated
async def test_what_waits_is_bounded_in_events_too() -> None:
    async with instance(limits=HubLimits(queue_events=5)) as it:
        ann = user()
        session, transport = await it.connect(ann)
        for _ in range(20):
            it.log.append(inbox(ann))
        assert session.state is State.BEHIND
        await passes(1)
        assert transport.events() == list(range(1, 21))
