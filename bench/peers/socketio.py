"""python-socketio's AsyncServer on aiohttp, as its own documentation sets it up, with nothing stored.

`say` broadcasts to everybody (`said`); `join` puts the caller in a room and `chat` passes a message to the others
in it, both acknowledged. WebSocket from the start, no compression of messages, no logging.
Run as `python -m bench.peers.socketio PORT`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import socketio
import uvloop
from aiohttp import web

_NEVER = 3600  # seconds between pings: none within a run


def _server() -> socketio.AsyncServer:
    server = socketio.AsyncServer(
        async_mode="aiohttp",
        ping_interval=_NEVER,
        transports=["websocket"],
        http_compression=False,
        websocket_compression=False,
    )

    async def say(sid: str, text: str) -> str:
        await server.emit("said", text)
        return "ok"

    async def join(sid: str, room: str) -> str:
        await server.enter_room(sid, room)
        return "ok"

    async def chat(sid: str, message: dict[str, Any]) -> dict[str, Any]:
        await server.emit("chat", message, room=message["room"], skip_sid=sid)
        return {"client_id": message["client_id"]}

    for handler in (say, join, chat):
        server.on(handler.__name__, handler)
    return server


async def _serve(port: int) -> None:
    app = web.Application()
    _server().attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
