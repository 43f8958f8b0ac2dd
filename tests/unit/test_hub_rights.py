"""Revocation, freezes and another log: what must not be written, and to whom nothing more is written at all."""

from __future__ import annotations

import asyncio

import pytest

from domain.ids import DEFAULT_TENANT, SessionId, new_id
from domain.log import Control, inbox
from realtime.codec import encode_cursor
from realtime.hub import HubLimits
from tests.support.fakes import FakeTransport, conversation, passes, turns, user
from tests.support.instances import HUB_LIMITS as LIMITS
from tests.support.instances import NO_POLLS, closed_with, draft, freeze, instance
from tests.support.simulated import simulated


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
            place = await it.hub.places.find(encode_cursor(it.log.epoch, 2))
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
