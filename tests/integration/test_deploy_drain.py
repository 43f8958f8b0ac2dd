"""A server that stops listening owes an answer to whoever had connected by then."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop
from aiohttp import web

from server.drain import stop_listening
from tests.support.deployment import LOOPBACK

CLIENTS = 20


def _connected(address: tuple[str, int]) -> socket.socket:
    """A client whose request has reached the server's kernel."""
    client = socket.create_connection(address, timeout=10)
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
    return client


def _answer(client: socket.socket) -> bytes:
    with client:
        received = b""
        while part := client.recv(4096):
            received += part
        return received


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_requests_queued_at_the_socket_are_answered_and_later_ones_refused(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def serve_then_stop() -> list[bytes]:
        app = web.Application()
        app.router.add_post("/", echo)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            listening = socket.create_server((LOOPBACK, 0))
            address = listening.getsockname()
            await web.SockSite(runner, listening).start()
            # Connected without giving the loop a turn, so the server cannot have accepted any of them.
            clients = [_connected(address) for _ in range(CLIENTS)]
            await stop_listening(runner, [listening])
            with pytest.raises(ConnectionRefusedError):
                _connected(address)
            return await asyncio.gather(*(asyncio.to_thread(_answer, client) for client in clients))
        finally:
            await runner.cleanup()

    with asyncio.Runner(loop_factory=new_loop) as loop:
        answers = loop.run(serve_then_stop())
    assert [answer.partition(b" ")[2][:3] for answer in answers] == [b"200"] * CLIENTS
    assert all(answer.endswith(b"\r\n\r\nhi") for answer in answers)
