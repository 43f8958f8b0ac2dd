"""Readers of what the server writes, made from the standards alone: nothing here is shared with the code under test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame or block as a client understands it: its JSON, and what only a stream has beside it."""

    data: dict[str, Any]
    event: str | None = None
    id: str | None = None

    @property
    def type(self) -> str:
        return str(self.data["type"])


def parse_ws(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The opcodes and payloads of unmasked, unfragmented frames (RFC 6455, section 5.2). Raises on anything else."""
    at = 0
    while at < len(data):
        head, size = data[at], data[at + 1]
        assert head & 0x80, "a final frame"
        assert not head & 0x70, "no extension was agreed on"
        assert not size & 0x80, "a server does not mask"
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + width], "big")
            assert size >= (126 if width == 2 else 1 << 16), "the shortest form of a length"
            at += width
        assert at + size <= len(data), "a whole frame"
        yield head & 0x0F, data[at : at + size]
        at += size


def parse_sse(text: str) -> Iterator[tuple[str, str, str | None]]:
    """``(event, data, id)`` of each dispatched event (WHATWG HTML, section 9.2.6); None where it sets no id."""
    event = ""
    place: str | None = None
    data: list[str] = []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line:
            if data:
                yield event or "message", "\n".join(data), place
            event, data, place = "", [], None
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            place = value


def read_frames(wire: str, data: bytes) -> list[Frame]:
    """Everything with JSON in it; pings and comments are left out."""
    if wire == "ws":
        return [Frame(json.loads(payload)) for opcode, payload in parse_ws(data) if opcode == 1]
    return [Frame(json.loads(text), event, place) for event, text, place in parse_sse(data.decode())]
