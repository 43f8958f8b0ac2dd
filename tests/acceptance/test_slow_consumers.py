"""Peers that stop reading cost little, hold up nobody, and lose nothing (I8); and senders that are too many."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from contextlib import AsyncExitStack, suppress

import psutil
import pytest

from handlers import sse, websocket
from tests.support.clients import SECONDS, Closed, Json, Person
from tests.support.house import House
from tests.support.raw import PONG, RawSocket, RawWebSocket, raw_sse, raw_ws
from tests.support.relay import database_relay

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
LARGE = 16_000  # bytes of a message of 4,000 code points
QUEUE = 64 * 1024  # a session's, in these tests
FULL = 500  # messages that are more than the kernel takes for a peer, which is up to 4 MiB and a little more
RECEIVE_BUFFER = 8192  # the kernel's, of a peer that is to be full soon


def large(chat: str, number: int) -> Json:
    numbers = random.Random(number)
    body = f"{number:06d}" + "".join(chr(numbers.randrange(0x1F300, 0x1F600)) for _ in range(LARGE // 4 - 6))
    return {"conversation_id": chat, "body": body, "client_id": str(uuid.uuid4())}


def number_of(event: Json) -> int:
    return int(event["data"]["body"][:6])


async def flood(sender: Person, chat: str, numbers: range) -> float:
    """Sends large messages, eight at a time; the longest that one took to be acknowledged."""
    longest = 0.0
    async with sender.ws(topics="notifications") as socket:
        for start in range(numbers.start, numbers.stop, 8):
            began = time.monotonic()
            ids = [
                await socket.tell("message.send", large(chat, n))
                for n in range(start, min(start + 8, numbers.stop))
            ]
            for name in ids:
                assert (await socket.reply(name))["ok"]
            longest = max(longest, time.monotonic() - began)
    return longest


async def stays_alive(raw: RawWebSocket) -> None:
    """Says that it is there, and reads nothing."""
    while True:
        await raw.send(PONG)
        await asyncio.sleep(0.2)


async def test_peers_that_stop_reading_cost_a_bounded_memory_and_hold_up_nobody(house: House) -> None:
    async with house.instance(session_queue_bytes=QUEUE, ring_bytes=MIB) as api:
        ann, bob, *stalled = await house.people(12, at=api)
        chat = await ann.group_with(bob, *stalled)
        count = FULL
        async with AsyncExitStack() as stack:
            for person in stalled:
                for _ in range(2):
                    await stack.enter_async_context(raw_ws(person, receive_buffer=RECEIVE_BUFFER))
                    await stack.enter_async_context(raw_sse(person, receive_buffer=RECEIVE_BUFFER))
            socket = await stack.enter_async_context(bob.ws())
            before = psutil.Process().memory_info().rss
            flooding = asyncio.create_task(flood(ann, chat, range(count)))
            seen = 0
            while seen < count:
                assert number_of(await socket.event("message.created")) == seen
                seen += 1
            await flooding
            grown = psutil.Process().memory_info().rss - before
            owed = count * LARGE * 4 * len(stalled)
            assert owed > 250 * MIB, "what would wait for them"
            assert grown < 60 * MIB, f"{grown / MIB:.0f} MiB"


@pytest.mark.parametrize("transport", ["ws", "sse"])
async def test_a_slow_peer_is_served_late_and_in_full(house: House, transport: str) -> None:
    async with house.instance(session_queue_bytes=QUEUE, ring_events=50) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        count = FULL
        seen: list[Json] = []
        if transport == "ws":
            async with raw_ws(bob, receive_buffer=RECEIVE_BUFFER) as raw:
                assert (await raw.receive())["type"] == "hello"
                await flood(ann, chat, range(count))
                while len(seen) < count:
                    frame = await raw.receive()
                    assert frame["type"] != "resync"
                    if frame["type"] == "message.created":
                        seen.append(frame)
                await ann.say(chat, f"{count:06d} live again")
                assert number_of(await raw.event("message.created")) == count
        else:
            async with raw_sse(bob, receive_buffer=RECEIVE_BUFFER) as (stream, _):
                await flood(ann, chat, range(count))
                while len(seen) < count:
                    seen += [e for e in await chunk_of_events(stream) if e["type"] == "message.created"]
        assert [number_of(event) for event in seen] == list(range(count))
        assert len({event["cursor"] for event in seen}) == count


async def chunk_of_events(stream: RawSocket) -> list[Json]:
    size = int(await stream.until(b"\r\n"), 16)
    text = (await stream.exactly(size + 2))[:-2].decode()
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]


async def test_a_peer_that_takes_nothing_is_closed_and_goes_on_where_it_was(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_SECONDS", 0.2)
    async with house.instance(session_queue_bytes=QUEUE, heartbeat_seconds=0.5, ring_events=50) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        count = FULL
        for alive in (True, False):
            start = (await bob.poll())["cursor"]
            async with raw_ws(bob, receive_buffer=RECEIVE_BUFFER) as raw:
                talking = asyncio.create_task(stays_alive(raw)) if alive else None
                await flood(ann, chat, range(count))
                async with asyncio.timeout(SECONDS):
                    while 'parley_connections{transport="websocket"} 0.0' not in await metrics(bob):
                        pass
                if talking is not None:
                    talking.cancel()
                    await asyncio.wait([talking])
                cursor, seen = start, []
                with suppress(Closed, ConnectionError):
                    while True:
                        frame = await raw.receive()
                        if frame["type"] == "message.created":
                            seen.append(number_of(frame))
                            cursor = frame["cursor"]
            assert len(seen) < count
            async with bob.ws(cursor) as again:
                while len(seen) < count:
                    frame = await again.receive()
                    assert frame["type"] != "resync"
                    if frame["type"] == "message.created":
                        seen.append(number_of(frame))
            assert seen == list(range(count))


async def metrics(person: Person) -> str:
    return (await person.api.call("GET", "//metrics")).text


@pytest.mark.parametrize("transport", ["ws", "sse"])
async def test_a_peer_that_was_closed_and_still_reads_nothing_is_cut_off(
    house: House, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """Not even what was already written for it is kept until it reads."""
    monkeypatch.setattr(websocket, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(sse, "CLOSE_SECONDS", 0.2)
    async with house.instance(session_queue_bytes=QUEUE, heartbeat_seconds=0.5) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        async with AsyncExitStack() as stack:
            if transport == "ws":
                raw: RawSocket = await stack.enter_async_context(raw_ws(bob, receive_buffer=RECEIVE_BUFFER))
            else:
                raw, _ = await stack.enter_async_context(raw_sse(bob, receive_buffer=RECEIVE_BUFFER))
            await flood(ann, chat, range(FULL))
            peer = raw.connection.getsockname()
            async with asyncio.timeout(SECONDS):
                while peer in served():
                    await metrics(ann)


def served() -> set[tuple[str, int]]:
    """The peers of every connection that this process still holds."""
    return {
        (each.raddr[0], each.raddr[1]) for each in psutil.Process().net_connections("tcp") if len(each.raddr)
    }


async def test_who_asks_and_asks_and_reads_no_answer_is_closed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSE_SECONDS", 0.2)
    async with house.instance(session_queue_bytes=QUEUE) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        await ann.say(chat, "x" * 4000)
        edit = {"conversation_id": chat, "seq": 1, "body": "y" * 4000}
        async with raw_ws(ann, receive_buffer=RECEIVE_BUFFER) as raw:
            with suppress(ConnectionError, TimeoutError):  # cut off, or not read any more
                while True:
                    await raw.command("message.edit", edit)
        async with bob.ws() as other:
            assert await other.command("ping") == {}


async def test_typing_is_the_first_to_be_shed(house: House) -> None:
    async with house.instance(session_queue_bytes=QUEUE, ring_events=50) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        async with raw_ws(bob, receive_buffer=RECEIVE_BUFFER) as raw:
            await raw.receive()
            await flood(ann, chat, range(FULL))
            await ann.call("POST", f"/conversations/{chat}/typing", expect=204)
            await ann.say(chat, f"{FULL:06d}")
            types = []
            while True:
                frame = await raw.receive()
                types.append(frame["type"])
                if frame["type"] == "message.created" and number_of(frame) == FULL:
                    break
            assert types.count("message.created") == FULL + 1
            assert "typing.started" not in types


async def test_more_than_the_database_takes_is_refused_at_once(house: House) -> None:
    assert house.settings.database_url is not None
    async with (
        database_relay(house.settings.database_url) as (relay, url),
        house.instance(database_url=url, commit_queue_items=5) as api,
    ):
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        async with ann.ws(topics="notifications") as socket:
            await socket.say(chat, "before")
            relay.freeze()
            began = time.monotonic()
            sends = {}
            for n in range(40):
                client_id = str(uuid.uuid4())
                data = {"conversation_id": chat, "body": str(n), "client_id": client_id}
                sends[await socket.tell("message.send", data)] = client_id
            refused = [await socket.receive() for _ in range(30)]
            posted = await ann.call("POST", f"/conversations/{chat}/messages", json={"body": "x"})
            assert time.monotonic() - began < 1.5
            for reply in refused:
                assert reply["type"] == "reply"
                assert (reply["ok"], reply["error"]["status"], reply["error"]["code"]) == (
                    False,
                    503,
                    "overloaded",
                )
            assert (posted.status, posted.json["code"]) == (503, "overloaded")
            assert int(posted.headers["Retry-After"]) >= 1
            relay.thaw()
            rest = [await socket.reply(name) for name in sends if name not in {r["id"] for r in refused}]
        stored = {sends[reply["id"]] for reply in rest if reply["ok"]}
        page = (await ann.at(house.api).get(f"/conversations/{chat}/messages?limit=100"))["items"]
        assert stored <= {message["client_id"] for message in page}
        assert not {sends[r["id"]] for r in refused} & {message["client_id"] for message in page}
