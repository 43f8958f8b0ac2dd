"""A WebSocket that is read all the time, as a client has to, so that the server's pings are answered."""

from __future__ import annotations

import asyncio

from tests.support.clients import SECONDS, Closed, Json, Socket


class Reading:
    """Keeps what arrives, in order, until it is asked for."""

    def __init__(self, socket: Socket, tasks: asyncio.TaskGroup) -> None:
        self.frames: asyncio.Queue[Json] = asyncio.Queue()
        self.code: int | None = None
        """What the server closed it with."""
        self._task = tasks.create_task(self._read(socket))

    async def _read(self, socket: Socket) -> None:
        try:
            while True:
                self.frames.put_nowait(await socket.receive(60))
        except Closed as closing:
            self.code = closing.code

    async def receive(self) -> Json:
        """The next frame."""
        async with asyncio.timeout(SECONDS):
            return await self.frames.get()

    async def event(self, type_: str) -> Json:
        """The next frame of that type; others are passed over."""
        while (frame := await self.receive())["type"] != type_:
            pass
        return frame

    def clear(self) -> list[Json]:
        """Takes everything that has arrived so far."""
        return [self.frames.get_nowait() for _ in range(self.frames.qsize())]

    async def rest(self) -> list[Json]:
        """What comes until the server closes."""
        async with asyncio.timeout(SECONDS):
            await self._task
        return self.clear()

    def stop(self) -> None:
        self._task.cancel()
