"""Opaque page cursors: what a service calls "after this key" as text that clients hand back.

A service takes and gives a plain key, e.g. ``(created_at, id)``; a handler turns it into text and back::

    after = decode_cursor(call.query.cursor, datetime, UUID)     # None on the first page
    rows, more = await service.list(call.identity, limit=call.query.limit, after=after)
    return Reply(200, page(rows, encode_cursor(rows[-1].created_at, rows[-1].id) if more else None))
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar, overload
from uuid import UUID

import orjson

from domain.errors import FieldError, InvalidFields
from domain.ids import parse_id
from handlers.schemas.common import MAX_INT64, Page

T = TypeVar("T")
A = TypeVar("A", str, int, UUID, datetime)
B = TypeVar("B", str, int, UUID, datetime)
C = TypeVar("C", str, int, UUID, datetime)

Part = str | int | UUID | datetime

BAD_CURSOR = "is not a cursor of this list"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def bad_cursor() -> InvalidFields:
    """The 422 of a page cursor that no list gave out."""
    return InvalidFields([FieldError("cursor", BAD_CURSOR)])


def encode_cursor(*parts: Part) -> str:
    """A page cursor that holds these values; times keep their microseconds."""
    return base64.urlsafe_b64encode(orjson.dumps([_plain(p) for p in parts])).decode().rstrip("=")


@overload
def decode_cursor(text: str | None, a: type[A], /) -> tuple[A] | None: ...
@overload
def decode_cursor(text: str | None, a: type[A], b: type[B], /) -> tuple[A, B] | None: ...
@overload
def decode_cursor(text: str | None, a: type[A], b: type[B], c: type[C], /) -> tuple[A, B, C] | None: ...


def decode_cursor(text: str | None, *types: type[Any]) -> tuple[Any, ...] | None:
    """The values of a cursor, each of the type named; None for no cursor. Raises 422 for anything else."""
    if text is None:
        return None
    try:
        if not text.isascii():
            raise ValueError
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
            raise ValueError
        values = orjson.loads(raw)
    except (ValueError, binascii.Error):
        raise bad_cursor() from None
    if not isinstance(values, list) or len(values) != len(types):
        raise bad_cursor()
    return tuple(_typed(value, kind) for value, kind in zip(values, types, strict=True))


def page(items: Sequence[T], next_cursor: str | None = None) -> Page[T]:
    """The answer of a list."""
    return Page[Any](items=list(items), next_cursor=next_cursor)


def _plain(part: Part) -> str | int:
    if isinstance(part, datetime):
        delta = part - _EPOCH
        return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    return str(part) if isinstance(part, UUID) else part


def _typed(value: object, kind: type[Any]) -> Part:
    if kind is str and isinstance(value, str) and "\x00" not in value:
        return value
    if kind is UUID and isinstance(value, str) and (known := parse_id(value)) is not None:
        return known
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT64:
        if kind is int:
            return value
        if kind is datetime:
            return _time(value)
    raise bad_cursor()


def _time(microseconds: int) -> datetime:
    seconds, rest = divmod(microseconds, 1_000_000)
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
    except (ValueError, OverflowError, OSError):
        raise bad_cursor() from None
