"""Bytes: cursors, envelopes, WebSocket frames, SSE blocks and hints. No I/O, no state."""

from __future__ import annotations

import struct
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import orjson

from domain.ids import TenantId
from domain.log import StoredEvent, Topic, TopicKind, decode_control, encode_control, rfc3339

Wire = Literal["ws", "sse"]

_CURSOR = struct.Struct(">BQQ")
_CHECK = struct.Struct(">H")
_CURSOR_VERSION = 1
CURSOR_CHARS = 26  # 19 bytes in base64 without padding


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the log: everything up to and including ``position`` has been read. Clients see it as opaque text."""

    epoch: int
    position: int


class CursorInvalid(ValueError):
    """The text is not a cursor that any instance ever gave out."""


def encode_cursor(epoch: int, position: int) -> str:
    """26 characters that are safe in a URL, a header and JSON."""
    body = _CURSOR.pack(_CURSOR_VERSION, epoch, position)
    return urlsafe_b64encode(body + _CHECK.pack(zlib.crc32(body) & 0xFFFF))[:CURSOR_CHARS].decode()


def decode_cursor(text: str) -> Cursor:
    """The reverse of :func:`encode_cursor`. Raises :class:`CursorInvalid` for anything else."""
    if len(text) != CURSOR_CHARS or not text.isascii():
        raise CursorInvalid(text)
    try:
        raw = urlsafe_b64decode(text + "==")
    except ValueError as error:
        raise CursorInvalid(text) from error
    if len(raw) != 19 or _CHECK.pack(zlib.crc32(raw[:17]) & 0xFFFF) != raw[17:]:
        raise CursorInvalid(text)
    version, epoch, position = _CURSOR.unpack(raw[:17])
    if version != _CURSOR_VERSION or encode_cursor(epoch, position) != text:
        raise CursorInvalid(text)
    return Cursor(epoch, position)


def encode_envelope(cursor: str | None, type_: str, topic: Topic, at: datetime | str, data: bytes) -> bytes:
    """The one shape in which an event reaches a client, on every transport. ``at`` may be RFC 3339 text already."""
    place = b'"' + cursor.encode() + b'"' if cursor is not None else b"null"
    return b'{"cursor":%b,"type":"%b","topic":{"kind":"%b","id":"%b"},"at":"%b","data":%b}' % (
        place,
        type_.encode(),
        topic.kind.label.encode(),
        topic.id_text.encode(),
        (at if isinstance(at, str) else rfc3339(at)).encode(),
        data,
    )


def ws_frame(payload: bytes) -> bytes:
    """An unmasked, final text frame (RFC 6455, 5.2), as a server sends it."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def ws_payload(frame: bytes) -> bytes:
    """The reverse of :func:`ws_frame`."""
    length = frame[1]
    return frame[2:] if length < 126 else frame[4:] if length == 126 else frame[10:]


def ws_close_frame(code: int, reason: str) -> bytes:
    """A close frame (RFC 6455, 5.5.1). The reason must fit a control frame: 123 bytes."""
    payload = code.to_bytes(2, "big") + reason.encode()
    assert len(payload) <= 125
    return bytes((0x88, len(payload))) + payload


WS_PING = b"\x89\x00"  # a ping frame without payload


def sse_block(payload: bytes, event: str, cursor: str | None) -> bytes:
    """One event of a stream (WHATWG HTML, 9.2). ``payload`` is one line of JSON. Without a cursor, no ``id:``."""
    place = b"id: %b\n" % cursor.encode() if cursor else b""
    return b"%bevent: %b\ndata: %b\n\n" % (place, event.encode(), payload)


def frame(wire: Wire, payload: bytes, event: str, cursor: str | None) -> bytes:
    """``payload`` as the given wire carries it."""
    return ws_frame(payload) if wire == "ws" else sse_block(payload, event, cursor)


def encode_hint(epoch: int, events: Iterable[StoredEvent]) -> bytes:
    """A batch of committed events of the log with that epoch, for other instances. See :func:`decode_hint`."""
    batch = [
        (
            e.position,
            e.tenant,
            int(e.topic.kind),
            e.topic.id,
            e.type,
            e.at,
            e.data.decode(),
            encode_control(e.control),
        )
        for e in events
    ]
    return orjson.dumps((epoch, batch), default=_plain)


def _plain(value: object) -> str:
    """Ids read from PostgreSQL are of a subclass, which orjson does not take for a UUID."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError


def decode_hint(payload: bytes) -> tuple[int, Sequence[StoredEvent]]:
    """The reverse of :func:`encode_hint`: the epoch and a dense batch. Raises ValueError for anything else."""
    try:
        epoch, batch = orjson.loads(payload)
        if type(epoch) is not int:
            raise ValueError("not an epoch")
        events = [
            StoredEvent(
                position,
                TenantId(UUID(tenant)),
                Topic(TopicKind(kind), UUID(topic)),
                type_,
                datetime.fromisoformat(at),
                data.encode(),
                decode_control(control),
            )
            for position, tenant, kind, topic, type_, at, data, control in batch
        ]
        for n, event in enumerate(events):
            if type(event.position) is not int or event.position != events[0].position + n:
                raise ValueError("not dense")
            if not 0 < event.position < 1 << 63:
                raise ValueError("not a position")
            if type(event.type) is not str or event.at.tzinfo is None:
                raise ValueError("not an event")
            about = event.control.about
            if about is not None and type(about) is not int:
                raise ValueError("not a control")
            if any(type(p) is not int for p in event.control.redacts):
                raise ValueError("not a control")
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError("not a hint") from error
    return epoch, events
