"""Who is told whose presence: on a real PostgreSQL and Redis, two instances, and people who block and hide."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from domain.errors import InvalidFields, Unavailable
from domain.identity import Identity
from domain.ids import TenantId, UserId, new_id
from realtime.hub import HubLimits
from realtime.roster import RedisRoster
from realtime.session import Session
from services.last_seen import LastSeen
from services.presence import PresenceLimits, PresenceService
from storage import tenants
from storage.redis import connect
from tests.support.chat import Chat, chat_on
from tests.support.fakes import FakeLog, FakeTransport, Instance
from tests.support.live import Node, until
from tests.support.services import OwnPostgres
from tests.support.wire import read_frames

LIMITS = PresenceLimits(tick=0.2, retry=0.05, reviewed=0)
"""Nothing is looked at without a reason, which would cover up what was missed."""
HIDDEN = ("offline", None)


@dataclass
class Place:
    """One instance."""

    instance: Instance
    node: Node
    service: PresenceService
    last_seen: LastSeen
    running: asyncio.Task[None]

    async def connect(self, who: Identity) -> Peer:
        session, transport = await self.instance.connect(who.user)
        await until(lambda: bool(transport.frames()))
        return Peer(self, who, session, transport)


@dataclass
class Peer:
    """Somebody's WebSocket."""

    place: Place
    who: Identity
    session: Session
    transport: FakeTransport

    async def follow(self, *users: Identity | UserId) -> list[tuple[str, str | None]]:
        ids = [user if not isinstance(user, Identity) else user.user for user in users]
        answer = await self.place.service.subscribe(self.session, self.who, ids)
        assert [status.user_id for status in answer.statuses] == list(dict.fromkeys(ids))
        return [(s["status"], s["last_seen_at"]) for s in answer.model_dump(mode="json")["statuses"]]

    def unfollow(self, *users: Identity) -> None:
        self.place.service.unsubscribe(self.session, [user.user for user in users])

    def told(self) -> list[tuple[str, str, str | None]]:
        """What presence it has been told since the last call."""
        return [(f["user_id"], f["status"], f["last_seen_at"]) for f in self.changes()]

    def changes(self) -> list[dict[str, Any]]:
        return [f.data["data"] for f in self.transport.frames() if f.type == "presence.changed"]

    async def hears(self, who: Identity, status: str) -> str | None:
        """Waits until it is told that of ``who``, and nothing else before; returns ``last_seen_at``."""
        heard: list[tuple[str, str, str | None]] = []

        def anything() -> bool:
            heard.extend(self.told())
            return bool(heard)

        await until(anything)
        assert [(user, told) for user, told, _ in heard] == [(str(who.user), status)]
        return heard[0][2]


@dataclass
class Town:
    """Two instances and the people on them."""

    chat: Chat
    a: Place
    b: Place

    async def settled(self) -> None:
        """Returns when everything that happened until now has been told: a stranger came and was seen on both."""
        watchers = [await place.connect(await self.someone()) for place in (self.a, self.b)]
        for place in (self.a, self.b):
            stranger = await self.someone()
            for watcher in watchers:
                await watcher.follow(stranger)
            peer = await place.connect(stranger)
            for watcher in watchers:
                await watcher.hears(stranger, "online")
            peer.session.detach()
        for watcher in watchers:
            watcher.session.detach()

    async def someone(self) -> Identity:
        return await self.chat.person(f"u{new_id().hex[-12:]}")

    async def visibility_changed(self, *users: Identity) -> None:
        self.a.service.visibility_changed([user.user for user in users])


@asynccontextmanager
async def town(database_url: str, redis_url: str, limits: PresenceLimits = LIMITS) -> AsyncIterator[Town]:
    async with chat_on(database_url) as chat:
        log, namespace = FakeLog(), str(new_id())
        places = []
        for name in ("a", "b"):
            instance = await Instance(log, limits=HubLimits(queue_bytes=4000)).start()
            node = Node(connect(redis_url), namespace, name, instance.hub)
            last_seen = LastSeen(chat.database)
            service = PresenceService(chat.database, node.presence, last_seen, limits=limits)
            hub = instance.hub
            hub.appeared, hub.disappeared = node.presence.appeared, node.presence.disappeared
            hub.detached = service.forget
            instance.background.spawn(node.bus.run())
            running = asyncio.create_task(service.run())
            places.append(Place(instance, node, service, last_seen, running))
        try:
            await until(lambda: all(place.node.joined for place in places))
            a, b = places
            yield Town(chat, a, b)
        finally:
            for place in places:
                place.running.cancel()
            await asyncio.gather(*[place.running for place in places], return_exceptions=True)
            for place in places:
                await place.instance.background.stop()
                await place.node.redis.aclose()


async def hide(chat: Chat, who: Identity, hidden: bool = True) -> None:
    await chat.value(
        "UPDATE users SET settings = jsonb_build_object('presence', $2::boolean) WHERE id = $1",
        who.user,
        not hidden,
    )


async def unblock(chat: Chat, blocker: Identity, blocked: Identity) -> None:
    await chat.value(
        "DELETE FROM blocks WHERE blocker_id = $1 AND blocked_id = $2", blocker.user, blocked.user
    )


async def stored_last_seen(chat: Chat, who: Identity) -> datetime | None:
    found: datetime | None = await chat.value("SELECT last_seen_at FROM users WHERE id = $1", who.user)
    return found


async def last_seen_once_stored(chat: Chat, who: Identity) -> datetime:
    async with asyncio.timeout(10):
        while (found := await stored_last_seen(chat, who)) is None:
            pass
    return found


async def test_statuses_are_answered_in_order_wherever_the_users_are(
    database_url: str, redis_url: str
) -> None:
    async with town(database_url, redis_url) as t:
        ann, bob, eve, dan = await t.chat.crowd("ann", "bob", "eve", "dan")
        await t.a.connect(bob)
        await t.b.connect(eve)
        await t.chat.value("UPDATE users SET last_seen_at = '2026-01-02T03:04:05Z' WHERE id = $1", dan.user)
        await t.settled()
        peer = await t.a.connect(ann)
        assert await peer.follow(eve, dan, bob, eve, ann, bob) == [
            ("online", None),
            ("offline", "2026-01-02T03:04:05.000000Z"),
            ("online", None),
            ("online", None),
        ]
        assert await peer.follow() == []


async def test_whoever_may_not_be_seen_cannot_be_told_from_nobody(database_url: str, redis_url: str) -> None:
    async with town(database_url, redis_url) as t:
        async with t.chat.database.connection() as connection:
            other = TenantId(new_id())
            await tenants.insert_tenant(connection, other, "other", "Other")
        ann, blocked, blocking, shy, deleted = await t.chat.crowd("ann", "blocked", "blocking", "shy", "gone")
        foreign = await t.chat.person("foreign", other)
        people = [blocked, blocking, shy, deleted, foreign]
        for person in people:
            await (await t.a.connect(person)).follow(person)
        await t.chat.value("UPDATE users SET last_seen_at = now()")
        await t.chat.block(ann, blocked)
        await t.chat.block(blocking, ann)
        await hide(t.chat, shy)
        await t.chat.value("UPDATE users SET deleted_at = now() WHERE id = $1", deleted.user)
        for place in (t.a, t.b):
            peer = await place.connect(ann)
            assert await peer.follow(*people, UserId(new_id())) == [HIDDEN] * 6


async def test_only_those_who_follow_are_told_and_only_while_they_do(
    database_url: str, redis_url: str
) -> None:
    async with town(database_url, redis_url) as t:
        ann, bob, eve = await t.chat.crowd("ann", "bob", "eve")
        near, far, second = await t.a.connect(ann), await t.b.connect(ann), await t.b.connect(ann)
        none = await t.a.connect(eve)
        for peer in (near, far, second):
            assert await peer.follow(bob) == [HIDDEN]
        before = datetime.now(UTC)
        other = await t.a.connect(bob)
        for peer in (near, far, second):
            assert await peer.hears(bob, "online") is None
        second.unfollow(bob, eve)
        other.session.detach()
        for peer in (near, far):
            seen = await peer.hears(bob, "offline")
            assert seen is not None
            assert before <= datetime.fromisoformat(seen) <= datetime.now(UTC)
        await t.settled()
        assert second.told() == none.told() == []


async def test_the_event_is_the_contracts(database_url: str, redis_url: str) -> None:
    async with town(database_url, redis_url) as t:
        ann, bob = await t.chat.crowd("ann", "bob")
        peer = await t.a.connect(ann)
        await peer.follow(bob)
        events: list[dict[str, Any]] = []
        peer.transport.written = lambda data: events.extend(f.data for f in read_frames("ws", data))
        await t.b.connect(bob)
        await until(lambda: bool(events))
        (event,) = events
        datetime.fromisoformat(event.pop("at"))
        assert event == {
            "cursor": None,
            "type": "presence.changed",
            "topic": {"kind": "user", "id": str(bob.user)},
            "data": {"user_id": str(bob.user), "status": "online", "last_seen_at": None},
        }


async def test_a_block_hides_at_once_what_was_shown_and_everything_after(
    database_url: str, redis_url: str
) -> None:
    async with town(database_url, redis_url) as t:
        ann, bob, eve = await t.chat.crowd("ann", "bob", "eve")
        bobs = await t.a.connect(bob)
        anns, eves = await t.b.connect(ann), await t.b.connect(eve)
        await t.settled()
        assert await anns.follow(bob) == await eves.follow(bob) == [("online", None)]
        assert await bobs.follow(ann) == [("online", None)]
        await t.chat.block(bob, ann)
        await t.visibility_changed(bob, ann)
        assert await anns.hears(bob, "offline") is None
        assert await bobs.hears(ann, "offline") is None
        bobs.session.detach()
        assert await eves.hears(bob, "offline") is not None
        await t.a.connect(bob)
        await eves.hears(bob, "online")
        await t.settled()
        assert anns.told() == []
        await unblock(t.chat, bob, ann)
        await t.visibility_changed(bob, ann)
        assert await anns.hears(bob, "online") is None
        assert eves.told() == []


async def test_a_block_that_nobody_was_told_of_hides_all_the_same(database_url: str, redis_url: str) -> None:
    async with town(database_url, redis_url) as t:
        ann, bob, eve = await t.chat.crowd("ann", "bob", "eve")
        anns, eves = await t.b.connect(ann), await t.b.connect(eve)
        bobs = await t.a.connect(bob)
        await t.settled()
        assert await anns.follow(bob) == await eves.follow(bob) == [("online", None)]
        await t.chat.block(ann, bob)
        bobs.session.detach()
        await eves.hears(bob, "offline")
        await t.a.connect(bob)
        await eves.hears(bob, "online")
        await t.settled()
        assert anns.told() == []


async def test_a_review_that_was_lost_is_made_up_for(database_url: str, redis_url: str) -> None:
    async with town(database_url, redis_url, PresenceLimits(tick=0.2)) as t:
        ann, bob = await t.chat.crowd("ann", "bob")
        await t.a.connect(bob)
        anns = await t.b.connect(ann)
        await t.settled()
        assert await anns.follow(bob) == [("online", None)]
        await t.chat.block(bob, ann)
        assert await anns.hears(bob, "offline") is None


async def test_presence_that_is_turned_off_is_never_shown(database_url: str, redis_url: str) -> None:
    async with town(database_url, redis_url) as t:
        ann, bob = await t.chat.crowd("ann", "bob")
        bobs, anns = await t.a.connect(bob), await t.b.connect(ann)
        await t.settled()
        assert await anns.follow(bob) == [("online", None)]
        await hide(t.chat, bob)
        await t.visibility_changed(bob)
        assert await anns.hears(bob, "offline") is None
        bobs.session.detach()
        await until(lambda: not t.b.node.online(bob.user))
        bobs = await t.a.connect(bob)
        await until(lambda: t.b.node.online(bob.user))
        await t.settled()
        assert anns.told() == []
        assert await bobs.follow(bob) == [("online", None)], "but to oneself"
        await hide(t.chat, bob, False)
        await t.visibility_changed(bob)
        assert await anns.hears(bob, "online") is None


async def test_what_happens_while_the_question_is_under_way_is_told_after_the_answer(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(database_url, redis_url) as t:
        ann, bob = await t.chat.crowd("ann", "bob")
        anns = await t.a.connect(ann)
        shown = t.a.service._shown
        came = asyncio.Event()

        async def slow(looks: Any) -> Any:
            answer = await shown(looks)
            if not came.is_set():
                came.set()
                await t.a.connect(bob)
                await t.a.service.deliver()
            return answer

        monkeypatch.setattr(t.a.service, "_shown", slow)
        assert await anns.follow(bob) == [HIDDEN]
        await anns.hears(bob, "online")


async def test_a_session_that_ends_leaves_nothing_behind(database_url: str, redis_url: str) -> None:
    async with town(database_url, redis_url) as t:
        ann, bob = await t.chat.crowd("ann", "bob")
        service, presence = t.a.service, t.a.node.presence
        one, two = await t.a.connect(ann), await t.a.connect(ann)
        await one.follow(bob, ann)
        await two.follow(bob)
        one.session.detach()
        assert presence._watched.keys() == {bob.user}
        two.unfollow(bob)
        assert not presence._watched
        with pytest.raises(Unavailable):
            await one.follow(bob)
        assert not service._watchers
        assert not service._following
        assert not presence._watched


async def test_a_session_that_ends_while_it_asks_leaves_nothing_behind(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town(database_url, redis_url) as t:
        ann, bob = await t.chat.crowd("ann", "bob")
        peer = await t.a.connect(ann)
        shown = t.a.service._shown

        async def ending(looks: Any) -> Any:
            peer.session.detach()
            return await shown(looks)

        monkeypatch.setattr(t.a.service, "_shown", ending)
        await peer.follow(bob)
        assert not t.a.service._watchers
        assert not t.a.service._following
        assert not t.a.node.presence._watched


async def test_there_are_only_so_many_one_can_follow(database_url: str, redis_url: str) -> None:
    async with town(database_url, redis_url, PresenceLimits(call=3, session=5)) as t:
        ann = await t.chat.person("ann")
        peer = await t.a.connect(ann)
        users = [UserId(new_id()) for _ in range(6)]
        with pytest.raises(InvalidFields) as refused:
            await peer.follow(*users[:4])
        assert [f.pointer for f in refused.value.fields] == ["/user_ids"]
        await peer.follow(*users[:3])
        await peer.follow(*users[2:5])
        with pytest.raises(InvalidFields):
            await peer.follow(users[5])
        assert t.a.node.presence._watched.keys() == set(users[:5])
        t.a.service.unsubscribe(peer.session, users[:1])
        await peer.follow(users[5])


async def test_a_slow_peer_is_told_the_end_of_it_when_it_reads_again(
    database_url: str, redis_url: str
) -> None:
    async with town(database_url, redis_url) as t:
        ann, bob = await t.chat.crowd("ann", "bob")
        anns = await t.a.connect(ann)
        await anns.follow(bob)
        anns.transport.stall()
        anns.transport.write(b"x" * 2000)  # more than live-only events may add to
        bobs = await t.a.connect(bob)
        await t.settled()
        bobs.session.detach()
        await until(lambda: not t.a.node.online(bob.user))
        await t.a.connect(bob)
        await t.settled()
        assert anns.transport.buffered() == 2000
        anns.transport._waiting.clear()
        anns.transport.take()
        await anns.hears(bob, "online")


async def test_nobody_is_told_anything_while_it_is_not_known_who_may_see_it(
    own_postgres: OwnPostgres, redis_url: str
) -> None:
    async with town(own_postgres.url, redis_url) as t:
        ann, bob, eve = await t.chat.crowd("ann", "bob", "eve")
        anns, bobs = await t.a.connect(ann), await t.b.connect(bob)
        await t.settled()
        assert await anns.follow(bob) == [("online", None)]
        await asyncio.to_thread(own_postgres.stop)
        bobs.session.detach()
        await until(lambda: not t.a.node.online(bob.user))
        with pytest.raises(Unavailable):
            await anns.follow(eve)
        assert anns.told() == []
        assert t.a.node.presence._watched.keys() == {bob.user}
        await asyncio.to_thread(own_postgres.start)
        assert await anns.hears(bob, "offline") is not None
        await last_seen_once_stored(t.chat, bob)


async def test_when_users_were_last_seen_is_stored_and_never_goes_back(
    database_url: str, redis_url: str
) -> None:
    async with town(database_url, redis_url) as t:
        bob, late = await t.chat.crowd("bob", "late")
        before = datetime.now(UTC)
        (await t.a.connect(bob)).session.detach()
        seen = await last_seen_once_stored(t.chat, bob)
        assert before <= seen <= datetime.now(UTC)
        t.a.last_seen.note({bob.user: seen.timestamp() - 60, late.user: 1.0, UserId(new_id()): time.time()})
        await t.a.last_seen.store()
        assert await stored_last_seen(t.chat, bob) == seen
        assert await stored_last_seen(t.chat, late) == datetime.fromtimestamp(1, UTC)


async def test_a_row_that_is_in_use_is_written_the_next_time(database_url: str) -> None:
    async with chat_on(database_url) as chat:
        bob = await chat.person("bob")
        last_seen = LastSeen(chat.database)
        async with chat.database.transaction() as holder:
            await holder.execute("UPDATE users SET bio = 'x' WHERE id = $1", bob.user)
            last_seen.note({bob.user: time.time()})
            await last_seen.store()
            assert await stored_last_seen(chat, bob) is None
        await last_seen.store()
        assert await stored_last_seen(chat, bob) is not None


async def test_a_deleted_account_is_not_seen_any_more(database_url: str) -> None:
    async with chat_on(database_url) as chat:
        bob = await chat.person("bob")
        await chat.value("UPDATE users SET deleted_at = now() WHERE id = $1", bob.user)
        last_seen = LastSeen(chat.database, wall=lambda: time.time() + LastSeen.GIVE_UP_SECONDS + 1)
        last_seen.note({bob.user: time.time()})
        await last_seen.store()
        assert await stored_last_seen(chat, bob) is None
        assert not last_seen._seen, "and nobody keeps on trying"


async def test_an_instance_that_ends_writes_when_its_users_were_last_seen(
    database_url: str, redis_url: str
) -> None:
    async with town(database_url, redis_url) as t:
        ann, bob = await t.chat.crowd("ann", "bob")
        anns = await t.b.connect(ann)
        await t.a.connect(bob)
        await t.settled()
        assert await anns.follow(bob) == [("online", None)]
        t.a.node.presence.hold()
        t.a.running.cancel()
        await asyncio.gather(t.a.running, return_exceptions=True)
        assert await stored_last_seen(t.chat, bob) is not None
        await t.b.node.presence.recheck()
        assert t.b.node.online(bob.user), "there is time to come back"
        await t.b.connect(bob)
        roster = t.a.node.presence._roster
        assert isinstance(roster, RedisRoster)
        await t.b.node.redis.delete(roster._key("alive", "a"))  # as time will do
        await t.b.node.presence.recheck()
        await t.b.node.presence.flush()
        assert t.b.node.online(bob.user)
        assert anns.told() == []
