"""The proxies of the fault harness: what they cut is cut inside, what they drop is whole, and all else passes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from faults.links import Kind, inside_of
from faults.proxy import Proxy, balancing
from faults.redis_proxy import losing

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answering(name: str, ready: bytes = b"200 OK") -> Serve:
    """Says whether it is ready, and its name to any other request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        writer.write(b"HTTP/1.1 " + ready + b"\r\n\r\n" if b"/readyz" in line else name.encode())
        writer.close()

    return serve


async def ask(port: int, request: bytes = b"GET / HTTP/1.1\r\n") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()


@asynccontextmanager
async def two(one: Serve, other: Serve) -> AsyncIterator[Proxy]:
    async with (
        serving(one) as first,
        serving(other) as second,
        balancing(("one", "two"), random.Random(1)) as proxy,
    ):
        proxy.backends["one"].port, proxy.backends["two"].port = first, second
        yield proxy


async def test_a_connection_goes_where_it_prefers_and_anywhere_else() -> None:
    async with two(answering("one"), answering("two")) as proxy:
        await proxy.until_ready("one")
        await proxy.until_ready("two")
        assert {await ask(proxy.ports["two"]) for _ in range(9)} == {b"two"}
        assert {await ask(proxy.port) for _ in range(40)} == {b"one", b"two"}


async def test_an_instance_that_is_not_ready_gets_no_connection() -> None:
    async with two(answering("one", b"503 Service Unavailable"), answering("two")) as proxy:
        await proxy.until_ready("two")
        assert {await ask(proxy.ports["one"]) for _ in range(9)} == {b"two"}


async def test_where_none_is_ready_they_are_tried_anyway() -> None:
    away = answering("one", b"503 Service Unavailable")
    async with two(away, away) as proxy:
        assert await ask(proxy.port) == b"one"


async def test_a_killed_instance_is_passed_over() -> None:
    async with two(answering("one"), answering("two")) as proxy:
        async with serving(answering("gone")) as gone:
            pass
        proxy.backends["one"].port, proxy.backends["one"].ready = gone, True
        assert await ask(proxy.ports["one"]) == b"two"


async def test_a_cut_inside_gives_the_client_a_part_and_counts_it() -> None:
    said = asyncio.Event()
    block = b"id: 1\nevent: e\ndata: {}\n\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"hello")
        await said.wait()
        writer.write(block)
        await reader.read()
        writer.close()

    async with two(serve, serve) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"GET /api/v1/realtime/sse HTTP/1.1\r\n\r\n")
        assert await reader.readexactly(5) == b"hello"
        port = writer.get_extra_info("sockname")[1]
        link = proxy.link(port)
        assert link is not None
        assert proxy.instance_of(port) in ("one", "two")
        assert proxy.choose([Kind.SSE]) == [link]
        proxy.cut_inside([link])
        said.set()
        part = await reader.read()
        assert 0 < len(part) < len(block)
        assert block.startswith(part)
        assert proxy.cut_short[Kind.SSE] == 1
        writer.close()


async def test_a_stalled_link_passes_nothing_until_it_resumes() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async with two(echo, echo) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"a\n")
        assert await reader.readline() == b"a\n"
        (link,) = proxy.links
        link.stall()
        writer.write(b"b\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.05)
        link.resume()
        assert await reader.readline() == b"b\n"
        writer.close()


FRAMES = (
    b"\x81\x02ab",
    b"\x81\x7e\x00\x80" + b"c" * 128,
    b"\x81\x7f" + (300).to_bytes(8, "big") + b"d" * 300,
)


@given(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=5), st.integers())
def test_a_place_inside_a_frame_is_no_end_of_one(frames: list[bytes], seed: int) -> None:
    at = inside_of(Kind.WEBSOCKET, b"".join(frames), random.Random(seed))
    ends = {sum(map(len, frames[:n])) for n in range(len(frames) + 1)}
    assert 0 < at < sum(map(len, frames))
    assert at not in ends


def test_there_is_no_place_inside_a_single_byte() -> None:
    assert inside_of(Kind.POLL, b"x", random.Random(1)) == 0


MESSAGE = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$9\r\n>3\r\n$7\r\nm\r\n"
OTHERS = (
    b"+OK\r\n",
    b"$-1\r\n",
    b":7\r\n",
    b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
    b"%1\r\n$1\r\nk\r\n$5\r\nmes\r\n\r\n",
    b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    b"_\r\n",
)


async def told(answers: bytes, drop: float, *, piece: int) -> tuple[bytes, int, int]:
    """What comes through from a Redis that says this; and how much was dropped and passed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(answers), piece):
            writer.write(answers[at : at + piece])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    async with serving(serve) as port, losing(port, random.Random(2)) as proxy:
        proxy.drop = drop
        return await ask(proxy.port, b""), proxy.dropped, proxy.passed


@pytest.mark.parametrize("piece", [1, 7, 10_000])
async def test_published_messages_are_dropped_whole_and_nothing_else(piece: int) -> None:
    resp2 = MESSAGE.replace(b">3", b"*3", 1)
    stream = MESSAGE.join(OTHERS) + MESSAGE + resp2
    assert await told(stream, 0.0, piece=piece) == (stream, 0, len(OTHERS) + 1)
    assert await told(stream, 1.0, piece=piece) == (b"".join(OTHERS), len(OTHERS) + 1, 0)


async def test_some_messages_are_dropped_at_random() -> None:
    through, dropped, passed = await told(MESSAGE * 300, 0.1, piece=10_000)
    assert through == MESSAGE * passed
    assert dropped + passed == 300
    assert 10 <= dropped <= 60


def test_what_a_client_says_at_once_arrives_on_uvloop_too() -> None:
    async def many() -> list[bytes]:
        async with two(answering("one"), answering("two")) as proxy:
            await proxy.until_ready("one")
            await proxy.until_ready("two")
            return list(await asyncio.gather(*(ask(proxy.port) for _ in range(20))))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert set(runner.run(asyncio.wait_for(many(), 10))) <= {b"one", b"two"}
