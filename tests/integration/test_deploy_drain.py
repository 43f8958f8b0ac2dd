"""A server that stops listening owes an answer to whoever had connected by then."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import sys
from collections.abc import Callable
from typing import Self

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


class _KnockedAtTheLastMoment(socket.socket):
    """Somebody connects when its queue has just been found empty: between the last look and the closing."""

    late: socket.socket

    def dup(self) -> Self:
        copy = super().dup()
        copy.late = self.late
        return copy

    def accept(self) -> tuple[socket.socket, object]:
        try:
            return super().accept()
        except BlockingIOError:
            self.late.connect_ex(self.getsockname())
            raise


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can close the gap")
async def test_who_knocks_at_the_last_moment_is_refused_not_reset() -> None:
    """Refused, nothing was sent and a proxy asks elsewhere; reset, it cannot know."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    with _KnockedAtTheLastMoment() as listening, socket.socket() as late:
        late.setblocking(False)
        listening.late = late
        listening.bind((LOOPBACK, 0))
        listening.listen()
        try:
            await stop_listening(runner, [listening])
            listening.close()  # as the loop does with a socket it listened on
        finally:
            await runner.cleanup()
        _, answered, _ = await asyncio.to_thread(select.select, [], [late], [], 10)
        assert answered == [late]
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
