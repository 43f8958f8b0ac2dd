"""How long a connection may take to say what it wants, on bare sockets, with short times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from server.protocol import HEADER_SECONDS, KEEPALIVE_SECONDS, Runner
from tests.support.raw import RawSocket

LONG = 3600.0
HEADER = 0.2
WHOLE = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"


class Server:
    """Answers ``/slow`` once ``gate`` is set, and gives back what it is sent at ``/body`` and ``/ws``."""

    def __init__(self) -> None:
        self.url = ""
        self.gate = asyncio.Event()
        self.gate.set()

    async def slow(self, request: web.Request) -> web.Response:
        await self.gate.wait()
        return web.Response(text="done")

    async def body(self, request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def ws(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(message.data)
        return ws

    async def header_time_passes(self) -> None:
        """Returns when a connection that began now has been closed for its headers."""
        silent = await RawSocket.to(self.url)
        assert await silent.to_the_end() == b""
        silent.close()


@asynccontextmanager
async def serving(*, header: float = HEADER, keepalive: float = LONG) -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.add_routes([web.get("/slow", server.slow), web.post("/body", server.body), web.get("/ws", server.ws)])
    runner = Runner(app, shutdown_timeout=0.2, header_seconds=header, keepalive_timeout=keepalive)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


async def answered(raw: RawSocket) -> None:
    assert (await raw.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert await raw.exactly(4) == b"done"


@pytest.mark.parametrize("sent", [b"", b"GET", WHOLE[:-2], b"\r\n"])
async def test_a_connection_without_a_whole_request_is_closed(sent: bytes) -> None:
    async with serving() as server:
        raw = await RawSocket.to(server.url)
        await raw.write(sent)
        assert await raw.to_the_end() == b""
        raw.close()


async def test_headers_that_come_byte_by_byte_have_no_more_time() -> None:
    async with serving() as server:
        raw = await RawSocket.to(server.url)
        await raw.write(b"GET /slow HTTP/1.1\r\nX: ")
        ended = asyncio.create_task(raw.to_the_end())
        async with asyncio.timeout(10):
            while not ended.done():
                try:
                    await raw.write(b"x")
                except ConnectionError:
                    break
                await asyncio.wait([ended], timeout=HEADER / 20)
            assert await ended == b""
        raw.close()


async def test_a_later_request_on_a_connection_has_the_same_time_for_its_headers() -> None:
    async with serving() as server:
        raw = await RawSocket.to(server.url)
        await raw.write(WHOLE)
        await answered(raw)
        await server.header_time_passes()  # being idle is not being slow
        await raw.write(WHOLE)
        await answered(raw)
        await raw.write(WHOLE[:-1])
        assert await raw.to_the_end() == b""
        raw.close()


async def test_an_idle_connection_is_closed_when_its_time_is_up() -> None:
    async with serving(header=LONG, keepalive=0.2) as server:
        raw = await RawSocket.to(server.url)
        await raw.write(WHOLE)
        await answered(raw)
        assert await raw.to_the_end() == b""
        raw.close()


async def test_answers_that_take_long_are_left_alone() -> None:
    async with serving() as server:
        server.gate.clear()
        raw = await RawSocket.to(server.url)
        await raw.write(WHOLE + WHOLE[:5])  # the next one has begun already
        await server.header_time_passes()
        await raw.write(WHOLE[5:])
        await server.header_time_passes()
        server.gate.set()
        await answered(raw)
        await answered(raw)
        raw.close()


async def test_bodies_and_websockets_that_take_long_are_left_alone() -> None:
    async with serving(keepalive=0.2) as server, aiohttp.ClientSession() as http:
        raw = await RawSocket.to(server.url)
        await raw.write(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nfir")
        async with http.ws_connect(f"{server.url}/ws") as ws:
            for _ in range(2):
                await server.header_time_passes()
                await ws.send_str("still here")
                assert await ws.receive_str(timeout=5) == "still here"
        await raw.write(b"st.")
        assert (await raw.to_the_end()).endswith(b"first.")
        raw.close()


def test_the_times_leave_proxies_room() -> None:
    assert HEADER_SECONDS == 10
    assert KEEPALIVE_SECONDS > 60
