"""Cursors, frames, blocks and hints, read back by parsers that share no code with what wrote them."""

from __future__ import annotations

import itertools
import json
import string
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domain.ids import SessionId, TenantId, UserId
from domain.log import Control, StoredEvent, Topic, TopicKind
from realtime.codec import (
    Cursor,
    CursorInvalid,
    decode_cursor,
    decode_hint,
    encode_cursor,
    encode_envelope,
    encode_hint,
    sse_block,
    ws_frame,
)
from realtime.events import Event
from tests.support.wire import parse_sse, parse_ws, read_frames

U64 = st.integers(min_value=0, max_value=2**64 - 1)
BASE64 = string.ascii_letters + string.digits + "-_"
ODD_TEXT = st.text(
    st.one_of(
        st.characters(codec="utf-8"), st.sampled_from('\r\n\x00\x0b\x0c\x1c\x85\u2028\u2029\ufeff:"\\ ')
    )
)


@given(U64, U64)
def test_a_cursor_comes_back_as_it_was_and_is_safe_everywhere(epoch: int, position: int) -> None:
    text = encode_cursor(epoch, position)
    assert decode_cursor(text) == Cursor(epoch, position)
    assert len(text) == 26
    assert set(text) <= set(BASE64)


@given(st.one_of(st.text(), st.text(BASE64, min_size=26, max_size=26), ODD_TEXT))
@example("")
@example("=" * 26)
@example("A" * 26)
@example("A" * 25 + "\u0660")
@example("A" * 25 + "\ud800")
@example("A" * 25 + "\x00")
@example("A" * 24 + "==")
@example("AQAAAAAAAAAHAAAAAAAAAABXN=")
def test_what_is_not_a_cursor_is_told_so_and_nothing_else(text: str) -> None:
    try:
        cursor = decode_cursor(text)
    except CursorInvalid:
        return
    assert encode_cursor(cursor.epoch, cursor.position) == text, "a cursor has one form"


@given(U64, U64, st.integers(0, 25), st.sampled_from(BASE64 + "=+/ .\n\u00e9"))
def test_a_cursor_with_one_wrong_character_is_invalid(epoch: int, position: int, at: int, wrong: str) -> None:
    """The check is 16 bits wide and CRC finds every burst shorter than that, so one character never slips through."""
    text = encode_cursor(epoch, position)
    if text[at] != wrong:
        with pytest.raises(CursorInvalid):
            decode_cursor(text[:at] + wrong + text[at + 1 :])


@given(st.lists(st.one_of(st.binary(max_size=300), st.sampled_from([125, 126, 127, 65535, 65536, 70000]))))
def test_frames_written_one_after_another_are_read_apart(payloads: list[bytes | int]) -> None:
    wanted = [p if isinstance(p, bytes) else b"x" * p for p in payloads]
    assert list(parse_ws(b"".join(map(ws_frame, wanted)))) == [(1, payload) for payload in wanted]


@given(st.lists(st.tuples(ODD_TEXT, st.one_of(st.none(), U64)), max_size=5))
def test_blocks_are_read_back_whatever_text_is_in_them(blocks: list[tuple[str, int | None]]) -> None:
    """No text may end a line, a block or the stream: CR and LF are escaped by JSON, U+2028 ends no line in a stream."""
    cursors = [None if place is None else encode_cursor(7, place) for _, place in blocks]
    stream = b"".join(
        sse_block(orjson.dumps({"body": text}), "message.created", cursor)
        for (text, _), cursor in zip(blocks, cursors, strict=True)
    )
    read = list(parse_sse(stream.decode()))
    assert [json.loads(data)["body"] for _, data, _ in read] == [text for text, _ in blocks]
    assert [place for _, _, place in read] == cursors
    assert {event for event, _, _ in read} <= {"message.created"}


ids = st.uuids()
controls = st.builds(
    Control,
    joins=st.lists(ids.map(UserId), max_size=3).map(tuple),
    leaves=st.lists(ids.map(UserId), max_size=3).map(tuple),
    revokes=st.lists(ids.map(SessionId), max_size=3).map(tuple),
    redacts=st.lists(st.integers(1, 2**53), max_size=3).map(tuple),
    about=st.none() | st.integers(1, 2**53),
)
times = st.datetimes(
    datetime(2000, 1, 1),  # noqa: DTZ001
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5.5))]),
)
event_types = st.sampled_from(["message.created", "member.added", "session.revoked", "of.the.future"])


@st.composite
def batches(draw: st.DrawFn) -> list[StoredEvent]:
    first = draw(st.integers(1, 2**62))
    return [
        StoredEvent(
            first + n,
            TenantId(draw(ids)),
            Topic(draw(st.sampled_from(TopicKind)), draw(ids)),
            draw(event_types),
            draw(times),
            orjson.dumps({"body": draw(ODD_TEXT)}),
            draw(controls),
        )
        for n in range(draw(st.integers(0, 4)))
    ]


@given(st.integers(0, 2**63), batches())
def test_hints_come_back_as_they_were(epoch: int, batch: list[StoredEvent]) -> None:
    assert decode_hint(encode_hint(epoch, batch)) == (epoch, batch)


class DriverUUID(UUID):
    """As a database driver gives them."""


@given(ids, ids, ids)
def test_ids_as_the_database_gives_them_go_into_a_hint_and_into_an_event(
    tenant: UUID, topic: UUID, user: UUID
) -> None:
    def stored(kind: type[UUID]) -> StoredEvent:
        return StoredEvent(
            1,
            TenantId(kind(str(tenant))),
            Topic(TopicKind.USER, kind(str(topic))),
            "member.added",
            datetime(2026, 1, 1, tzinfo=UTC),
            b"{}",
            Control(joins=(UserId(kind(str(user))),)),
        )

    hint = encode_hint(1, [stored(DriverUUID)])
    assert hint == encode_hint(1, [stored(UUID)])
    assert decode_hint(hint) == (1, [stored(UUID)])
    assert Event(stored(DriverUUID), 1).envelope == Event(stored(UUID), 1).envelope


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
PIECES = [5, str(UUID(int=5)), 2, str(UUID(int=6)), "message.created", "2026-01-01T00:00:00Z", "{}", None]


@st.composite
def nearly_hints(draw: st.DrawFn) -> bytes:
    """A hint with one field replaced by something else."""
    fields: list[object] = list(PIECES)
    fields[draw(st.integers(0, len(fields) - 1))] = draw(JSON)
    return json.dumps([draw(st.just(1) | JSON), [fields]]).encode()


def hint_of_position(position: int) -> bytes:
    return json.dumps([1, [[position, *PIECES[1:]]]]).encode()


def hint_with_control(control: object) -> bytes:
    return json.dumps([1, [[*PIECES[:-1], json.dumps(control)]]]).encode()


@given(st.one_of(st.binary(), JSON.map(lambda value: json.dumps(value).encode()), nearly_hints()))
@example(b"")
@example(b"\xff")
@example(b"[1, [[5, 5, 2, 5, 5, 5, 5, 5]]]")
@example(b'["1", []]')
@example(hint_of_position(-1))
@example(hint_of_position(0))
@example(hint_of_position(2**64))
@example(hint_with_control({"about": "7"}))
@example(hint_with_control({"redacts": ["7"]}))
@example(hint_with_control([]))
def test_what_is_no_hint_raises_value_error_and_nothing_else(payload: bytes) -> None:
    """It arrives from outside, on a handler that must not raise anything else."""
    try:
        epoch, events = decode_hint(payload)
    except ValueError:
        return
    assert isinstance(epoch, int)
    for before, event in itertools.pairwise(events):
        assert event.position == before.position + 1, "a hint that is taken is dense"
    for event in events:
        assert isinstance(event.position, int)
        assert 0 < event.position < 2**63
        assert all(isinstance(position, int) for position in event.control.redacts)
        assert event.control.about is None or isinstance(event.control.about, int)
        assert isinstance(event.type, str)
        assert event.at.tzinfo is not None
        Event(event, 1)


@given(batches(), st.integers(0, 2**53))
def test_an_event_reads_the_same_on_both_wires(batch: list[StoredEvent], epoch: int) -> None:
    for stored in batch:
        event = Event(stored, epoch)
        (ws,) = read_frames("ws", event.encoded("ws"))
        (sse,) = read_frames("sse", event.encoded("sse"))
        assert ws.data == sse.data
        assert sse.event == ws.data["type"] == stored.type
        assert sse.id == ws.data["cursor"] == encode_cursor(epoch, stored.position)
        assert ws.data["topic"] == {"kind": stored.topic.kind.name.lower(), "id": str(stored.topic.id)}
        assert ws.data["data"] == json.loads(stored.data)
        assert datetime.fromisoformat(ws.data["at"]) == stored.at


def test_what_is_live_only_has_a_null_cursor_and_no_id() -> None:
    topic = Topic(TopicKind.CONVERSATION, UUID(int=1))
    envelope = encode_envelope(None, "typing.started", topic, datetime(2026, 1, 1, tzinfo=UTC), b"{}")
    (frame,) = read_frames("sse", sse_block(envelope, "typing.started", None))
    assert frame.data["cursor"] is None
    assert frame.id is None
