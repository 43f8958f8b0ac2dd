"""Who may show that they type, and who is shown it: on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiojobs
import pytest

from domain.errors import NotFound, Unavailable
from domain.identity import Identity
from domain.ids import ConversationId, TenantId, new_id
from domain.log import conversation_topic
from realtime.typing import Typing
from services.typing import TypingService
from storage import tenants
from tests.support.chat import Chat, chat_on
from tests.support.fakes import FakeLog, FakeTransport, Instance
from tests.support.live import FakeBus, FakeChannels, until
from tests.support.services import OwnPostgres


@dataclass
class Room:
    chat: Chat
    log: FakeLog
    instance: Instance
    typing: Typing
    service: TypingService
    channels: FakeChannels

    async def connect(self, who: Identity, conversation: ConversationId) -> Peer:
        """Somebody's WebSocket, at which the hub knows them as a member."""
        self.log.join(conversation_topic(conversation), who.user)
        _, transport = await self.instance.connect(who.user)
        await until(lambda: self.instance.hub.position == self.log.head)
        transport.frames()
        return Peer(transport)


@dataclass
class Peer:
    transport: FakeTransport

    def told(self) -> list[str]:
        return [f.type for f in self.transport.frames() if f.type.startswith("typing.")]

    async def hears(self, *types: str) -> None:
        heard: list[str] = []

        def all_of_it() -> bool:
            heard.extend(self.told())
            return len(heard) >= len(types)

        await until(all_of_it)
        assert heard == list(types)


@asynccontextmanager
async def room(database_url: str) -> AsyncIterator[Room]:
    async with chat_on(database_url) as chat:
        log, channels = FakeLog(), FakeChannels()
        instance = await Instance(log).start()
        clock = asyncio.get_running_loop().time
        typing = Typing(instance.hub, FakeBus(channels), clock=clock, wall=clock)
        jobs = aiojobs.Scheduler()
        service = TypingService(chat.database, typing, jobs)
        instance.background.spawn(service.run())
        try:
            yield Room(chat, log, instance, typing, service, channels)
        finally:
            await instance.background.stop()
            await jobs.close()


async def test_members_show_each_other_that_they_type(database_url: str) -> None:
    async with room(database_url) as r:
        ann, bob, eve = await r.chat.crowd("ann", "bob", "eve")
        group = await r.chat.group(ann, bob, eve)
        anns, bobs, eves = [await r.connect(who, group) for who in (ann, bob, eve)]
        await r.service.start(ann, group)
        await bobs.hears("typing.started")
        await r.service.start(ann, group)
        await r.service.stop(ann, group)
        await bobs.hears("typing.stopped")
        assert eves.told() == ["typing.started", "typing.stopped"]
        assert anns.told() == []


async def test_a_message_ends_it(database_url: str) -> None:
    async with room(database_url) as r:
        ann, bob = await r.chat.crowd("ann", "bob")
        direct = await r.chat.direct(ann, bob)
        bobs = await r.connect(bob, direct)
        await r.service.start(ann, direct)
        r.service.sent(direct, bob.user)
        r.service.sent(direct, ann.user)
        await bobs.hears("typing.started", "typing.stopped")


async def test_strangers_are_told_that_there_is_nothing(database_url: str) -> None:
    async with room(database_url) as r:
        async with r.chat.database.connection() as connection:
            other = TenantId(new_id())
            await tenants.insert_tenant(connection, other, "other", "Other")
        ann, bob, eve, former = await r.chat.crowd("ann", "bob", "eve", "former")
        foreign = await r.chat.person("foreign", other)
        group = await r.chat.group(ann, bob, former)
        await r.chat.value("UPDATE conversation_members SET left_at = now() WHERE user_id = $1", former.user)
        bobs = await r.connect(bob, group)
        borrowed = Identity(other, ann.user, ann.session, ann.permissions, ann.expires_at)
        for who, where in (
            (eve, group),
            (former, group),
            (foreign, group),
            (borrowed, group),
            (ann, ConversationId(new_id())),
        ):
            with pytest.raises(NotFound):
                await r.service.start(who, where)
            with pytest.raises(NotFound):
                await r.service.stop(who, where)
        await r.service.stop(ann, group)
        assert bobs.told() == []
        assert not r.channels.published


@pytest.mark.parametrize("by_the_typist", [True, False])
async def test_a_block_hides_it_both_ways_and_from_nobody_else(
    database_url: str, by_the_typist: bool
) -> None:
    async with room(database_url) as r:
        ann, bob, eve = await r.chat.crowd("ann", "bob", "eve")
        group, direct = await r.chat.group(ann, bob, eve), await r.chat.direct(ann, bob)
        await r.chat.block(*((ann, bob) if by_the_typist else (bob, ann)))
        await r.connect(bob, group)
        bobs = await r.connect(bob, direct)
        anns, eves = await r.connect(ann, group), await r.connect(eve, group)
        for where in (group, direct):
            await r.service.start(ann, where)
            await r.service.stop(ann, where)
        await r.service.start(bob, group)
        await eves.hears("typing.started", "typing.stopped", "typing.started")
        assert bobs.told() == []
        assert anns.told() == []


async def test_a_block_ends_what_is_shown_and_hides_the_rest(database_url: str) -> None:
    async with room(database_url) as r:
        ann, bob, eve = await r.chat.crowd("ann", "bob", "eve")
        group = await r.chat.group(ann, bob, eve)
        bobs, eves = await r.connect(bob, group), await r.connect(eve, group)
        await r.service.start(ann, group)
        await bobs.hears("typing.started")
        await r.chat.block(ann, bob)
        r.service.visibility_changed([ann.user, bob.user])
        await bobs.hears("typing.stopped")
        await r.service.start(ann, group)
        await eves.hears("typing.started", "typing.stopped", "typing.started")
        assert bobs.told() == []


async def test_a_crowd_of_typists_costs_few_questions(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with room(database_url) as r:
        people = await r.chat.crowd(*[f"person{n}" for n in range(20)])
        group = await r.chat.group(people[0], *people[1:])
        loads: list[int] = []
        load = r.service._batcher._load

        async def counted(keys: object) -> object:
            loads.append(len(keys))  # type: ignore[arg-type]
            return await load(keys)  # type: ignore[arg-type]

        monkeypatch.setattr(r.service._batcher, "_load", counted)
        for _ in range(10):
            await asyncio.gather(*[r.service.start(person, group) for person in people])
        assert sum(loads) == 20, "the starts that follow soon ask nothing"
        assert len(loads) <= 3


async def test_without_a_database_nothing_is_shown(own_postgres: OwnPostgres) -> None:
    async with room(own_postgres.url) as r:
        ann, bob = await r.chat.crowd("ann", "bob")
        direct = await r.chat.direct(ann, bob)
        bobs = await r.connect(bob, direct)
        await asyncio.to_thread(own_postgres.stop)
        with pytest.raises(Unavailable):
            await r.service.start(ann, direct)
        assert bobs.told() == []
        await asyncio.to_thread(own_postgres.start)
        await r.service.start(ann, direct)
        await bobs.hears("typing.started")
