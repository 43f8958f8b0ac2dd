"""The fault harness's clients: what is not whole is not recorded, and they go on from the last thing that was.

A client that is wrong here would hide a fault of the server, or make one up.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from faults.clients_events import FrameReader
from faults.clients_http import Cut, Entrance, Rest
from faults.clients_people import Account, SignIn
from faults.clients_receiver import Device, Policy, World
from faults.clients_record import Record
from faults.clients_sender import Sender
from faults.clients_wire import Block, Chunks, HttpAnswers, SseBlocks, WireError, WsFrames
from faults.history import Transport

Script = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Answers one request, given its head; its body has been read."""


def ws(payload: bytes) -> bytes:
    size = len(payload)
    return (bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")) + payload


def sse(value: dict[str, object]) -> bytes:
    data = json.dumps(value).encode()
    block = f"id: {value['cursor']}\nevent: {value['type']}\ndata: ".encode() + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(block), block)


def answer(status: int, value: object, *headers: str) -> bytes:
    body = json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status} Words", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join((*lines, "", "")).encode() + body


def message(n: int) -> dict[str, object]:
    data = {"conversation_id": "c", "seq": n, "client_id": f"id{n}", "body": f"b{n}"}
    topic = {"kind": "conversation", "id": "c"}
    return {"cursor": f"cur{n}", "type": "message.created", "topic": topic, "at": "now", "data": data}


def hello(cursor: str) -> dict[str, object]:
    return {"type": "hello", "cursor": cursor or "cur0", "session_id": "s", "heartbeat_seconds": 30.0}


FRAMES = ws(b"first") + ws(b"x" * 300) + b"\x89\x02hi" + ws(b"")
BLOCKS = b": a comment\r\n\r\nretry: 2000\n\nid: a\nevent: one\ndata: 1\n\nevent: two\ndata: 2\n\n"
ANSWERS = answer(200, {"a": 1}) + b"HTTP/1.1 204 No Content\r\n\r\n" + answer(503, {}, "Retry-After: 2")


def test_a_frame_counts_when_its_last_byte_is_there() -> None:
    ends = [7, 7 + 304, 7 + 304 + 4, len(FRAMES)]
    for cut in range(len(FRAMES) + 1):
        reader = WsFrames()
        assert len(reader.feed(FRAMES[:cut])) == sum(end <= cut for end in ends)
        reader.feed(FRAMES[cut:])
        assert reader.unfinished == 0


def test_a_block_counts_when_its_empty_line_is_there() -> None:
    ends = [BLOCKS.index(end) + len(end) for end in (b"data: 1\n\n", b"data: 2\n\n")]
    for cut in range(len(BLOCKS) + 1):
        reader = SseBlocks()
        before = reader.feed(BLOCKS[:cut])
        assert len(before) == sum(end <= cut for end in ends)
        assert before + reader.feed(BLOCKS[cut:]) == [Block("one", "a", b"1"), Block("two", None, b"2")]


def test_an_answer_counts_when_its_last_byte_is_there() -> None:
    for cut in range(len(ANSWERS)):
        reader = HttpAnswers()
        before = statuses(reader, ANSWERS[:cut])
        assert len(before) < 3
        assert before + statuses(reader, ANSWERS[cut:]) == [200, 204, 503]


def statuses(reader: HttpAnswers, data: bytes) -> list[int]:
    whole, found = [], reader.feed(data)
    while found is not None:
        whole.append(found.head.status)
        found = reader.feed(b"")
    return whole


def test_chunks_are_put_together_wherever_they_are_cut() -> None:
    raw = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    for cut in range(len(raw)):
        reader = Chunks()
        assert reader.feed(raw[:cut]) + reader.feed(raw[cut:]) == b"hello world"
        assert reader.finished


def test_what_the_protocol_does_not_allow_is_told() -> None:
    with pytest.raises(WireError):
        WsFrames().feed(b"\x01\x02hi")  # a fragment
    with pytest.raises(WireError):
        WsFrames().feed(b"\x81\x82....hi")  # masked
    with pytest.raises(WireError):
        SseBlocks().feed(b"id: 1\nnonsense: 2\n\n")
    with pytest.raises(WireError):
        HttpAnswers().feed(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
    with pytest.raises(WireError):
        FrameReader().read(b'{"type":"message.created","cursor":"c"}')


@dataclass(slots=True)
class House:
    """A server of a few lines: each connection is served by the next script."""

    scripts: list[Script]
    asked: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    record: Record = field(default_factory=Record)
    world: World = field(init=False)
    sign_in: SignIn = field(init=False)
    rest: Rest = field(init=False)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(request)
            if size := re.search(r"Content-Length: (\d+)", request):
                self.bodies.append((await reader.readexactly(int(size[1]))).decode())
            await self.scripts.pop(0)(request, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def house(*scripts: Script) -> AsyncIterator[House]:
    made = House(list(scripts))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    entrance = Entrance("127.0.0.1", server.sockets[0].getsockname()[1], lambda port: "one")
    made.world = World(entrance, made.record, FrameReader())
    made.rest = Rest(made.record.complain)
    pair = {"access_token": "t", "refresh_token": "r", "expires_in": 900}
    rng = random.Random(1)
    made.sign_in = SignIn(Account("1", "ada", "secret"), made.rest, entrance, rng, pair, time.monotonic())
    async with server:
        yield made
        made.rest.close()


def presented(request: str) -> str:
    found = re.search(r"cursor=(\w+)", request) or re.search(r"Last-Event-ID: (\w+)", request)
    return found[1] if found else ""


def stream(transport: Transport, *numbers: int, lost: int = 0) -> Script:
    """Greets, tells of these messages without the last `lost` bytes, and hangs up; or waits where nothing is lost."""

    async def script(request: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = [hello(presented(request)), *map(message, numbers)]
        if transport == "ws":
            raw = b"HTTP/1.1 101 Go\r\n\r\n" + b"".join(ws(json.dumps(value).encode()) for value in told)
        elif transport == "sse":
            raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(map(sse, told))
        else:
            events, cursor = [message(n) for n in numbers], f"cur{numbers[-1]}"
            raw = answer(200, {"events": events, "cursor": cursor, "more": False})
        writer.write(raw[: len(raw) - lost])
        await writer.drain()
        if not lost:
            await reader.read()

    return script


# What is lost of the last message, and which messages are there nevertheless: of a poll's answer, all or nothing.
@pytest.mark.parametrize(
    ("transport", "there"), [("ws", ["cur0", "cur1"]), ("sse", ["cur0", "cur1"]), ("poll", [""])]
)
@pytest.mark.parametrize("lost", [5, 60])
async def test_what_was_cut_is_given_again_and_recorded_once(
    transport: Transport, there: Sequence[str], lost: int
) -> None:
    again = [2, 3] if transport != "poll" else [1, 2, 3]
    async with house(stream(transport, 1, 2, lost=lost), stream(transport, *again)) as made:
        device = Device("d", made.sign_in, transport, made.world, random.Random(1), Policy.STAY)
        done = asyncio.Event()
        device.on_event = lambda _, frame: done.set() if frame.cursor == "cur3" else None
        reading = asyncio.create_task(device.run())
        async with asyncio.timeout(10):
            await done.wait()
        reading.cancel()
        await asyncio.wait([reading])
    assert presented(made.asked[1]) == there[-1]
    receipts = made.record.receipts["d"]
    assert [receipt.seq for receipt in receipts] == [1, 2, 3]
    first = 0 if transport == "poll" else 1
    assert [receipt.connection for receipt in receipts] == [0] * first + [first] * (3 - first)
    assert [receipts[at] for at in range(3)] == list(receipts) == receipts[:]
    assert made.record.complaints == []


async def test_a_greeting_with_another_cursor_is_complained_of() -> None:
    async def wrong(request: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Go\r\n\r\n" + ws(json.dumps(hello("cur7")).encode()))
        await reader.read()

    async with house(stream("ws", 1, lost=5), wrong) as made:
        device = Device("d", made.sign_in, "ws", made.world, random.Random(1))
        reading = asyncio.create_task(device.run())
        async with asyncio.timeout(10):
            while not made.record.complaints:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.wait([reading])


def says(raw: bytes) -> Script:
    async def script(request: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return script


async def test_a_send_is_repeated_with_its_id_until_it_is_acknowledged() -> None:
    async def acknowledge(request: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(201, {**json.loads(made.bodies[-1]), "conversation_id": "c", "seq": 7}))

    busy = answer(503, {"code": "unavailable"}, "Retry-After: 0", "Connection: close")
    async with house(says(b""), says(busy), says(b""), acknowledge) as made:
        sender = Sender(made.sign_in, "rest", made.rest, made.world, random.Random(2), lambda rng: "c")
        async with asyncio.timeout(10):
            send = await sender.send("c")
    assert len(made.bodies) == 4
    assert len(set(made.bodies)) == 1
    assert json.loads(made.bodies[0])["client_id"] == send.client_id
    assert (send.seq, [refusal.what for refusal in send.refused]) == (7, ["cut", 503, "cut"])
    assert send.began < send.refused[0].at < send.refused[1].at
    assert made.record.sends == [send]
    assert made.record.complaints == []


async def test_a_send_that_is_refused_for_good_is_not_repeated() -> None:
    async with house(says(answer(404, {"code": "not_found"}))) as made:
        sender = Sender(made.sign_in, "rest", made.rest, made.world, random.Random(2), lambda rng: "c")
        send = await sender.send("c")
    assert (send.acked_at, [refusal.what for refusal in send.refused]) == (None, [404])


async def test_an_answer_cut_short_is_no_answer() -> None:
    async with house(says(answer(200, {"a": 1})[:-1])) as made:
        with pytest.raises(Cut):
            await made.rest.call(made.world.entrance, "POST", "/x", body={})


def pair(name: str, seconds: float = 900) -> dict[str, object]:
    return {"access_token": name, "refresh_token": f"r{name}", "expires_in": seconds}


async def test_a_token_is_refreshed_in_time_and_when_it_was_refused() -> None:
    scripts = says(answer(200, pair("second"))), says(answer(200, pair("third")))
    async with house(*scripts) as made:
        first = made.sign_in.access
        assert await made.sign_in.token() == first
        made.sign_in.due = 0.0
        both = await asyncio.gather(made.sign_in.token(), made.sign_in.token())
        assert set(both) == {"second"}
        assert await made.sign_in.token(but="second") == "third"
    assert [json.loads(body)["refresh_token"] for body in made.bodies] == ["r", "rsecond"]


async def test_a_sign_in_whose_refresh_got_lost_is_made_anew_under_another_name() -> None:
    refused = answer(401, {"code": "refresh_reused"}, "Connection: close")
    async with house(says(refused), says(answer(200, pair("new")))) as made:
        first = made.sign_in.name
        made.sign_in.due = 0.0
        assert await made.sign_in.token() == "new"
        assert made.sign_in.name != first


async def test_a_sign_in_that_was_ended_keeps_its_token_and_asks_for_no_other() -> None:
    async with house() as made:
        made.sign_in.due, made.sign_in.over = 0.0, True
        assert await made.sign_in.token(but="t") == "t"
    assert made.asked == []


async def test_who_stopped_reading_records_nothing_and_stays_away_when_cut_until_they_read_again() -> None:
    told = asyncio.Event()

    async def go_on(request: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = ws(json.dumps(hello(presented(request))).encode())
        writer.write(b"HTTP/1.1 101 Go\r\n\r\n" + greeting)
        await told.wait()
        writer.write(ws(json.dumps(message(1)).encode()))
        await writer.drain()

    async with house(go_on, stream("ws", 2)) as made:
        device = Device("d", made.sign_in, "ws", made.world, random.Random(1))
        reading = asyncio.create_task(device.run())
        async with asyncio.timeout(10):
            await device.ready.wait()
            device.stop_reading()
            told.set()
            device.cut()
            while device.wire is not None:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert (len(made.asked), list(made.record.receipts["d"])) == (1, [])
            device.resume_reading()
            while not made.record.receipts["d"]:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        reading.cancel()
        await asyncio.wait([reading])
    assert [receipt.seq for receipt in made.record.receipts["d"]] == [2]
    assert presented(made.asked[1]) == "cur0"


async def test_a_send_that_is_made_twice_at_once_must_be_acknowledged_as_one() -> None:
    numbers = iter((7, 8))

    async def acknowledge(request: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            answer(201, {**json.loads(made.bodies[-1]), "conversation_id": "c", "seq": next(numbers)})
        )

    async with house(acknowledge, acknowledge) as made:
        sender = Sender(made.sign_in, "rest", made.rest, made.world, random.Random(2), lambda rng: "c")
        sender.twice = True
        async with asyncio.timeout(10):
            await sender.send("c")
    assert len(made.bodies) == 2
    assert len(set(made.bodies)) == 1
    assert len(made.record.complaints) == 1
