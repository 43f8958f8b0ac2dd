"""Page cursors hold what a service gave, and nothing else passes for one."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import InvalidFields
from handlers.paging import decode_cursor, encode_cursor, page

MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=50)


@given(MOMENTS, st.uuids(), TEXTS)
def test_what_goes_in_comes_out(moment: datetime, id: UUID, text: str) -> None:
    cursor = encode_cursor(moment, id, text)
    assert decode_cursor(cursor, datetime, UUID, str) == (moment, id, text)
    assert cursor.isascii()
    assert set(cursor).isdisjoint("+/=&?# ")


@given(st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1))
def test_numbers_keep_every_digit(number: int) -> None:
    assert decode_cursor(encode_cursor(number), int) == (number,)


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    there = datetime(2026, 1, 1, 12, 0, 0, 123456, timezone(timedelta(hours=5)))
    assert decode_cursor(encode_cursor(there), datetime) == (there,)


def test_no_cursor_is_the_first_page() -> None:
    assert decode_cursor(None, int) is None


def packed(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "!!!!", "é", "a" * 400, packed({}), packed([]), packed([1, 2]), packed(["1"]), packed([True]),
        packed([1.5]), packed([None]), packed([2**63]), packed(1), encode_cursor(1) + "=", encode_cursor("1"),
        base64.b64encode(b"\xff" * 9).decode(), base64.urlsafe_b64encode(b"[" * 500).decode(),
    ],
)  # fmt: skip
def test_anything_else_is_422_naming_the_cursor(text: str) -> None:
    with pytest.raises(InvalidFields) as refused:
        decode_cursor(text, int)
    assert [field.pointer for field in refused.value.fields] == ["cursor"]


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63) + 1, 253402300800 * 10**6])
def test_a_time_that_no_calendar_has_is_no_cursor(value: int) -> None:
    with pytest.raises(InvalidFields):
        decode_cursor(packed([value]), datetime)


def test_text_with_u0000_is_no_cursor() -> None:
    with pytest.raises(InvalidFields):
        decode_cursor(packed(["a\x00b"]), str)


@given(st.text(max_size=100))
def test_no_text_breaks_the_decoder(text: str) -> None:
    try:
        decode_cursor(text, datetime, UUID)
    except InvalidFields:
        pass


def test_a_page_tells_whether_there_is_more() -> None:
    assert page([1, 2], "next").model_dump() == {"items": [1, 2], "next_cursor": "next"}
    assert page([]).model_dump() == {"items": [], "next_cursor": None}
