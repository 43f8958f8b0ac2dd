"""Who is shown typing, and until when: real hubs on a fake log, on simulated time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from domain.ids import ConversationId, UserId
from domain.log import Topic
from realtime.codec import Wire
from realtime.events import Group
from realtime.hub import HubLimits
from realtime.typing import Typing, TypingTiming
from tests.support.fakes import FakeLog, FakeTransport, Instance, conversation, passes, turns, user
from tests.support.live import FakeBus, FakeChannels
from tests.support.simulated import simulated

LASTS = 6.0
STEP = TypingTiming().step
NOBODY: frozenset[UserId] = frozenset()
ANN, BOB, EVE = user(), user(), user()


@dataclass
class Place:
    """An instance that shows typing."""

    instance: Instance
    bus: FakeBus
    typing: Typing

    async def connect(
        self, who: UserId, *, wire: Wire = "ws", groups: frozenset[Group] | None = None
    ) -> FakeTransport:
        _, transport = await self.instance.connect(who, wire=wire, groups=groups)
        await turns()
        transport.frames()
        return transport


@dataclass
class Room:
    """A conversation of Ann, Bob and Eve, and two instances."""

    topic: Topic
    id: ConversationId
    log: FakeLog
    a: Place
    b: Place
    channels: FakeChannels


@asynccontextmanager
async def room() -> AsyncIterator[Room]:
    log, topic, channels = FakeLog(), conversation(), FakeChannels()
    log.join(topic, ANN, BOB, EVE)
    clock = asyncio.get_running_loop().time
    places = []
    for _ in range(2):
        instance = await Instance(log, limits=HubLimits(queue_bytes=1000)).start()
        bus = FakeBus(channels)
        typing = Typing(instance.hub, bus, clock=clock, wall=clock)
        instance.background.spawn(typing.run())
        places.append(Place(instance, bus, typing))
    await turns()
    try:
        a, b = places
        yield Room(topic, ConversationId(topic.id), log, a, b, channels)
    finally:
        for place in places:
            await place.instance.background.stop()


def told(transport: FakeTransport) -> list[tuple[str, str]]:
    """What typing the peer has been told since the last call."""
    return [
        (frame.type, frame.data["data"]["user_id"])
        for frame in transport.frames()
        if frame.type.startswith("typing.")
    ]


def started(who: UserId) -> tuple[str, str]:
    return "typing.started", str(who)


def stopped(who: UserId) -> tuple[str, str]:
    return "typing.stopped", str(who)


@simulated
async def test_the_other_members_are_shown_it_on_every_instance() -> None:
    async with room() as r:
        bob, eve, ann = await r.a.connect(BOB), await r.b.connect(EVE), await r.b.connect(ANN)
        stranger = await r.b.connect(user())
        r.a.typing.start(r.id, ANN, NOBODY)
        await passes(0.1)
        assert told(bob) == told(eve) == [started(ANN)]
        assert told(ann) == [], "not the typist, on any device"
        assert told(stranger) == []


@simulated
async def test_the_event_is_the_contracts() -> None:
    async with room() as r:
        bob = await r.a.connect(BOB)
        r.a.typing.start(r.id, ANN, NOBODY)
        await passes(0.1)
        (frame,) = bob.frames()
        assert frame.data.keys() == {"cursor", "type", "topic", "at", "data"}
        assert frame.data["cursor"] is None
        assert frame.data["topic"] == {"kind": "conversation", "id": str(r.id)}
        assert frame.data["data"] == {"conversation_id": str(r.id), "user_id": str(ANN)}


@simulated
async def test_a_stream_is_given_it_without_an_id() -> None:
    async with room() as r:
        bob = await r.b.connect(BOB, wire="sse")
        r.a.typing.start(r.id, ANN, NOBODY)
        await passes(0.1)
        assert [(f.event, f.id) for f in bob.frames()] == [("typing.started", None)]


@simulated
async def test_it_ends_by_itself_six_seconds_after_the_last_start_everywhere() -> None:
    async with room() as r:
        bob, eve = await r.a.connect(BOB), await r.b.connect(EVE)
        r.a.typing.start(r.id, ANN, NOBODY)
        await passes(0.9)
        assert r.a.typing.prolong(r.id, ANN)
        await passes(LASTS - 0.1)
        assert told(bob) == told(eve) == [started(ANN)]
        await passes(0.1 + STEP + 0.1)
        assert told(bob) == told(eve) == [stopped(ANN)]
        await passes(60)
        assert told(bob) == told(eve) == []


@simulated
async def test_starts_in_quick_succession_are_told_seldom() -> None:
    async with room() as r:
        bob, eve = await r.a.connect(BOB), await r.b.connect(EVE)
        for _ in range(100):
            if not r.a.typing.prolong(r.id, ANN):
                r.a.typing.start(r.id, ANN, NOBODY)
            await passes(0.1)
        assert told(bob) == told(eve) == [started(ANN)] * 4, (
            "at 0, 3, 6 and 9 seconds, for those who came since"
        )
        assert len(r.channels.published) <= 10, "once a second"
        await passes(LASTS + 1)
        assert told(bob) == told(eve) == [stopped(ANN)]


@simulated
async def test_a_sent_message_ends_it_also_where_it_was_sent_through_another_instance() -> None:
    async with room() as r:
        bob, eve = await r.a.connect(BOB), await r.b.connect(EVE)
        r.a.typing.start(r.id, ANN, NOBODY)
        await passes(0.1)
        r.b.typing.stop(r.id, ANN)
        await passes(0.1)
        assert told(bob) == told(eve) == [started(ANN), stopped(ANN)]
        r.b.typing.stop(r.id, ANN)
        await passes(60)
        assert told(bob) == told(eve) == []


@simulated
async def test_stopping_what_is_not_shown_tells_nobody() -> None:
    async with room() as r:
        bob = await r.a.connect(BOB)
        for _ in range(1000):
            r.a.typing.stop(r.id, ANN)
        await passes(1)
        assert told(bob) == []
        assert not r.channels.published


@simulated
async def test_it_ends_on_the_others_when_the_typists_instance_dies() -> None:
    async with room() as r:
        eve = await r.b.connect(EVE)
        r.a.typing.start(r.id, ANN, NOBODY)
        await passes(0.1)
        r.channels.lossy = lambda: True
        await passes(LASTS + TypingTiming().grace + STEP)
        assert told(eve) == [started(ANN), stopped(ANN)]


@simulated
async def test_it_goes_on_where_the_typist_goes_on_through_another_instance() -> None:
    async with room() as r:
        bob, eve = await r.a.connect(BOB), await r.b.connect(EVE)
        r.a.typing.start(r.id, ANN, NOBODY)
        await passes(0.1)
        assert not r.b.typing.prolong(r.id, ANN), "who may see it is asked for where the typing goes on"
        await passes(2)
        r.b.typing.start(r.id, ANN, NOBODY)
        await passes(0.1)
        r.a.typing.gone([ANN])
        await passes(LASTS - 0.5)
        assert told(bob) == told(eve) == [started(ANN)]
        await passes(1)
        assert told(bob) == told(eve) == [stopped(ANN)]


@simulated
async def test_it_ends_when_the_typist_is_gone() -> None:
    async with room() as r:
        bob, eve = await r.a.connect(BOB), await r.b.connect(EVE)
        r.a.typing.start(r.id, ANN, NOBODY)
        r.a.typing.start(r.id, BOB, NOBODY)
        await passes(0.1)
        assert told(eve) == [started(ANN), started(BOB)]
        r.b.typing.gone([BOB])
        await passes(0.1)
        assert told(eve) == [], "it was not the other instance that showed it"
        r.a.typing.gone([ANN])
        await passes(0.1)
        assert told(eve) == [stopped(ANN)]
        assert told(bob) == [started(ANN), stopped(ANN)]


@simulated
async def test_those_it_is_hidden_from_see_nothing_of_it() -> None:
    async with room() as r:
        bob, eve = await r.a.connect(BOB), await r.b.connect(EVE)
        for _ in range(5):
            r.a.typing.start(r.id, ANN, frozenset({EVE}))
            await passes(1)
        await passes(LASTS + 1)
        assert told(bob) == [started(ANN), started(ANN), stopped(ANN)]
        assert told(eve) == []


@simulated
async def test_a_change_of_who_may_see_it_ends_what_is_shown() -> None:
    async with room() as r:
        bob, eve = await r.a.connect(BOB), await r.b.connect(EVE)
        r.a.typing.start(r.id, ANN, NOBODY)
        await passes(0.1)
        r.b.typing.end([ANN, EVE])
        await passes(0.1)
        assert told(bob) == told(eve) == [started(ANN), stopped(ANN)]
        assert not r.a.typing.prolong(r.id, ANN)
        r.a.typing.start(r.id, ANN, frozenset({EVE}))
        await passes(30)
        assert told(bob) == [started(ANN), stopped(ANN)]
        assert told(eve) == []


@simulated
async def test_who_left_the_conversation_is_shown_nothing_more() -> None:
    async with room() as r:
        eve = await r.b.connect(EVE)
        r.log.leave(r.topic, EVE)
        await passes(1)
        eve.frames()
        r.a.typing.start(r.id, ANN, NOBODY)
        await passes(30)
        assert told(eve) == []


@pytest.mark.parametrize(
    ("groups", "count"), [(None, 1), (frozenset[Group]({"messages"}), 1), (frozenset[Group]({"feed"}), 0)]
)
def test_sessions_without_messages_are_not_given_it(groups: frozenset[Group] | None, count: int) -> None:
    @simulated
    async def story() -> None:
        async with room() as r:
            bob = await r.a.connect(BOB, groups=groups)
            r.a.typing.start(r.id, ANN, NOBODY)
            await passes(0.1)
            assert len(told(bob)) == count

    story()


@simulated
async def test_a_slow_peer_is_spared_it() -> None:
    async with room() as r:
        bob = await r.a.connect(BOB)
        bob.stall()
        for n in range(50):
            r.a.typing.start(r.id, ANN, NOBODY)
            r.a.typing.stop(r.id, ANN)
            await passes(0.1)
            assert bob.buffered() < 1000, n
        bob.take()
        await passes(1)
        assert told(bob), "and gets it again once it reads"


@simulated
async def test_an_instance_that_cannot_read_the_log_shows_nothing() -> None:
    async with room() as r:
        bob, eve = await r.a.connect(BOB), await r.b.connect(EVE)
        r.a.instance.source.away = True
        await passes(2)
        r.a.typing.start(r.id, ANN, NOBODY)
        await passes(1)
        assert told(bob) == []
        assert told(eve) == [started(ANN)]


@simulated
async def test_what_ends_while_nothing_may_be_shown_is_told_afterwards() -> None:
    async with room() as r:
        bob = await r.a.connect(BOB)
        r.a.typing.start(r.id, ANN, NOBODY)
        r.a.typing.start(r.id, EVE, NOBODY)
        await passes(0.1)
        assert told(bob) == [started(ANN), started(EVE)]
        r.a.instance.source.away = True
        await passes(2)
        r.a.typing.stop(r.id, EVE)
        await passes(LASTS)
        assert told(bob) == []
        r.a.instance.source.away = False
        await passes(1)
        assert sorted(told(bob)) == sorted([stopped(ANN), stopped(EVE)])


@simulated
async def test_a_hint_that_cannot_be_read_is_left_alone() -> None:
    async with room() as r:
        bob = await r.a.connect(BOB)
        for payload in (b"", b"null", b"[1,2,3,4]", b'["x","y",true,[]]', b"[]"):
            r.a.typing._heard(payload)
        await passes(1)
        assert told(bob) == []
