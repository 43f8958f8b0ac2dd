"""The hub says who comes and goes: what presence and typing hang on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from domain.ids import DEFAULT_TENANT, SessionId, UserId, new_id
from realtime.poll import Poll
from tests.support.fakes import FakeLog, Instance, passes, turns, user
from tests.support.simulated import simulated


class Watched:
    """An instance whose comings and goings are written down."""

    def __init__(self, instance: Instance) -> None:
        self.hub = instance.hub
        self.instance = instance
        self.said: list[tuple[str, UserId]] = []
        self.ended: list[object] = []
        instance.hub.appeared = lambda who: self.said.append(("appeared", who))
        instance.hub.disappeared = lambda who: self.said.append(("disappeared", who))
        instance.hub.detached = self.ended.append

    async def poll(self, who: UserId) -> Poll:
        view = await self.hub.view(DEFAULT_TENANT, who)
        return self.hub.poll(view, sign_in=SessionId(new_id()), expires_at=float("inf"), groups=None)


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    instance = await Instance(FakeLog()).start()
    await turns()
    try:
        yield Watched(instance)
    finally:
        await instance.background.stop()


@simulated
async def test_the_first_session_or_poll_appears_and_the_last_disappears() -> None:
    async with watched() as w:
        bob = user()
        one, _ = await w.instance.connect(bob)
        poll = await w.poll(bob)
        one.detach()
        assert w.said == [("appeared", bob)]
        w.hub.detach(poll)
        assert w.said == [("appeared", bob), ("disappeared", bob)]
        assert w.ended == [one, poll]
        w.hub.detach(poll)
        one.detach()
        assert len(w.said) == len(w.ended) == 2, "once"


@simulated
async def test_an_event_without_a_place_is_not_taken_while_nothing_may_be_written() -> None:
    async with watched() as w:
        session, transport = await w.instance.connect(user())
        assert session.offer_live(b'{"type":"typing.started"}', "typing.started", "messages")
        await turns()
        assert [f.type for f in transport.frames()][-1] == "typing.started"
        w.instance.source.away = True
        await passes(2)
        assert not session.offer_live(b'{"type":"typing.started"}', "typing.started", "messages")
        await passes(2)
        assert "typing.started" not in [f.type for f in transport.frames()]


@simulated
async def test_a_view_without_a_session_is_nobody() -> None:
    async with watched() as w:
        await w.hub.view(DEFAULT_TENANT, user())
        await passes(120)
        assert not w.said


@simulated
async def test_whoever_came_back_before_an_old_poll_ended_is_still_there() -> None:
    async with watched() as w:
        bob = user()
        poll = await w.poll(bob)
        w.instance.log.restore(
            0
        )  # every session ends and every view is dropped; polls answer in their own time
        await passes(1)
        session, _ = await w.instance.connect(bob)
        w.hub.detach(poll)
        assert ("disappeared", bob) not in w.said
        session.detach()
        assert w.said[-1] == ("disappeared", bob)
