"""The plainest fan-out there is in Python: one aiohttp process, a set of sockets, a loop that writes to each.

No accounts, no storage, no order beyond TCP's, no second instance: the floor for what Parley's language and
server library cost. POST /pub sends the body to every WebSocket on /sub. Run as `python -m bench.peers.plain PORT`.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import WSMsgType, web


class Broadcaster:
    """Everybody who is connected."""

    def __init__(self) -> None:
        self._subscribers: set[web.WebSocketResponse] = set()

    async def subscribe(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        self._subscribers.add(socket)
        try:
            async for message in socket:
                if message.type is WSMsgType.ERROR:
                    break
        finally:
            self._subscribers.discard(socket)
        return socket

    async def publish(self, request: web.Request) -> web.Response:
        text = await request.text()
        for socket in tuple(self._subscribers):
            await socket.send_str(text)
        return web.Response(status=202)


async def _serve(port: int) -> None:
    broadcaster = Broadcaster()
    app = web.Application()
    app.add_routes([web.get("/sub", broadcaster.subscribe), web.post("/pub", broadcaster.publish)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
