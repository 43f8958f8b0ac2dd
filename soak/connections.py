"""The three ways to be told, one connection each, for some seconds; and a fourth, of those who do not listen."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.dialects import upgrade
from soak.deeds import Command, do_something
from soak.person import Person

_PAUSE = 0.3  # seconds between two deeds of one person, on average
_OPENING = 15.0
_SILENCE = 30.0  # several heartbeats
_SMALL_BUFFER = 4096
_CLOSES = {1000, 1001, 1012, 4401, 4408, 4429}
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=_OPENING, sock_read=_SILENCE)
_GONE = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, WSError, ConnectionError)


async def _deeds(person: Person, seconds: float, command: Command | None = None) -> None:
    """Does one thing after the other."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0:
        await asyncio.sleep(min(left, person.rng.expovariate(1 / _PAUSE)))
        await do_something(person, command)


async def _both(person: Person, seconds: float, listening: asyncio.Task[None]) -> None:
    """Does things by REST and listens, until the seconds are over or the server ends the stream."""
    doing = asyncio.create_task(_deeds(person, seconds))
    try:
        await asyncio.wait((doing, listening), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (doing, listening):
            task.cancel()
        ended = await asyncio.gather(doing, listening, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


def _place(person: Person) -> dict[str, str]:
    """Mostly the cursor; now and then a fresh start, which may be a little before what was seen on another instance."""
    if person.cursor and person.rng.random() < 0.9:
        return {"cursor": person.cursor}
    person.seen.clear()
    return {}


class _Ears(WSListener):
    """The receiving end of a WebSocket."""

    def __init__(self, person: Person) -> None:
        self.ops: list[str] = []
        self.ended = asyncio.get_running_loop().create_future()
        self._person = person

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            code = int.from_bytes(frame.get_payload_as_bytes()[:2], "big")
            self._person.tally.done[f"closed by the server with {code}"] += 1
            if code not in _CLOSES:
                self._person.tally.went_wrong("close", f"{code} {frame.get_close_message()!r}")
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
        elif frame.msg_type is WSMsgType.TEXT:
            payload = frame.get_payload_as_bytes()
            if self._person.told(payload) == "reply":
                self._count(orjson.loads(payload))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _count(self, reply: Mapping[str, Any]) -> None:
        op = self.ops[int(reply["id"])] if reply.get("id") is not None else "frame"
        status = 200 if reply["ok"] else int(reply["error"]["status"])
        self._person.tally.answered(op, status, str(reply.get("error")))


async def _connect(ears: _Ears, url: str, headers: Mapping[str, str]) -> WSTransport:
    """Opens a WebSocket. Cancelled, it opens all the same and hangs up: picows would leave it open, answering pings."""
    opening = asyncio.ensure_future(
        ws_connect(lambda: ears, url, extra_headers=headers, websocket_handshake_timeout=_OPENING)
    )
    try:
        transport, _ = await asyncio.shield(opening)
    except asyncio.CancelledError:
        with contextlib.suppress(*_GONE, TimeoutError):
            transport, _ = await opening
            transport.disconnect(False)
        raise
    return transport


async def by_websocket(person: Person, seconds: float) -> None:
    """Ends with a close, or by hanging up."""
    url = person.url(f"/realtime/ws?{urlencode(_place(person))}").replace("http", "ws", 1)
    ears = _Ears(person)
    transport = await _connect(ears, url, person.headers)

    async def command(op: str, data: Mapping[str, Any]) -> None:
        if not ears.ended.done():
            ears.ops.append(op)
            frame = {"id": str(len(ears.ops) - 1), "op": op, "data": data}
            transport.send(WSMsgType.TEXT, orjson.dumps(frame))

    doing = asyncio.create_task(_deeds(person, seconds, command))
    try:
        await asyncio.wait((doing, ears.ended), return_when=asyncio.FIRST_COMPLETED)
    finally:
        doing.cancel()
        outcome = (await asyncio.gather(doing, return_exceptions=True))[0]
        if not ears.ended.done():
            if person.rng.random() < 0.5:
                transport.send_close(WSCloseCode.OK)
            transport.disconnect(person.rng.random() < 0.5)
            async with asyncio.timeout(_OPENING):
                await ears.ended
    if isinstance(outcome, Exception):
        raise outcome


async def by_stream(person: Person, seconds: float) -> None:
    """Server-Sent Events; ends by hanging up."""
    headers = {**person.headers, **({"Last-Event-ID": person.cursor} if person.cursor else {})}

    async def listen() -> None:
        async with person.session.get(
            person.url("/realtime/sse"), headers=headers, timeout=_STREAM
        ) as answer:
            if answer.status != 200:
                person.tally.answered("stream", answer.status, await answer.text())
                return
            while line := await answer.content.readline():
                if line.startswith(b"data:"):
                    person.told(line[5:])

    await _both(person, seconds, asyncio.create_task(listen()))


async def by_polls(person: Person, seconds: float) -> None:
    """Long polls, one after the other; the last one is left alone."""

    async def listen() -> None:
        while True:
            wait = person.rng.choice(("0", "3", "5", "5", "10"))
            answer = await person.call(
                "poll", "GET", "/realtime/poll?" + urlencode({**_place(person), "wait": wait, "limit": "200"})
            )
            if answer is None:
                return
            events = answer["events"]
            assert isinstance(events, list)
            for event in events:
                person.told(orjson.dumps(event))
            person.cursor = str(answer["cursor"])

    await _both(person, seconds, asyncio.create_task(listen()))


async def by_not_listening(person: Person, seconds: float) -> None:
    """A WebSocket that asks for all there is to replay, and takes none of it from the kernel; then hangs up.

    It resets the connection: whatever waits for it in the server's own buffers has to go with it.
    """
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_OPENING):
            await loop.sock_connect(sock, ("127.0.0.1", person.rng.choice(person.ports)))
            path = "/api/v1/realtime/ws?" + urlencode({"cursor": person.old or ""})
            await loop.sock_sendall(sock, upgrade(path, f"Authorization: Bearer {person.access}"))
            await loop.sock_recv(sock, 64)
        await asyncio.sleep(seconds)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        person.tally.done["did not listen"] += 1
    finally:
        sock.close()


WAYS = (by_websocket, by_stream, by_polls, by_not_listening)
_WEIGHTS = (5, 2, 2, 0.5)


async def be_there(person: Person, seconds: float) -> None:
    """One connection of any kind. That the server ended it, or was too slow to open it, is no wrong by itself."""
    (way,) = person.rng.choices(WAYS, _WEIGHTS)
    try:
        await way(person, seconds)
        person.tally.done[way.__name__.replace("_", " ")] += 1
    except _GONE as error:
        person.tally.refused[f"{way.__name__.replace('_', ' ')}: {type(error).__name__}"] += 1
    except TimeoutError as error:
        person.tally.went_wrong(way.__name__.replace("_", " "), repr(error))
