"""Clients on a bare socket: they send what no library would, and read only when told to."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.clients import SECONDS, Closed, Person

Json = dict[str, Any]

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class RawSocket:
    """A connection that takes bytes from the kernel only while a read is awaited."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = b""

    @classmethod
    async def to(cls, url: str, *, receive_buffer: int | None = None) -> Self:
        address = urlsplit(url)
        connection = socket.socket()
        if receive_buffer is not None:  # before connecting: it bounds the window that is offered
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
        except OSError:
            connection.close()
            raise
        return cls(connection)

    async def write(self, data: bytes) -> None:
        async with asyncio.timeout(SECONDS):
            await asyncio.get_running_loop().sock_sendall(self.connection, data)

    async def _more(self) -> None:
        async with asyncio.timeout(SECONDS):
            data = await asyncio.get_running_loop().sock_recv(self.connection, 65536)
        if not data:
            raise Closed(None, "end of stream")
        self._buffer += data

    async def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    async def until(self, end: bytes) -> bytes:
        """Up to and including ``end``."""
        while (at := self._buffer.find(end)) < 0:
            await self._more()
        return await self.exactly(at + len(end))

    async def to_the_end(self) -> bytes:
        """Everything until the server closes."""
        while True:
            try:
                await self._more()
            except (Closed, ConnectionError):
                data, self._buffer = self._buffer, b""
                return data

    async def get(self, path: str, headers: Mapping[str, str], version: str = "1.1") -> tuple[int, str]:
        """Sends a GET; the status and the head of the answer. The body is left to be read."""
        await self.ask(path, headers, version)
        return await self.answer()

    async def ask(self, path: str, headers: Mapping[str, str], version: str = "1.1") -> None:
        """Sends a GET."""
        lines = [f"GET {path} HTTP/{version}", *(f"{name}: {value}" for name, value in headers.items())]
        await self.write("\r\n".join([*lines, "", ""]).encode())

    async def answer(self) -> tuple[int, str]:
        """The status and the head of the next answer."""
        head = (await self.until(b"\r\n\r\n")).decode()
        return int(head.split(" ", 2)[1]), head

    def close(self) -> None:
        self.connection.close()


class RawWebSocket(RawSocket):
    """A WebSocket that answers nothing by itself, not even a ping (RFC 6455)."""

    async def send(self, opcode: int, payload: bytes = b"", *, final: bool = True) -> None:
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", opcode | final << 7, 0x80 | size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", opcode | final << 7, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", opcode | final << 7, 0x80 | 127, size)
        mask = os.urandom(4)
        repeated = mask * (size // 4 + 1)
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated[:size], "big")).to_bytes(
            size, "big"
        )
        await self.write(head + mask + masked)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        first, second = await self.exactly(2)
        assert first & 0xF0 == 0x80, "final, and without extensions"
        assert not second & 0x80, "a server does not mask"
        size = second
        if second == 126:
            size = int.from_bytes(await self.exactly(2), "big")
        elif second == 127:
            size = int.from_bytes(await self.exactly(8), "big")
        return first & 0x0F, await self.exactly(size)

    async def receive(self) -> Json:
        """The next text frame; pings and pongs are passed over. Raises Closed."""
        while True:
            opcode, payload = await self.frame()
            if opcode == TEXT:
                value: Json = json.loads(payload)
                return value
            if opcode == CLOSE:
                await self.send(CLOSE, payload)
                raise Closed(int.from_bytes(payload[:2], "big"), payload[2:].decode())

    async def event(self, type_: str) -> Json:
        """The next event of that type; others are passed over."""
        while True:
            frame = await self.receive()
            if frame["type"] == type_:
                return frame

    async def closed(self) -> Closed:
        """Waits for the server to close; passes over what comes before."""
        while True:
            try:
                await self.receive()
            except Closed as closing:
                return closing

    async def command(self, op: str, data: Json | None = None, id: str = "raw") -> None:
        """Sends a command without waiting for its reply."""
        await self.send(TEXT, json.dumps({"id": id, "op": op, "data": data or {}}).encode())


def upgrade_headers(person: Person, **more: str) -> dict[str, str]:
    """What asks for a WebSocket."""
    return {
        "Host": urlsplit(person.api.url).netloc,
        "Authorization": f"Bearer {person.token}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        **more,
    }


@asynccontextmanager
async def raw_ws(
    person: Person, query: str = "", *, receive_buffer: int | None = None
) -> AsyncIterator[RawWebSocket]:
    """An upgraded connection of which nothing has been read but the answer's head."""
    raw = await RawWebSocket.to(person.api.url, receive_buffer=receive_buffer)
    try:
        status, head = await raw.get(f"/api/v1/realtime/ws{query}", upgrade_headers(person))
        assert status == 101, head
        yield raw
    finally:
        raw.close()


@asynccontextmanager
async def raw_sse(
    person: Person, query: str = "", *, version: str = "1.1", receive_buffer: int | None = None
) -> AsyncIterator[tuple[RawSocket, str]]:
    """A stream of which nothing has been read but the answer's head, and that head."""
    raw = await RawSocket.to(person.api.url, receive_buffer=receive_buffer)
    headers = {"Host": urlsplit(person.api.url).netloc, "Authorization": f"Bearer {person.token}"}
    try:
        status, head = await raw.get(f"/api/v1/realtime/sse{query}", headers, version)
        assert status == 200, head
        yield raw, head
    finally:
        raw.close()
