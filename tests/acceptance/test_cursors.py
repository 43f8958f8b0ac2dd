"""One cursor everywhere (I3), strictly forward and without a gap (I2): what a session sees of the log."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime

import asyncpg
import pytest

from realtime.codec import decode_cursor, encode_cursor
from tests.support.clients import Json, Person
from tests.support.house import House
from tests.support.services import OwnRedis

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRANSPORTS = ["ws", "sse", "poll"]
WHERE = pytest.mark.parametrize("stored", [False, True], ids=["from memory", "from the database"])


RING = 200


@asynccontextmanager
async def memory(house: House, stored: bool) -> AsyncIterator[House]:
    """An instance that remembers all that it sees, or only the newest, once ``pass_by`` has passed by."""
    async with house.instance(ring_events=RING if stored else 100_000) as api:
        yield House(house.settings, house.http, house.watch, api, house.other)


async def pass_by(house: House) -> None:
    """More events than an instance with a short memory holds."""
    (ann,) = await house.people(1, at=house.other)
    group = await ann.group_with()
    async with ann.ws(topics="notifications") as socket:
        for _ in range(RING):
            await socket.tell("message.send", message(group, "passing by"))
        last = await socket.say(group)
    async with asyncio.timeout(10):
        while (await ann.at(house.api).get(f"/conversations/{group}"))["last_seq"] < last["seq"]:
            pass
    await ann.at(house.api).poll()


async def start_of(person: Person, transport: str, cursor: str, count: int) -> list[Json]:
    """The first ``count`` frames that a session with that cursor is given; with ``hello`` where there is one."""
    if transport == "ws":
        async with person.ws(cursor) as socket:
            return [socket.hello] + [await socket.receive() for _ in range(count)]
    if transport == "sse":
        async with person.sse(cursor) as stream:
            return [stream.hello] + [(await stream.receive()).json for _ in range(count)]
    return list((await person.poll(cursor))["events"])


async def replay(person: Person, cursor: str) -> list[Json]:
    """Everything up to now, by polls; receipts left out."""
    events: list[Json] = []
    while True:
        answer = await person.poll(cursor, limit=3)
        events += answer["events"]
        cursor = answer["cursor"]
        if not answer["more"]:
            return [event for event in events if not event["type"].startswith("receipt.")]


def kinds(events: list[Json]) -> list[str]:
    return [event["type"] for event in events]


def texts(events: list[Json]) -> list[str]:
    return [event["data"]["body"] for event in events if event["type"] == "message.created"]


# One cursor everywhere.


async def test_a_cursor_of_any_transport_goes_on_on_every_other(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    seen: list[str] = []
    cursor = (await bob.poll())["cursor"]
    sent = 0
    steps = [*itertools.permutations(TRANSPORTS, 2)]
    for number, transport in enumerate(transport for step in steps for transport in step):
        api = house.other if number % 2 else house.api
        person = (await bob.sign_in()).at(api) if number % 3 == 0 else bob.at(api)
        await ann.say(chat, str(sent))
        await ann.say(chat, str(sent + 1))
        sent += 2
        # Leaves in the middle of what there is, so that the next one has to go on from there.
        if transport == "ws":
            async with person.ws(cursor) as socket:
                event = await socket.event("message.created")
        elif transport == "sse":
            async with person.sse(cursor) as stream:
                event = await stream.event("message.created")
        else:
            answer = await person.poll(cursor, wait=5, limit=1)
            while not texts(answer["events"]):
                answer = await person.poll(answer["cursor"], wait=5, limit=1)
            event = answer["events"][0]
        seen.append(event["data"]["body"])
        cursor = event["cursor"]
    seen += texts(await replay(bob, cursor))
    assert seen == [str(n) for n in range(sent)]


async def test_a_cursor_of_one_person_is_no_permission_for_another(house: House) -> None:
    ann, bob, eve = await house.people(3)
    chat = await ann.direct_with(bob)
    cursor = (await bob.poll())["cursor"]
    await ann.say(chat, "between ann and bob")
    assert texts(await replay(bob, cursor)) == ["between ann and bob"]
    for transport in ("ws", "sse"):
        (hello,) = await start_of(eve, transport, cursor, 0)
        assert hello["cursor"] == cursor
    assert await replay(eve, cursor) == []


async def test_all_sessions_see_one_order_across_conversations(house: House) -> None:
    """A crowd is written to at once, a pair with the rest of the batch: the order is that of the log all the same."""
    people = await house.people(20)
    ann, bob, *others = people
    crowd = await ann.group_with(bob, *others)
    chats = [crowd, await ann.direct_with(bob), await ann.group_with(bob)]
    start = (await ann.poll())["cursor"]
    there = bob.at(house.other)
    rng = random.Random(1)
    async with (
        AsyncExitStack() as crowded,
        ann.ws() as one,
        bob.ws() as two,
        there.ws() as three,
        there.sse() as four,
    ):
        for other in others:
            await crowded.enter_async_context(other.ws())
        sends = [
            sender.say(rng.choice(chats) if sender in (ann, bob, there) else crowd, f"{n}")
            for n, sender in enumerate(rng.choice([ann, bob, there, *others[:2]]) for _ in range(80))
        ]
        sent = {result["id"] for result in await asyncio.gather(*sends)}
        orders = []
        for follow in (one, two, three, four):
            cursors: list[str] = []
            left = set(sent)
            while left:
                event = await follow.event("message.created")
                left.discard(event["data"]["id"])
                cursors.append(event["cursor"])
            orders.append(cursors)
    log = [e["cursor"] for e in await replay(ann, start) if e["type"] == "message.created"]
    assert len(log) == len(set(log)) == len(sent)
    for order in orders:
        assert order == log


async def test_what_is_read_in_one_go_keeps_its_order(house: House, own_redis: OwnRedis) -> None:
    """An instance that hears no hint reads it all at once: a pair's message, a deletion, one to a crowd."""
    async with house.instance(redis_url=own_redis.url) as there, AsyncExitStack() as crowded:
        ann, bob, *others = await house.people(20)
        chats = {"pair": await ann.direct_with(bob), "crowd": await ann.group_with(bob, *others)}
        regretted = [(await ann.say(chats["crowd"], "regretted"))["seq"] for _ in range(5)]
        start = (await ann.poll())["cursor"]
        for other in others:
            await crowded.enter_async_context(other.at(there).ws())
        socket = await crowded.enter_async_context(bob.at(there).ws(start))
        expected: list[str] = []
        for n, seq in enumerate(regretted):
            await ann.say(chats["pair"], f"pair {n}")
            await ann.call("DELETE", f"/conversations/{chats['crowd']}/messages/{seq}", expect=204)
            await ann.say(chats["crowd"], f"crowd {n}")
            expected += [f"pair {n}", "message.deleted", f"crowd {n}"]
        seen: list[Json] = []
        while len(seen) < len(expected):
            event = await socket.event()
            if event["type"] in ("message.created", "message.deleted"):
                seen.append(event)
        assert [e["data"].get("body", e["type"]) for e in seen] == expected
        log = [
            e["cursor"]
            for e in await replay(bob, start)
            if e["type"] in ("message.created", "message.deleted")
        ]
        assert [event["cursor"] for event in seen] == log


async def test_what_was_acknowledged_before_comes_first_across_instances(house: House) -> None:
    ann, bob = await house.people()
    chats = [await ann.direct_with(bob), await ann.group_with(bob)]
    bobs = bob.at(house.other)
    async with bob.ws() as here, bobs.ws() as there:
        for n in range(0, 30, 2):
            await ann.say(chats[0], str(n))
            await bobs.say(chats[1], str(n + 1))
        for socket in (here, there):
            events = await socket.events(30, "message.created")
            assert texts(events) == [str(n) for n in range(30)]


# Cursors that cannot be used.


async def resync_of(person: Person, transport: str, cursor: str, reason: str) -> str:
    """Holds a session with an unusable cursor against the contract; the cursor it goes on from."""
    frames = await start_of(person, transport, cursor, 1)
    if transport != "poll":
        hello = frames.pop(0)
        assert hello["type"] == "hello"
        assert hello["cursor"] != cursor
        (frame,) = frames
    else:
        answer = await person.poll(cursor, wait=30)
        (frame,) = answer["events"]
        assert (answer["cursor"], answer["more"]) == (frame["cursor"], False)
    assert set(frame) == {"type", "reason", "cursor"}
    assert (frame["type"], frame["reason"]) == ("resync", reason), transport
    return str(frame["cursor"])


INVALID = [
    "x",
    "0",
    "nonsense nonsense nonsense",
    "AAAAAAAAAAAAAAAAAAAAAAAAAA",
    "ü" * 26,
    "a" * 5000,
    " ",
    "null",
]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_is_no_cursor_is_told_by_one_resync(house: House, transport: str) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    good = (await bob.poll())["cursor"]
    await ann.say(chat, "before")
    other = "B" if good[12] != "B" else "C"
    for cursor in [*INVALID, good[:-1], good + "A", good[:12] + other + good[13:], good.swapcase()]:
        goes_on = await resync_of(bob, transport, cursor, "cursor_invalid")
        assert texts(await replay(bob, goes_on)) == []
    goes_on = await resync_of(bob, transport, "x", "cursor_invalid")
    await ann.say(chat, "after")
    assert texts(await replay(bob, goes_on)) == ["after"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cursor_of_another_log_or_beyond_the_head_is_told_so(house: House, transport: str) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    now = decode_cursor((await bob.poll())["cursor"])
    for cursor in (
        encode_cursor(now.epoch + 1, now.position),
        encode_cursor(now.epoch, now.position + 1_000_000),
        encode_cursor(now.epoch ^ 1, 0),
    ):
        await resync_of(bob, transport, cursor, "epoch_changed")
    goes_on = await resync_of(bob, transport, encode_cursor(0, 0), "epoch_changed")
    await ann.say(chat, "after")
    assert texts(await replay(bob, goes_on)) == ["after"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_session_goes_on_live_after_its_resync(house: House, transport: str) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    if transport == "ws":
        async with bob.ws("nonsense") as socket:
            resync = await socket.receive()
            await ann.say(chat, "live")
            assert (await socket.receive())["data"]["body"] == "live"
    elif transport == "sse":
        async with bob.sse("nonsense") as stream:
            block = await stream.receive()
            resync = block.json
            assert (block.event, block.id) == ("resync", resync["cursor"])
            await ann.say(chat, "live")
            assert (await stream.receive()).json["data"]["body"] == "live"
    else:
        (resync,) = (await bob.poll("nonsense"))["events"]
        await ann.say(chat, "live")
    frames = await start_of(bob, transport, resync["cursor"], 1)
    assert "resync" not in kinds(frames)
    assert texts(frames) == ["live"]


async def test_a_cursor_past_retention_is_expired_and_one_at_its_edge_is_not(
    house: House, database_url: str
) -> None:
    async with house.instance(database_url=database_url) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        cursors = []
        for n in range(4):
            cursors.append((await bob.poll())["cursor"])
            await ann.say(chat, str(n))
        edge = decode_cursor(cursors[2]).position
        connection = await asyncpg.connect(database_url, timeout=10)
        try:
            await connection.execute("UPDATE log_heads SET floor = $1", edge)
            await connection.execute("DELETE FROM events WHERE position <= $1", edge)
        finally:
            await connection.close()
        async with asyncio.timeout(10):
            while (await bob.poll(cursors[0]))["events"][0]["type"] != "resync":
                pass
        for transport in TRANSPORTS:
            for cursor in cursors[:2]:
                await resync_of(bob, transport, cursor, "cursor_expired")
        goes_on = await resync_of(bob, "poll", cursors[0], "cursor_expired")
        assert texts(await replay(bob, cursors[2])) == ["2", "3"]
        await ann.say(chat, "after")
        assert texts(await replay(bob, goes_on)) == ["after"]


async def test_when_the_log_is_replaced_everyone_is_sent_away_and_told(
    house: House, database_url: str
) -> None:
    async with house.instance(database_url=database_url) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        old = (await bob.poll())["cursor"]
        async with bob.ws() as socket, bob.sse() as stream:
            connection = await asyncpg.connect(database_url, timeout=10)
            try:
                await connection.execute("UPDATE log_heads SET epoch = epoch + 1")
            finally:
                await connection.close()
            assert (await socket.closed()).code == 1012
            assert (await stream.closed())[-1].event == "drain"
        for transport in TRANSPORTS:
            await resync_of(bob, transport, old, "epoch_changed")
        goes_on = await resync_of(bob, "poll", old, "epoch_changed")
        await ann.say(chat, "after")
        assert texts(await replay(bob, goes_on)) == ["after"]


async def test_positions_given_a_second_time_after_a_failover_are_not_skipped(
    house: House, database_url: str
) -> None:
    """The replica that took over lacked the newest events: a cursor beyond them must not look good once the log has
    grown past it again."""
    async with house.instance(database_url=database_url) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        for text in ("kept", "lost", "lost too"):
            await ann.say(chat, text)
        old = (await bob.poll())["cursor"]
        async with bob.ws() as socket:
            connection = await asyncpg.connect(database_url, timeout=10)
            try:
                async with connection.transaction():
                    await connection.execute("SELECT 1 FROM log_heads FOR UPDATE")
                    kept = await connection.fetchval("SELECT min(position) FROM messages")
                    await connection.execute("UPDATE log_heads SET position = $1", kept)
                    await connection.execute("DELETE FROM events WHERE position > $1", kept)
                    await connection.execute("DELETE FROM messages WHERE position > $1", kept)
                    await connection.execute("UPDATE conversations SET last_seq = 1")
                    await connection.execute("UPDATE conversation_members SET read_seq = least(read_seq, 1)")
            finally:
                await connection.close()
            assert (await socket.closed()).code == 1012
        for number in range(5):
            await ann.say(chat, str(number))
        for transport in TRANSPORTS:
            await resync_of(bob, transport, old, "epoch_changed")


# What a session may see of it.


@WHERE
async def test_a_member_sees_each_stay_and_nothing_outside_it(house: House, stored: bool) -> None:
    async with memory(house, stored) as here:
        ann, bob = await here.people()
        group = await ann.group_with()
        start = (await bob.poll())["cursor"]
        members = f"/conversations/{group}/members"

        async def join() -> None:
            await ann.post(members, {"members": [bob.username]}, expect=200)

        async with bob.ws() as socket, bob.sse() as stream, bob.at(house.other).ws() as there:
            await ann.say(group, "before")
            await join()
            await ann.say(group, "first stay")
            await bob.call("DELETE", f"{members}/{bob.id}", expect=204)
            await ann.say(group, "between")
            await join()
            await ann.say(group, "second stay")
            await ann.call("DELETE", f"{members}/{bob.id}", expect=204)
            await ann.say(group, "after")
            barrier = await ann.direct_with(bob)
            await ann.say(barrier, "end")
            live = []
            for follow in (socket, stream, there):
                events: list[Json] = []
                while texts(events[-1:]) != ["end"]:
                    events.append(await follow.event())
                live.append([e for e in events if not e["type"].startswith("receipt.")])
        if stored:
            await pass_by(here)
        expected = [
            ("member.added", "conversation"),
            ("member.added", "user"),
            ("message.created", "conversation"),
            ("member.removed", "conversation"),
            ("member.removed", "user"),
        ]
        for events in (*live, await replay(bob, start), await replay(bob.at(house.other), start)):
            told = [(event["type"], event["topic"]["kind"]) for event in events]
            assert told[:10] == 2 * expected
            assert texts(events) == ["first stay", "second stay", "end"]
            cursors = [event["cursor"] for event in events]
            assert len(set(cursors)) == len(cursors)
            assert {e["data"]["user"]["id"] for e in events if "member" in e["type"]} == {bob.id}


@WHERE
async def test_leaving_ends_a_replay_too(house: House, stored: bool) -> None:
    async with memory(house, stored) as here:
        ann, bob = await here.people()
        group = await ann.group_with(bob)
        start = (await bob.poll())["cursor"]
        await ann.say(group, "one")
        await bob.call("DELETE", f"/conversations/{group}/members/{bob.id}", expect=204)
        await ann.say(group, "behind his back")
        await bob.get(f"/conversations/{group}/messages", expect=404)
        if stored:
            await pass_by(here)
        for transport in TRANSPORTS:
            frames = await start_of(bob, transport, start, 3)
            assert [k for k in kinds(frames) if k != "hello"] == [
                "message.created",
                "member.removed",
                "member.removed",
            ]
            assert texts(frames) == ["one"]


@WHERE
async def test_a_deleted_text_is_in_no_replay_on_any_instance(house: House, stored: bool) -> None:
    async with memory(house, stored) as here:
        ann, bob = await here.people()
        chat = await ann.direct_with(bob)
        start = (await bob.poll())["cursor"]
        path = f"/conversations/{chat}/messages"
        await ann.say(chat, "secret one")
        await ann.call("PATCH", f"{path}/1", json={"body": "secret two"}, expect=200)
        await ann.say(chat, "kept")
        await bob.call("PUT", f"{path}/1/reactions/x", expect=204)
        async with bob.at(house.other).ws() as there:
            await ann.call("DELETE", f"{path}/1", expect=204)
            deleted = await there.event("message.deleted")
            assert set(deleted["data"]) == {"conversation_id", "seq", "deleted_at"}
        if stored:
            await pass_by(here)
        for api in (here.api, house.other):
            person = bob.at(api)
            for transport in TRANSPORTS:
                frames = await start_of(person, transport, start, 5)
                assert "secret" not in str(frames)
                assert "kept" in texts(frames)
            events = await replay(person, start)
            assert "secret" not in str(events)
            assert kinds(events) == [
                "message.created", "message.updated", "message.created", "reaction.added", "message.deleted",
            ]  # fmt: skip
            assert [events[n]["data"]["body"] for n in (0, 1, 2)] == [None, None, "kept"]
            assert events[0]["data"]["attachments"] == events[0]["data"]["reactions"] == []
            assert events[0]["data"]["seq"] == 1, "the event itself stays"


@WHERE
async def test_a_long_replay_is_whole_and_goes_over_into_live(house: House, stored: bool) -> None:
    async with memory(house, stored) as here:
        ann, bob = await here.people()
        chat = await ann.direct_with(bob)
        start = (await bob.poll())["cursor"]
        async with ann.at(house.other).ws(topics="notifications") as sender:
            for n in range(450):
                await sender.tell("message.send", message(chat, str(n)))
            await sender.say(chat, "450")

            async def more() -> None:
                for n in range(451, 600):
                    await sender.say(chat, str(n))

            going_on = asyncio.create_task(more())
            for follow in (bob.ws(start), bob.sse(start)):
                async with follow as session:
                    events = [await session.event("message.created") for _ in range(600)]
                    assert texts(events) == [str(n) for n in range(600)]
            await going_on


def message(chat: str, body: str) -> Json:
    numbers = random.Random()
    return {"conversation_id": chat, "body": body, "client_id": f"{numbers.getrandbits(128):032x}"}


# Delivered.


async def status(person: Person, chat: str, seq: int) -> str:
    return str((await person.get(f"/conversations/{chat}/messages/{seq}"))["status"])


@pytest.mark.parametrize("way", ["ack", "ws", "sse", "last-event-id", "poll"])
async def test_what_is_up_to_a_cursor_that_comes_back_is_delivered(house: House, way: str) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    async with ann.ws() as told, bob.ws() as socket:
        one = await ann.say(chat, "one")
        event = await socket.event("message.created")
        assert await status(ann, chat, 1) == "sent", "being written is not being received"
        two = await ann.say(chat, "two")
        cursor = event["cursor"]
        if way == "ack":
            assert await socket.command("ack", {"cursor": cursor}) == {}
            assert await status(ann, chat, 1) == "delivered", "stored when it is answered"
        elif way == "ws":
            async with bob.at(house.other).ws(cursor):
                pass
        elif way == "sse":
            async with bob.sse(cursor):
                pass
        elif way == "last-event-id":
            async with bob.sse(headers={"Last-Event-ID": cursor}):
                pass
        else:
            await bob.at(house.other).poll(cursor)
        receipt = await told.event("receipt.delivered")
        assert receipt["data"] == {"conversation_id": chat, "user_id": bob.id, "seq": one["seq"]}
        assert await status(ann, chat, one["seq"]) == "delivered"
        assert await status(ann, chat, two["seq"]) == "sent"


async def test_an_ack_of_no_cursor_proves_nothing(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    await ann.say(chat, "one")
    now = decode_cursor((await bob.poll())["cursor"])
    async with bob.ws() as socket:
        for cursor in ("x", encode_cursor(now.epoch + 1, now.position), encode_cursor(now.epoch, 10**9)):
            assert (await socket.failing("ack", {"cursor": cursor}))["status"] == 422
    for cursor in ("x", encode_cursor(now.epoch, 10**9)):
        await bob.poll(cursor)
    assert await status(ann, chat, 1) == "sent"


async def test_receipts_are_told_at_most_once_a_second_each_and_the_last_always(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    for _ in range(30):
        await ann.say(chat)
    async with ann.ws() as socket, bob.ws() as reader:
        for seq in range(1, 31):
            await reader.command("conversation.read", {"conversation_id": chat, "seq": seq})
        told: dict[str, list[tuple[datetime, int]]] = {"receipt.delivered": [], "receipt.read": []}
        while not told["receipt.read"] or told["receipt.read"][-1][1] < 30:
            event = await socket.event()
            if event["type"] in told:
                told[event["type"]].append((datetime.fromisoformat(event["at"]), event["data"]["seq"]))
        assert 2 <= len(told["receipt.read"]) <= 4
        for got in told.values():
            assert [seq for _, seq in got] == sorted({seq for _, seq in got})
            for (before, _), (after, _) in itertools.pairwise(got):
                assert (after - before).total_seconds() >= 0.99
        assert await status(ann, chat, 30) == "read"


async def test_in_groups_over_32_members_no_receipts_are_told(house: House) -> None:
    people = await house.people(33)
    ann, bob = people[:2]
    large, small = await ann.group_with(*people[1:]), await ann.group_with(*people[1:32])
    for group in (large, small):
        await ann.say(group)
    start = (await ann.poll())["cursor"]
    for group in (large, small):
        await asyncio.gather(
            *[p.post(f"/conversations/{group}/read", {"seq": 1}, expect=204) for p in people[1:32]]
        )
        if group == large:
            assert await status(ann, group, 1) == "sent"
            await people[32].post(f"/conversations/{group}/delivered", {"seq": 1}, expect=204)
            assert await status(ann, group, 1) == "delivered"
    assert await status(ann, small, 1) == "read"
    assert (await bob.get(f"/conversations/{large}"))["unread_count"] == 0
    told: set[tuple[str, str]] = set()
    cursor = start
    while len([t for t in told if t[1] == "receipt.read"]) < 31:
        answer = await ann.poll(cursor, wait=5)
        cursor = answer["cursor"]
        for event in answer["events"]:
            assert event["topic"]["id"] == small
            told.add((event["data"]["user_id"], event["type"]))
    assert {user for user, _ in told} == {p.id for p in people[1:32]}
