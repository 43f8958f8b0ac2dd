"""Receiving from Parley without a WebSocket: Server-Sent Events and long polling (S8)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.checker import WrongError
from bench.dialects import parley_event

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CURSOR = re.compile(rb'"cursor": ?"([^"]+)", ?"more"')


def _get(path: str, token: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


class ServerSentEvents:
    """One endless answer. Chunk headers are passed over: a block is never cut by one."""

    status: bytes | None = b"200"
    greeting = b""

    def __init__(self, receivers: Sequence[str]) -> None:
        self._receivers = receivers

    def open_request(self, index: int) -> bytes:
        return _get("/api/v1/realtime/sse", self._receivers[index])

    def payloads(self, buffer: bytes | bytearray, end: int) -> tuple[list[bytes], int]:
        stop = buffer.rfind(b"\n\n", 0, end) + 2
        if stop < 2:
            return [], 0
        lines = bytes(buffer[:stop]).split(b"\n")
        if buffer[stop : min(stop + 2, end)] == b"\r\n":  # the end of the chunk
            stop += 2
        return [line for line in lines if line.startswith(b"data:")], stop

    def is_ready(self, payloads: Sequence[bytes]) -> bool:
        return any(b'"hello"' in payload for payload in payloads)

    def event(self, payload: bytes) -> tuple[int, int] | None:
        return parley_event(payload)

    def follow_up(self, index: int, payload: bytes) -> bytes:
        return b""


class LongPolling:
    """A request for each event, on a connection that is kept; the next asks with the cursor of the last answer."""

    status: bytes | None = None
    greeting = b""

    def __init__(self, receivers: Sequence[str], wait_seconds: int = 55) -> None:
        self._receivers = receivers
        self._wait = wait_seconds

    def open_request(self, index: int) -> bytes:
        return _get("/api/v1/realtime/poll", self._receivers[index])

    def payloads(self, buffer: bytes | bytearray, end: int) -> tuple[list[bytes], int]:
        bodies: list[bytes] = []
        consumed = 0
        while (head_end := buffer.find(b"\r\n\r\n", consumed, end)) >= 0:
            head = bytes(buffer[consumed:head_end])
            length = _LENGTH.search(head)
            start = head_end + 4
            if not head.startswith(b"HTTP/1.1 200") or length is None:
                raise WrongError(f"a poll was answered: {head[:15]!r} {bytes(buffer[start:end])!r}")
            stop = start + int(length[1])
            if stop > end:
                break
            bodies.append(bytes(buffer[start:stop]))
            consumed = stop
        return bodies, consumed

    def is_ready(self, payloads: Sequence[bytes]) -> bool:
        return bool(payloads)

    def event(self, payload: bytes) -> tuple[int, int] | None:
        if payload.count(b'"message.created"') > 1:
            raise WrongError("one poll brought several events where one had been sent")
        return parley_event(payload)

    def follow_up(self, index: int, payload: bytes) -> bytes:
        cursor = _CURSOR.search(payload)
        if cursor is None:
            raise WrongError(f"a poll's answer without a cursor: {payload!r}")
        return _get(
            f"/api/v1/realtime/poll?wait={self._wait}&cursor={cursor[1].decode()}", self._receivers[index]
        )
