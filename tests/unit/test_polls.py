"""Polls on the hub, and the paced end of all sessions."""

from __future__ import annotations

import asyncio

import pytest

from domain.ids import DEFAULT_TENANT, SessionId, UserId, new_id
from domain.log import Control, inbox
from realtime.poll import Poll
from realtime.session import Session
from tests.support.fakes import FakeTransport, Instance, conversation, passes, turns, user
from tests.support.instances import draft, instance, positions
from tests.support.simulated import simulated


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


@pytest.mark.parametrize("forgotten", [0, 5], ids=["in memory", "out of memory"])
def test_a_text_deleted_while_a_poll_reads_on_is_not_given(forgotten: int) -> None:
    """It is in the first page, and the second is on its way."""

    async def story() -> None:
        async with instance(ring_events=3) as it:
            ann, topic = user(), conversation()
            it.log.join(topic, ann)
            secret = it.log.append(topic, "message.created", "SECRET")
            for _ in range(Poll.FILTERED_PAGE + 5):
                it.log.append(topic, "x")
            await passes(1)
            view = await it.hub.view(DEFAULT_TENANT, ann)
            messages = frozenset({"messages"})
            poll = it.hub.poll(view, sign_in=SessionId(new_id()), expires_at=1e9, groups=messages)  # type: ignore[arg-type]
            it.source.latencies["windows"] = 0.2
            reading = asyncio.get_running_loop().create_task(poll.read(secret.position - 1, 1))
            await passes(0.3)
            it.log.append(topic, "message.deleted", "", Control(redacts=(secret.position,)))
            for _ in range(forgotten):
                it.log.append(topic, "x")
                await turns()
            events, _, _ = await reading
            assert [e.position for e in events] == [secret.position]
            assert b"SECRET" not in events[0].envelope

    simulated(story)()


@simulated
async def test_shared_answers_last_for_a_turn_of_the_loop() -> None:
    async with instance() as it:
        it.log.append(conversation())
        await passes(1)
        events = it.reader.ring.slice(0, 1)
        first = it.hub.shared.answer(it.hub.epoch, events, 1, True)
        assert it.hub.shared.answer(it.hub.epoch, events, 1, True) is first
        await turns()
        assert it.hub.shared.answer(it.hub.epoch, events, 1, True) is not first


@simulated
async def test_a_shared_answer_does_not_outlast_a_deletion_that_was_not_dispatched() -> None:
    async with instance() as it:
        ann, topic = user(), conversation()
        it.log.join(topic, ann)
        secret = it.log.append(topic, "message.created", "SECRET")
        await passes(1)
        view = await it.hub.view(DEFAULT_TENANT, ann)
        broken = it.hub.poll(view, sign_in=SessionId(new_id()), expires_at=1e9, groups=None)
        object.__setattr__(broken, "_groups", object())  # makes offer() raise
        events = it.reader.ring.slice(secret.position - 1, 1)
        assert b"SECRET" in it.hub.shared.answer(it.hub.epoch, events, secret.position, True)
        withdrawn = Control(redacts=(secret.position,))
        it.log.append_all([draft(topic), (topic, "message.deleted", "", withdrawn)])
        assert it.hub.position == it.log.head, "the hub has skipped them"
        assert b"SECRET" not in it.hub.shared.answer(it.hub.epoch, events, secret.position, True)


@simulated
async def test_a_poll_that_cannot_be_offered_something_is_answered_to_ask_again() -> None:
    async with instance() as it:
        it.hub.CROWD = 1
        ann, topic = user(), conversation()
        it.log.join(topic, ann)
        await passes(1)
        view = await it.hub.view(DEFAULT_TENANT, ann)
        broken = it.hub.poll(view, sign_in=SessionId(new_id()), expires_at=1e9, groups=None)
        object.__setattr__(broken, "_groups", object())  # makes push() raise
        waiting = asyncio.get_running_loop().create_task(broken.wait(60.0))
        await turns()
        it.log.append(topic)
        await turns()
        assert waiting.done()
        assert broken.draining


@simulated
async def test_a_full_page_from_memory_is_read_once() -> None:
    async with instance() as it:
        ann, topic = user(), conversation()
        it.log.join(topic, ann)
        for _ in range(500):
            it.log.append(topic)
        await passes(1)
        it.counted.caught.clear()
        assert (await _poll(it, ann, 0, 100))[1:] == (100, True)
        assert it.counted.caught["ring"] == 101, "one more than was asked for, to know that there is more"
        view = await it.hub.view(DEFAULT_TENANT, ann)
        poll = it.hub.poll(view, sign_in=SessionId(new_id()), expires_at=1e9, groups=None)
        at_once = poll.read_at_once(0, 100)
        assert at_once is not None
        assert at_once == await poll.read(0, 100)
        assert at_once[1:] == (100, True)
