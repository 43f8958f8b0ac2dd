"""What every resource's request and answer models are made of, and the object every error is told with."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

T = TypeVar("T")

MAX_INT64 = 2**63 - 1
"""The largest number PostgreSQL's bigint holds; a position, a seq or a count never passes it."""


class Body(BaseModel):
    """Base of every request body: an unknown field is an error that names it, and ``"1"`` is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("must not be null; leave it out to leave it as it is")
    return value


class _Omittable:
    """Takes null out of what the schema allows."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(schema)
        kept: list[JsonSchemaValue] = [each for each in described["anyOf"] if each.get("type") != "null"]
        return kept[0] if len(kept) == 1 else {"anyOf": kept}


Patch = Annotated[T | None, BeforeValidator(_not_null), _Omittable()]
"""A field that may be left out but not be null. Defaults are not validated, so None stands for "left out"."""


class Query(BaseModel):
    """Base of every query. Parameters it does not name are ignored; values arrive as text and are converted.

    Use :data:`QueryInt` for numbers: a bare ``int`` would also take ``1_0``, ``+1`` and ``" 1"``.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    never_stored: ClassVar[frozenset[str]] = frozenset()
    """Parameters that are only compared or decoded, so that U+0000 in them is one more wrong value, not a 422."""


class NoBody(Body):
    """For routes that take no body; whatever is sent is not looked at."""


class NoQuery(Query):
    """For routes that take no query parameter."""


def _plain_decimal(value: object) -> object:
    if isinstance(value, str):
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
            raise ValueError("must be a whole number")
        return int(value)
    return value


QueryInt = Annotated[int, BeforeValidator(_plain_decimal)]
"""A whole number in a query: ASCII digits, with a minus sign or none."""

Seq = Annotated[int, Field(ge=1, le=MAX_INT64, description="A message's number in its conversation, from 1.")]


class PageQuery(Query):
    """What every list takes. Decode ``cursor`` with :mod:`handlers.paging`."""

    limit: QueryInt = Field(20, ge=1, le=100, description="How many items at most.")
    cursor: str | None = Field(
        None, min_length=1, max_length=512, description="`next_cursor` of the page before."
    )


class Page(BaseModel, Generic[T]):
    """One page of a list. ``next_cursor`` is null on the last one."""

    model_config = ConfigDict(extra="forbid")

    items: list[T]
    next_cursor: str | None = None


class ProblemField(BaseModel):
    """One wrong field of a request."""

    model_config = ConfigDict(extra="forbid")

    pointer: str = Field(
        description="RFC 6901 JSON pointer into the body, or the name of a query parameter or header."
    )
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457). ``code`` is stable and for programs; ``title`` and ``detail`` are for people."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="Always `urn:parley:problem:` and the code.")
    title: str
    status: int
    detail: str
    instance: str | None = Field(None, description="The path that was asked for.")
    code: str
    request_id: str | None = Field(
        None, description="Name it when you ask for help; it is in the server's log."
    )
    errors: list[ProblemField] | None = Field(None, description="For 422: each wrong field.")


class ReplyProblem(Problem):
    """The error of a reply: a problem, and what a WebSocket has no header for."""

    retry_after_ms: int | None = Field(None, ge=0, description="How long to wait before trying again.")
