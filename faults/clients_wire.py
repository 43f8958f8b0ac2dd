"""The bytes of the three transports, taken apart as they arrive: whole WebSocket frames, SSE blocks and HTTP answers.

No I/O. Each reader is fed what came and gives what is whole; the rest waits for more. What a cut leaves behind is never
given, so a client that acts only on what these readers give never acts on half of anything.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_HEAD = 32 * 1024  # bytes of an answer's status line and headers

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class WireError(Exception):
    """The server wrote what the protocol does not allow. A cut is none: it only leaves something unfinished."""


class WsFrames:
    """Frames as a server writes them: unmasked, and whole messages (RFC 6455, 5.2)."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The (opcode, payload) of every frame that is whole now. Raises WireError."""
        buffer = self._rest + data if self._rest else data
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(buffer)
        while end - at >= 2:
            first, size = buffer[at], buffer[at + 1]
            start = at + 2
            if size > 125:
                if size > 127:
                    raise WireError("a masked frame from the server")
                start += 2 if size == 126 else 8
                if start > end:
                    break
                size = int.from_bytes(buffer[at + 2 : start], "big")
            if start + size > end:
                break
            if not first & 0x80 or first & 0x70:
                raise WireError(f"a fragment, or a frame with reserved bits: {first:#x}")
            at = start + size
            frames.append((first & 0x0F, buffer[start:at]))
        self._rest = buffer[at:]
        return frames

    @property
    def unfinished(self) -> int:
        """Bytes of a frame that has not come whole."""
        return len(self._rest)


def client_frame(opcode: int, payload: bytes) -> bytes:
    """A masked, final frame, as a client must send it. A mask of zeros is one too, and leaves the payload as it is."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


@dataclass(frozen=True, slots=True)
class Block:
    """One event of a stream (WHATWG HTML, 9.2): dispatched, so its `id` is the place to go on from."""

    event: str
    id: str | None
    data: bytes


class SseBlocks:
    """Blocks of an event stream whose lines end with LF or CR LF. A block counts once its empty line has come."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Block]:
        """The blocks that are whole now, without comments and what has no data. Raises WireError."""
        buffer = self._rest + data if self._rest else data
        if b"\r" in buffer:  # of comments; JSON holds none
            buffer = buffer.replace(b"\r\n", b"\n")
        *whole, self._rest = buffer.split(b"\n\n")
        return [block for text in whole if (block := _block(text)) is not None]

    @property
    def unfinished(self) -> int:
        """Bytes of a block whose empty line has not come."""
        return len(self._rest)


def _block(text: bytes) -> Block | None:
    event, place, data = "message", None, None
    for line in text.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            if data is not None:
                raise WireError(f"an event of two lines: {text[:200]!r}")
            data = value
        elif name == b"id":
            place = value.decode()
        elif name == b"event":
            event = value.decode()
        elif name not in (b"", b"retry"):
            raise WireError(f"a line that means nothing: {line[:80]!r}")
    return None if data is None else Block(event, place, data)


class Chunks:
    """The body of a chunked answer (RFC 9112, 7.1), without trailers."""

    __slots__ = ("_left", "_rest", "finished")

    def __init__(self) -> None:
        self._rest = b""
        self._left = -1  # of the chunk that is being read; -1: its size has not come, 0: its end has not
        self.finished = False

    def feed(self, data: bytes) -> bytes:
        """What the body goes on with. Raises WireError."""
        buffer = self._rest + data if self._rest else data
        pieces: list[bytes] = []
        while buffer and not self.finished:
            if self._left > 0:
                pieces.append(buffer[: self._left])
                self._left -= len(pieces[-1])
                buffer = buffer[len(pieces[-1]) :]
                continue
            if self._left == 0:
                if len(buffer) < 2:
                    break
                if not buffer.startswith(b"\r\n"):
                    raise WireError(f"a chunk without its end: {buffer[:20]!r}")
                buffer, self._left = buffer[2:], -1
                continue
            line, found, rest = buffer.partition(b"\r\n")
            if not found:
                break
            try:
                self._left = int(line.partition(b";")[0], 16)
            except ValueError:
                raise WireError(f"not the size of a chunk: {line[:20]!r}") from None
            if self._left == 0:
                if len(rest) < 2:
                    self._left = -1
                    break  # the empty line behind the last chunk has not come
                rest, self.finished = rest[2:], True
            buffer = rest
        self._rest = buffer
        return b"".join(pieces)

    @property
    def rest(self) -> bytes:
        """What came behind the end of the body."""
        return self._rest


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of an answer; names in lower case, one value each."""

    status: int
    headers: dict[str, str]

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"

    @property
    def length(self) -> int:
        """Bytes of a body that is not chunked. Raises WireError where nothing says where it ends."""
        if self.status in (101, 204, 304):
            return 0
        try:
            return int(self.headers["content-length"])
        except (KeyError, ValueError):
            raise WireError(f"an answer {self.status} whose end cannot be told from a cut") from None


def read_head(buffer: bytes) -> tuple[Head, bytes] | None:
    """The head of an answer and what follows it; None until it is whole. Raises WireError."""
    text, found, rest = buffer.partition(b"\r\n\r\n")
    if not found:
        if len(buffer) > MOST_HEAD:
            raise WireError("headers without an end")
        return None
    status, *lines = text.decode("latin-1").split("\r\n")
    parts = status.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.1") or not parts[1].isdigit():
        raise WireError(f"not an answer: {status[:80]!r}")
    pairs = (line.partition(":") for line in lines)
    return Head(int(parts[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}), rest


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """A whole answer."""

    head: Head
    body: bytes


class HttpAnswers:
    """Answers on one connection, one after another."""

    __slots__ = ("_body", "_chunks", "_head", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._head: Head | None = None
        self._chunks: Chunks | None = None
        self._body = b""

    def feed(self, data: bytes) -> RawAnswer | None:
        """The answer, once it is whole. Ask with `b""` for one more. Raises WireError."""
        self._rest = self._rest + data if self._rest else data
        if self._head is None:
            found = read_head(self._rest)
            if found is None:
                return None
            self._head, self._rest = found
            self._chunks = Chunks() if self._head.chunked else None
            self._body = b""
        return self._whole(self._head)

    def _whole(self, head: Head) -> RawAnswer | None:
        if self._chunks is not None:
            self._body += self._chunks.feed(self._rest)
            self._rest = b""
            if not self._chunks.finished:
                return None
            self._rest = self._chunks.rest
        else:
            length = head.length
            if len(self._rest) < length:
                return None
            self._body, self._rest = self._rest[:length], self._rest[length:]
        self._head = None
        return RawAnswer(head, self._body)


def request_bytes(
    method: str, path: str, host: str, headers: dict[str, str], body: bytes | None = None
) -> bytes:
    """A request with keep-alive."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join((*lines, "", "")).encode() + (body or b"")


def upgrade_bytes(path: str, host: str, headers: dict[str, str]) -> bytes:
    """The request that opens a WebSocket. Nobody between here and the server caches, so any key will do."""
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "cGFybGV5LWZhdWx0LWtleQ==",
        "Sec-WebSocket-Protocol": "parley.v1",
    }
    return request_bytes("GET", path, host, upgrade | headers)


def close_payload(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame; 1005 where it has none (RFC 6455, 7.1.5)."""
    if len(payload) < 2:
        return 1005, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode(errors="replace")


def close_frame(code: int) -> bytes:
    """The client's own goodbye."""
    return client_frame(CLOSE, code.to_bytes(2, "big"))
