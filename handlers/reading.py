"""From the bytes of a request to validated models. Nothing here answers; everything wrong is a domain error."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from aiohttp import web
from multidict import MultiMapping
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from domain.errors import FieldError, InvalidFields, Malformed, TooLarge
from handlers.schemas.common import Query

BodyT = TypeVar("BodyT", bound=BaseModel)
QueryT = TypeVar("QueryT", bound=Query)

BODY_SECONDS = 30.0
"""How long a body may take to arrive once its headers have."""

MAX_ERRORS = 50
"""Wrong fields named in one answer; a body with thousands of them does not get a longer one."""

JSON_SUFFIX = re.compile(r"application/[a-z0-9.-]+\+json")
FORM = "application/x-www-form-urlencoded"
MAX_FORM_FIELDS = 100


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises TooLarge past the application's limit, Malformed where it does not arrive whole."""
    length = request.content_length
    if length is not None and request.client_max_size and length > request.client_max_size:
        raise too_large(request.client_max_size)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1):
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0  # the answer itself has not begun
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(request.client_max_size) from None
    except TimeoutError:
        raise Malformed(f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None
    except (web.RequestPayloadError, web.PayloadAccessError):
        raise Malformed("the body did not arrive whole") from None


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes")


def parse_body(request: web.Request, raw: bytes, model: type[BodyT], *, form: bool = False) -> BodyT:
    """The body as ``model``.

    An empty body stands for ``{}`` where the model needs nothing. Raises Malformed for what is not JSON in UTF-8 (or a
    form, where the route takes one), InvalidFields for what is not what the model wants.
    """
    media_type = request.content_type if "Content-Type" in request.headers else "application/json"
    if form and media_type == FORM:
        return _parse_form(raw, model)
    if not raw and not any(field.is_required() for field in model.model_fields.values()):
        return model()
    if not (
        media_type == "application/json"
        or (media_type.startswith("application/") and media_type.endswith("+json"))
    ):
        raise Malformed("the body must be application/json", code="unsupported_media_type")
    if (request.charset or "utf-8").lower().replace("_", "-") not in ("utf-8", "utf8", "us-ascii"):
        raise Malformed("the body must be UTF-8", code="unsupported_media_type")
    try:
        value = model.model_validate_json(raw)
    except ValidationError as error:
        if (syntax := _syntax_error(raw, error)) is not None:
            raise syntax from None
        raise invalid(error) from None
    if b"\\u0000" in raw:
        _refuse_nul(orjson.loads(raw), model)
    return value


def parse_query(query: MultiMapping[str], model: type[QueryT]) -> QueryT:
    """The query as ``model``; names it does not know are ignored, one given twice is an error."""
    given: dict[str, str] = {}
    repeated: list[FieldError] = []
    for name, value in query.items():
        if name in given and name in model.model_fields:
            repeated.append(FieldError(name, "is given more than once"))
        given[name] = value
    if repeated:
        raise InvalidFields(repeated[:MAX_ERRORS])
    if bad := [n for n, v in given.items() if "\x00" in v and n not in model.never_stored]:
        raise InvalidFields([FieldError(n, "must not hold U+0000") for n in bad[:MAX_ERRORS]])
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise InvalidFields(
            [FieldError(str(e["loc"][0]) if e["loc"] else "", _detail(e)) for e in _errors(error)]
        ) from None


def invalid(error: ValidationError) -> InvalidFields:
    """The 422 of a body."""
    return InvalidFields(field_errors(error))


def field_errors(error: ValidationError) -> list[FieldError]:
    """Every wrong field, each with its JSON pointer, :data:`MAX_ERRORS` at most. Never repeats what was sent."""
    return [FieldError(pointer(e["loc"]), _detail(e)) for e in _errors(error)]


def pointer(location: Iterable[int | str]) -> str:
    """RFC 6901."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _parse_form(raw: bytes, model: type[BodyT]) -> BodyT:
    try:
        pairs = parse_qsl(
            raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS
        )
    except ValueError:  # UnicodeDecodeError too
        raise Malformed("the body is not a form in UTF-8") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = [name for name, _ in pairs if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        raise InvalidFields(
            [FieldError(pointer((name,)), "is given more than once") for name in dict.fromkeys(twice)]
        )
    _refuse_nul(fields, model)
    try:
        return model.model_validate(fields, strict=False)
    except ValidationError as error:
        raise invalid(error) from None


def _syntax_error(raw: bytes, error: ValidationError) -> Malformed | None:
    """Tells a body that cannot be read from one that says the wrong thing."""
    first = error.errors(include_url=False, include_context=True, include_input=False)[0]
    if first["type"] == "json_invalid":
        reason = str(first.get("ctx", {}).get("error", "")) or "it cannot be read"
        return Malformed(f"the body is not JSON: {reason[:200]}")
    if b"NaN" in raw or b"Infinity" in raw:  # the validator reads them; JSON has neither
        try:
            orjson.loads(raw)
        except orjson.JSONDecodeError:
            return Malformed("the body is not JSON: numbers must be finite")
    return None


def _errors(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_input=False)[:MAX_ERRORS]


_WORDS: Mapping[str, str] = {
    "extra_forbidden": "is not a known field",
    "missing": "is required",
}


def _detail(error: ErrorDetails) -> str:
    message = _WORDS.get(error["type"])
    if message is None:
        message = error["msg"].removeprefix("Value error, ")
    return message[:300]


def _refuse_nul(value: Any, model: type[BaseModel]) -> None:
    """U+0000 cannot be stored as text by PostgreSQL, so no string may hold it, whatever its field allows.

    But for secrets: they are never stored, and every byte of a password counts.
    """
    found: list[FieldError] = []
    secrets = {name for name, field in model.model_fields.items() if field.annotation is SecretStr}
    if isinstance(value, dict):
        value = {name: inner for name, inner in value.items() if name not in secrets}
    rest: list[tuple[Any, tuple[int | str, ...]]] = [(value, ())]
    while rest and len(found) < MAX_ERRORS:
        item, where = rest.pop()
        if isinstance(item, str):
            if "\x00" in item:
                found.append(FieldError(pointer(where), "must not hold U+0000"))
        elif isinstance(item, dict):
            rest.extend((inner, (*where, name)) for name, inner in item.items())
        elif isinstance(item, list):
            rest.extend((inner, (*where, n)) for n, inner in enumerate(item))
    if found:
        raise InvalidFields(found)
