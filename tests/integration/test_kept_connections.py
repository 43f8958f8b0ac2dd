"""Connections that clients keep, at the end of an instance: who asks in the last moment is answered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from server.protocol import Runner

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="answered")

    app = web.Application()
    app.add_routes([web.get("/", answer)])
    made = Runner(app, shutdown_timeout=0.2)
    await made.setup()
    await web.TCPSite(made, "127.0.0.1", 0).start()
    yield made
    await made.cleanup()


async def kept(runner: Runner) -> socket.socket:
    """A connection on which one request was answered."""
    client = socket.socket()
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, runner.addresses[0])
    await loop.sock_sendall(client, REQUEST)
    assert await read(client, until=b"answered") != b""
    return client


async def read(client: socket.socket, *, until: bytes) -> bytes:
    """What comes up to those bytes, or to the end."""
    got = b""
    async with asyncio.timeout(10):
        while until not in got:
            data = await asyncio.get_running_loop().sock_recv(client, 65536)
            if not data:
                break
            got += data
    return got


async def test_a_request_that_reached_a_kept_connection_in_the_last_moment_is_answered(
    runner: Runner,
) -> None:
    asks, silent = await kept(runner), await kept(runner)
    with asks, silent:
        asks.send(REQUEST)  # it is in the kernel, and the loop has not turned since
        await runner.hang_up()
        await runner.cleanup()
        assert b"answered" in await read(asks, until=b"answered")
        assert await read(silent, until=b"never") == b""


async def test_a_client_that_has_hung_up_itself_holds_nothing_up(runner: Runner) -> None:
    client = await kept(runner)
    client.close()
    await runner.hang_up()
    assert runner.server is not None
    assert all(each.transport is None for each in runner.server.connections)
