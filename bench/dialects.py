"""How each server is spoken to when one publisher reaches a crowd of receivers.

Every message body is 200 bytes and begins with the publisher's own number, so that the same check (all, once, in
order) holds for every server. Only what has to be found is looked for in the bytes; no JSON is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from bench.checker import WrongError
from bench.frames import client_text, data_payloads

BODY_BYTES = 200
_DIGITS = 12
_FILLER = b"x" * (BODY_BYTES - _DIGITS)
_HTTP_DONE = b"HTTP/1.1 2"
_SEQ = re.compile(rb'"seq": ?(\d+)')


def body(number: int) -> bytes:
    """The 200-byte body of the publisher's message `number`."""
    return b"%012d" % number + _FILLER


def number_of(payload: bytes) -> int:
    """The number in the body that `payload` carries somewhere. Raises ValueError where there is none."""
    end = payload.index(_FILLER)
    return int(payload[end - _DIGITS : end])


def upgrade(path: str, *headers: str) -> bytes:
    """The request that opens a WebSocket."""
    lines = (
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: cGFybGV5LWJlbmNoLWtleQ==",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode()


class Opening(Protocol):
    """What a connection needs to be opened.

    `status` is the HTTP status of the one answer a stream begins with; None where there is no stream, but an
    answer to each request.
    """

    status: bytes | None
    greeting: bytes

    def payloads(self, buffer: bytes | bytearray, end: int) -> tuple[list[bytes], int]:
        """The whole payloads in `buffer[:end]`, and where reading goes on. Raises FrameError or WrongError."""

    def is_ready(self, payloads: Sequence[bytes]) -> bool:
        """Whether a connection that got these payloads since it was opened is ready."""


class Receiving(Opening, Protocol):
    """One way of receiving. Receivers are told apart by their index, from 0; ready ones get every message."""

    def open_request(self, index: int) -> bytes:
        """What the receiver `index` writes first."""

    def event(self, payload: bytes) -> tuple[int, int] | None:
        """(server's seq, publisher's number) of a published message, None for anything else."""

    def follow_up(self, index: int, payload: bytes) -> bytes:
        """What the receiver `index` writes after `payload`, to get what comes next; empty for a stream."""


class Publishing(Opening, Protocol):
    """One way of publishing."""

    def publisher_request(self) -> bytes:
        """What the publisher writes first; empty when it may publish at once."""

    def publish(self, first: int, count: int) -> bytes:
        """What the publisher writes to publish `count` messages numbered from `first`, at once."""

    def take_acknowledged(self, buffer: bytearray) -> int:
        """Count the answers in what the publisher received, and remove what was read from `buffer`.

        Raises WrongError for a refusal.
        """


class _OverWebSocket:
    status: bytes | None = b"101"
    greeting = b""

    def payloads(self, buffer: bytes | bytearray, end: int) -> tuple[list[bytes], int]:
        return data_payloads(buffer, end)

    def follow_up(self, index: int, payload: bytes) -> bytes:
        return b""


class HttpPublished(_OverWebSocket):
    """Nchan, and the plain aiohttp loop, which takes the same addresses: POST /pub, WebSocket /sub."""

    def open_request(self, index: int) -> bytes:
        return upgrade("/sub")

    def is_ready(self, payloads: Sequence[bytes]) -> bool:
        return True

    def event(self, payload: bytes) -> tuple[int, int] | None:
        number = number_of(payload)
        return number, number

    def publisher_request(self) -> bytes:
        return b""

    def publish(self, first: int, count: int) -> bytes:
        head = b"POST /pub HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES
        return b"".join(head + body(number) for number in range(first, first + count))

    def take_acknowledged(self, buffer: bytearray) -> int:
        if b"HTTP/1.1 4" in buffer or b"HTTP/1.1 5" in buffer:
            raise WrongError(f"a publication was refused: {bytes(buffer[:200])!r}")
        taken = buffer.count(_HTTP_DONE)
        if taken:
            del buffer[: buffer.rfind(_HTTP_DONE) + len(_HTTP_DONE)]
        del buffer[: max(0, len(buffer) - len(_HTTP_DONE) + 1)]  # one may be cut in two by the end of a read
        return taken


class SocketIO(_OverWebSocket):
    """python-socketio: Engine.IO 4 on a WebSocket from the start, an event `say` passed on as `said`."""

    greeting = client_text(b"40")

    def open_request(self, index: int) -> bytes:
        return upgrade("/socket.io/?EIO=4&transport=websocket")

    def is_ready(self, payloads: Sequence[bytes]) -> bool:
        return any(payload.startswith(b"40") for payload in payloads)

    def event(self, payload: bytes) -> tuple[int, int] | None:
        if not payload.startswith(b'42["said"'):
            return None
        number = number_of(payload)
        return number, number

    def publisher_request(self) -> bytes:
        return self.open_request(-1)

    def publish(self, first: int, count: int) -> bytes:
        return b"".join(
            client_text(b'42%d["say","%b"]' % (number, body(number)))
            for number in range(first, first + count)
        )

    def take_acknowledged(self, buffer: bytearray) -> int:
        payloads, consumed = data_payloads(buffer, len(buffer))
        del buffer[:consumed]
        return sum(payload.startswith(b"43") for payload in payloads)


class Parley(_OverWebSocket):
    """Parley's WebSocket: one conversation that the publisher and every receiver are members of."""

    def __init__(self, publisher: str, receivers: Sequence[str], conversation: str, run: int) -> None:
        self._publisher = publisher
        self._receivers = receivers
        self._conversation = conversation
        self._run = run

    def open_request(self, index: int) -> bytes:
        return self._open(self._receivers[index])

    def _open(self, token: str) -> bytes:
        return upgrade("/api/v1/realtime/ws", f"Authorization: Bearer {token}")

    def is_ready(self, payloads: Sequence[bytes]) -> bool:
        return any(b'"hello"' in payload for payload in payloads)

    def event(self, payload: bytes) -> tuple[int, int] | None:
        return parley_event(payload)

    def publisher_request(self) -> bytes:
        return self._open(self._publisher)

    def publish(self, first: int, count: int) -> bytes:
        return b"".join(client_text(self._command(number)) for number in range(first, first + count))

    def _command(self, number: int) -> bytes:
        return (
            b'{"id":"%d","op":"message.send","data":{"conversation_id":"%b","client_id":"%b","body":"%b"}}'
        ) % (number, self._conversation.encode(), client_id(self._run, number), body(number))

    def take_acknowledged(self, buffer: bytearray) -> int:
        payloads, consumed = data_payloads(buffer, len(buffer))
        del buffer[:consumed]
        taken = 0
        for payload in payloads:
            if not is_reply(payload):
                continue
            if b'"ok":true' not in payload:
                raise WrongError(f"a send was refused: {payload!r}")
            taken += 1
        return taken


def parley_event(payload: bytes) -> tuple[int, int] | None:
    """(seq, publisher's number) of the first message.created that `payload` holds, None without one."""
    if b'"message.created"' not in payload:
        return None
    found = _SEQ.search(payload)
    if found is None:
        raise WrongError(f"an event without a seq: {payload!r}")
    return int(found[1]), number_of(payload)


def client_id(run: int, number: int) -> bytes:
    """A UUID that ends in `number` in decimal digits, and is new in each `run` (32 random bits)."""
    return b"%08x-0000-4000-8000-%012d" % (run, number)


def is_reply(payload: bytes) -> bool:
    """Whether a frame of Parley answers a command."""
    return b'"type":"reply"' in payload[:40]
