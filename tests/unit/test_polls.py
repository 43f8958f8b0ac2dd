"""Polls on the hub, and the paced end of all sessions."""

from __future__ import annotations

import asyncio

import pytest

from domain.ids import DEFAULT_TENANT, SessionId, UserId, new_id
from domain.log import inbox
from realtime.session import Session
from tests.support.fakes import FakeTransport, Instance, conversation, passes, turns, user
from tests.support.instances import instance, positions
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
