"""The three ways to read: WebSocket, Server-Sent Events, long poll. Each yields the same frames from the same cursors.

The first frame is `hello`, once the instance has answered. They end by raising one of CUTS, never by themselves.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import Protocol

import aiohttp
import orjson

from demo.commands import Command
from demo.frames import Cut, Frame, Json, checked, frame_of

SILENCE_SECONDS = 60.0  # two heartbeats and some
REPLY_SECONDS = 5.0
POLL_SECONDS = 20


class Transport(StrEnum):
    WS = "ws"
    SSE = "sse"
    POLL = "poll"

    @property
    def next(self) -> Transport:
        order = list(Transport)
        return order[(order.index(self) + 1) % len(order)]


class Wire(Protocol):
    """One connection, or one run of polls."""

    def frames(self, cursor: str) -> AsyncGenerator[Frame, None]:
        """What comes after `cursor`. Close the generator to hang up."""


def wire(transport: Transport, http: aiohttp.ClientSession, url: str, token: str) -> Wire:
    """A connection to be made to the instance at `url`."""
    kinds: dict[Transport, type[Socket | Stream | Polls]] = {
        Transport.WS: Socket,
        Transport.SSE: Stream,
        Transport.POLL: Polls,
    }
    return kinds[transport](http, f"{url}/api/v1/realtime", token)


class Socket:
    """WebSocket: reads, and sends commands whose replies come between the events."""

    def __init__(self, http: aiohttp.ClientSession, base: str, token: str) -> None:
        self._http = http
        self._base = base
        self._headers = {"Authorization": f"Bearer {token}"}
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._ids = itertools.count(1)
        self._replies: dict[str, asyncio.Future[Json]] = {}

    async def frames(self, cursor: str) -> AsyncGenerator[Frame, None]:
        try:
            async with self._http.ws_connect(
                f"{self._base}/ws", params={"cursor": cursor}, headers=self._headers, protocols=["parley.v1"]
            ) as self._ws:
                while True:
                    message = await self._ws.receive(SILENCE_SECONDS)
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        raise Cut(f"closed with {self._ws.close_code}")
                    value = orjson.loads(message.data)
                    if value["type"] == "reply":
                        self._answer(value)
                    else:
                        yield frame_of(value)
        finally:
            self._ws = None
            for waiting in self._replies.values():
                if not waiting.done():
                    waiting.set_exception(Cut("cut before the reply"))

    async def command(self, command: Command) -> Json:
        """Sends it and waits for its reply; the reply's data. Raises one of CUTS, or Refused."""
        if self._ws is None:
            raise Cut("not connected")
        name = f"c{next(self._ids)}"
        waiting = self._replies[name] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                await self._ws.send_str(orjson.dumps(command.frame(name)).decode())
                reply = await waiting
        finally:
            del self._replies[name]
        if not reply["ok"]:
            checked(reply["error"]["status"], reply["error"])
        data: Json = reply["data"]
        return data

    def _answer(self, reply: Json) -> None:
        waiting = self._replies.get(reply["id"])
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)


class Stream:
    """Server-Sent Events."""

    def __init__(self, http: aiohttp.ClientSession, base: str, token: str) -> None:
        self._http = http
        self._url = f"{base}/sse"
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}

    async def frames(self, cursor: str) -> AsyncGenerator[Frame, None]:
        timeout = aiohttp.ClientTimeout(sock_connect=REPLY_SECONDS, sock_read=SILENCE_SECONDS)
        headers = {**self._headers, "Last-Event-ID": cursor}
        async with self._http.get(self._url, headers=headers, timeout=timeout) as response:
            if response.status != 200:
                checked(response.status, await response.json(content_type=None))
            # Each event's data is the whole envelope in one line, so `event:` and `id:` say nothing new.
            while line := await response.content.readline():
                if line.startswith(b"data:"):
                    frame = frame_of(orjson.loads(line[5:]))
                    if frame.type == "drain":
                        raise Cut("sent away")
                    yield frame
        raise Cut("end of stream")


class Polls:
    """Long poll: asks again and again with the cursor of the answer before."""

    def __init__(self, http: aiohttp.ClientSession, base: str, token: str) -> None:
        self._http = http
        self._url = f"{base}/poll"
        self._headers = {"Authorization": f"Bearer {token}"}

    async def frames(self, cursor: str) -> AsyncGenerator[Frame, None]:
        answer = await self._ask(cursor, wait=0)
        yield Frame("hello", cursor, {})
        while True:
            for event in answer["events"]:
                yield frame_of(event)
            cursor = answer["cursor"]
            yield Frame("heartbeat", cursor, {})
            answer = await self._ask(cursor, wait=POLL_SECONDS)

    async def _ask(self, cursor: str, wait: int) -> Json:
        params = {"cursor": cursor, "wait": str(wait), "limit": "100"}
        async with (
            asyncio.timeout(wait + 2 * REPLY_SECONDS),
            self._http.get(self._url, params=params, headers=self._headers) as response,
        ):
            answer: Json = orjson.loads(await response.read())
        checked(response.status, answer)
        return answer
