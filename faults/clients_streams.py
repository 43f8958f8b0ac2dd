"""The ways to receive, each one connection: a WebSocket, an event stream, and (in clients_polls) a row of polls.

A wire gives its owner whole frames only, in the order they came, and ends once, saying why. It never connects again:
that is its owner's business, who has the cursor.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlencode

import orjson

from faults.clients_events import Frame, FrameReader, Json
from faults.clients_http import CONNECT_SECONDS, Cut, Entrance, retry_after
from faults.clients_wire import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Chunks,
    Head,
    SseBlocks,
    WireError,
    WsFrames,
    client_frame,
    close_frame,
    close_payload,
    read_head,
    request_bytes,
    upgrade_bytes,
)
from faults.history import Transport

GREETING_SECONDS = 8.0
"""How long the first frame may take."""
MARGIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class End:
    """Why a connection ended, in a word (`"cut"`, `"silent"`), a close code or a status, and when to come back."""

    why: str
    retry_after: float | None = None

    @property
    def unauthorised(self) -> bool:
        """The credential is no good any more."""
        return self.why in ("401", "4401", "session.revoked")


class Owner(Protocol):
    """Who is told. Nothing is told after the end."""

    def opened(self, wire: Wire) -> None:
        """The first good answer is there."""

    def take(self, wire: Wire, frame: Frame) -> None:
        """One whole frame, or entry of an answer, that is no reply."""

    def reached(self, wire: Wire, cursor: str) -> None:
        """The end of a poll's answer: its cursor."""

    def complain(self, what: str) -> None:
        """The server wrote what no server of this contract writes."""


class Wire(asyncio.Protocol):
    """What the three have in common. `ended` is done once the connection has ended."""

    kind: Transport

    def __init__(
        self, owner: Owner, reader: FrameReader, entrance: Entrance, token: str, cursor: str
    ) -> None:
        self.cursor = cursor
        """The one presented; empty for "from now on"."""
        self.instance = ""
        self.began = time.monotonic()
        self.heard = self.began
        self.is_open = self.was_open = False
        self.is_deaf = False
        self.ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._reader = reader
        self._entrance = entrance
        self.token = token
        self._transport: asyncio.Transport | None = None
        self._patience = GREETING_SECONDS

    async def connect(self, receive_buffer: int | None = None) -> None:
        """Connects and asks. What becomes of it, is told by `ended`. `receive_buffer`: bytes, for SO_RCVBUF."""
        loop = asyncio.get_running_loop()
        place = (self._entrance.host, self._entrance.port)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if receive_buffer is None:
                    await loop.create_connection(lambda: self, *place)
                    return
                sock = socket.socket()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
                sock.setblocking(False)
                await loop.sock_connect(sock, place)
                await loop.create_connection(lambda: self, sock=sock)
        except (OSError, TimeoutError):
            self.end("refused")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.ended.done():
            self._transport.abort()
        else:
            self._transport.write(self.request())

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return
        self.heard = time.monotonic()
        if not self.instance:
            self.instance = self._entrance.instance(self._transport)
        try:
            self.received(data)
        except WireError as error:
            self._owner.complain(f"{self.kind} of {self.instance}: {error}")
            self.end("wrong bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        self.end("cut")

    def request(self) -> bytes:
        """What is written first."""
        raise NotImplementedError

    def received(self, data: bytes) -> None:
        """Raises WireError."""
        raise NotImplementedError

    def greeted(self) -> None:
        self.is_open = self.was_open = True
        self._owner.opened(self)

    def end(self, why: str, retry_after: float | None = None) -> None:
        """Hangs up, the first time it is called."""
        if not self.ended.done():
            self.is_open = False
            self.ended.set_result(End(why, retry_after))
            if self._transport is not None:
                if self._transport.get_write_buffer_size():
                    self._transport.abort()  # nobody takes what waits there
                else:
                    self._transport.close()

    def cut(self) -> None:
        """A reset, as a network that fails gives one to both ends."""
        if self._transport is not None:
            self._transport.abort()

    def check(self, now: float) -> None:
        """Ends a connection on which nothing was heard for too long."""
        if now - self.heard > self._patience and not self.is_deaf:
            self.end("silent")

    def listen_for(self, heartbeat: float) -> None:
        """Two heartbeats without one are the end."""
        self._patience = 2 * heartbeat + MARGIN_SECONDS

    def stop_reading(self) -> None:
        """Takes nothing more from the kernel."""
        if self._transport is not None and not self._transport.is_closing():
            self.is_deaf = True
            with contextlib.suppress(RuntimeError):  # uvloop: it has ended a moment ago
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Goes on where it stopped."""
        self.is_deaf = False
        self.heard = time.monotonic()
        if self._transport is not None and not self._transport.is_closing():
            with contextlib.suppress(RuntimeError):
                self._transport.resume_reading()

    def seem_alive(self) -> None:
        """Tells the server that it is there, without reading anything. Where the transport has a way to say so."""

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def refused(self, head: Head) -> None:
        """An answer that is not what was asked for."""
        self.end(str(head.status), retry_after(head))


class SocketWire(Wire):
    """A WebSocket: events, and commands whose replies come between them. `topics` as in the URL."""

    kind: Transport = "ws"

    def __init__(
        self,
        owner: Owner,
        reader: FrameReader,
        entrance: Entrance,
        token: str,
        cursor: str,
        topics: str = "all",
    ) -> None:
        super().__init__(owner, reader, entrance, token, cursor)
        self._topics = topics
        self._head: Head | None = None
        self._rest = b""
        self._frames = WsFrames()
        self._ids = itertools.count(1)
        self._replies: dict[str, asyncio.Future[Json]] = {}

    def request(self) -> bytes:
        query = {"topics": self._topics} | ({"cursor": self.cursor} if self.cursor else {})
        path = f"/api/v1/realtime/ws?{urlencode(query)}"
        return upgrade_bytes(path, self._entrance.authority, self.headers())

    def received(self, data: bytes) -> None:
        if self._head is None:
            found = read_head(self._rest + data)
            if found is None:
                self._rest += data
                return
            self._head, data = found
            if self._head.status != 101:
                self.refused(self._head)
                return
        for opcode, payload in self._frames.feed(data):
            if opcode == TEXT:
                self._told(self._reader.read(payload))
            elif opcode == PING:
                self.write(client_frame(PONG, payload))
            elif opcode == CLOSE:
                self._closed(*close_payload(payload))
            elif opcode != PONG:
                raise WireError(f"a frame of opcode {opcode}")
            if self.ended.done():
                return

    def seem_alive(self) -> None:
        self.write(client_frame(PONG, b""))  # unasked for, as RFC 6455, 5.5.3 allows

    def _told(self, frame: Frame) -> None:
        if not self.is_open:
            if frame.type != "hello":
                raise WireError(f"{frame.type} before hello")
            self.greeted()
        if frame.type != "reply":
            self._owner.take(self, frame)
            return
        waiting = self._replies.pop(frame.value["id"], None)
        if waiting is not None and not waiting.done():
            waiting.set_result(frame.value)

    def _closed(self, code: int, reason: str) -> None:
        self.write(close_frame(code if code != 1005 else 1000))
        wait = None
        if code == 1012:
            try:
                wait = float(orjson.loads(reason)["reconnect_after_ms"]) / 1000
            except (ValueError, KeyError, TypeError):
                raise WireError(f"closed with 1012 and {reason!r}") from None
        self.end(str(code), wait)

    def end(self, why: str, retry_after: float | None = None) -> None:
        super().end(why, retry_after)
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_exception(Cut(why, self.instance))
        self._replies.clear()

    async def command(self, op: str, data: Json, seconds: float) -> Json:
        """Sends it and waits for the reply, which is the answer. Raises Cut; where time ran out, hangs up too."""
        if not self.is_open:
            raise Cut("not open", self.instance)
        name = f"c{next(self._ids)}"
        waiting = self._replies[name] = asyncio.get_running_loop().create_future()
        self.write(client_frame(TEXT, orjson.dumps({"id": name, "op": op, "data": data})))
        try:
            async with asyncio.timeout(seconds):
                reply: Json = await waiting
                return reply
        except TimeoutError:
            self.end("timeout")
            raise Cut("timeout", self.instance) from None
        finally:
            self._replies.pop(name, None)


class StreamWire(Wire):
    """Server-Sent Events."""

    kind: Transport = "sse"

    def __init__(
        self, owner: Owner, reader: FrameReader, entrance: Entrance, token: str, cursor: str
    ) -> None:
        super().__init__(owner, reader, entrance, token, cursor)
        self._head: Head | None = None
        self._rest = b""
        self._chunks = Chunks()
        self._blocks = SseBlocks()

    def request(self) -> bytes:
        headers = self.headers() | {"Accept": "text/event-stream"}
        if self.cursor:
            headers["Last-Event-ID"] = self.cursor
        return request_bytes("GET", "/api/v1/realtime/sse", self._entrance.authority, headers)

    def received(self, data: bytes) -> None:
        if self._head is None:
            found = read_head(self._rest + data)
            if found is None:
                self._rest += data
                return
            self._head, data = found
            if self._head.status != 200:
                self.refused(self._head)
                return
            if not self._head.chunked:
                raise WireError("a stream that is not chunked")
        for block in self._blocks.feed(self._chunks.feed(data)):
            frame = self._reader.read(block.data)
            if block.event != frame.type:
                raise WireError(f"event: {block.event} of a {frame.type}")
            if block.id != frame.cursor:
                raise WireError(f"id: {block.id} of an event at {frame.cursor}")
            self._told(frame)
            if self.ended.done():
                return
        if self._chunks.finished:
            self.end("end of stream")

    def _told(self, frame: Frame) -> None:
        if not self.is_open:
            if frame.type != "hello":
                raise WireError(f"{frame.type} before hello")
            self.greeted()
        if frame.type == "drain":
            self.end("drain", frame.value["reconnect_after_ms"] / 1000)
        else:
            self._owner.take(self, frame)
