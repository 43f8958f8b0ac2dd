"""The exact bytes: what instances of different versions, and clients in the field, must go on agreeing about."""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode
from datetime import datetime, timedelta, timezone
from uuid import UUID

import pytest

from domain.log import Topic, TopicKind
from realtime.codec import (
    WS_PING,
    Cursor,
    CursorInvalid,
    decode_cursor,
    encode_cursor,
    encode_envelope,
    frame,
    sse_block,
    ws_frame,
    ws_payload,
)
from tests.support.wire import parse_sse, parse_ws

TOPIC = Topic(TopicKind.CONVERSATION, UUID("01890a5d-ac96-774b-bcce-b302099a8057"))


def test_the_first_version_of_a_cursor_is_fixed() -> None:
    assert encode_cursor(7, 42) == "AQAAAAAAAAAHAAAAAAAAACqe4Q"
    assert decode_cursor("AQAAAAAAAAAHAAAAAAAAACqe4Q") == Cursor(7, 42)


def test_a_cursor_of_another_version_is_invalid_and_not_misread() -> None:
    body = bytes([2]) + bytes(16)
    text = urlsafe_b64encode(body + (zlib.crc32(body) & 0xFFFF).to_bytes(2, "big")).rstrip(b"=").decode()
    assert len(text) == 26
    with pytest.raises(CursorInvalid):
        decode_cursor(text)


def test_the_envelope_is_one_line_in_the_order_of_the_contract() -> None:
    at = datetime(2026, 5, 4, 3, 2, 1, 234, tzinfo=timezone(timedelta(hours=2)))
    assert encode_envelope("C", "message.created", TOPIC, at, b'{"seq":1}') == (
        b'{"cursor":"C","type":"message.created","topic":{"kind":"conversation",'
        b'"id":"01890a5d-ac96-774b-bcce-b302099a8057"},"at":"2026-05-04T01:02:01.000234Z","data":{"seq":1}}'
    )
    assert encode_envelope(None, "x", TOPIC, at, b"{}").startswith(b'{"cursor":null,"type":"x"')


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_frame_has_the_shortest_header_that_holds_its_length(size: int, header: bytes) -> None:
    assert ws_frame(b"x" * size) == header + b"x" * size
    assert ws_payload(ws_frame(b"x" * size)) == b"x" * size


def test_a_ping_is_a_frame_of_its_own() -> None:
    assert list(parse_ws(ws_frame(b"{}") + WS_PING + ws_frame(b"[]"))) == [(1, b"{}"), (9, b""), (1, b"[]")]


def test_a_block_has_an_id_only_where_it_has_a_place() -> None:
    assert sse_block(b"{}", "hello", "C") == b"id: C\nevent: hello\ndata: {}\n\n"
    assert sse_block(b"{}", "typing.started", None) == b"event: typing.started\ndata: {}\n\n"
    stream = (frame("sse", b"{}", "a", "1") + frame("sse", b"{}", "b", None)).decode()
    assert list(parse_sse(stream)) == [("a", "{}", "1"), ("b", "{}", None)]


def test_the_parsers_of_these_tests_refuse_what_they_should() -> None:
    """Else they would prove nothing."""
    for wrong in (b"\x01\x00", b"\x81\x80", b"\xc1\x00", b"\x81\x02x", b"\x81\x7e\x00\x05xxxxx"):
        with pytest.raises((AssertionError, IndexError)):
            list(parse_ws(wrong))
    assert list(parse_sse("data: a\ndata: b\n\n: comment\n\nevent: x\n\ndata:c\r\n\r\ndata: cut")) == [
        ("message", "a\nb", None),
        ("message", "c", None),
    ]
