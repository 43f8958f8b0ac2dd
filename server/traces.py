"""Stack traces fit for the log: where it happened, without what people wrote.

Exceptions of the database driver and of the validator quote values in their messages (a failing row, a bad input), and
those hold message bodies and addresses. So of a message only what is known to be harmless is kept.
"""

from __future__ import annotations

import traceback

import asyncpg
from pydantic import ValidationError

MAX_CHAIN = 5
QUOTING = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, UnicodeError)
"""Errors whose message repeats the value they are about."""


def trace_of(error: BaseException) -> str:
    """The frames of an exception and of what caused it, innermost cause first."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain and len(chain) < MAX_CHAIN:
        chain.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    parts = []
    for each in reversed(chain):
        frames = "".join(traceback.format_list(traceback.extract_tb(each.__traceback__)))
        parts.append(f"{frames}{type(each).__module__}.{type(each).__qualname__}: {message_of(each)}")
    return "\n\n".join(parts)


def message_of(error: BaseException) -> str:
    """What an exception says, as far as that repeats nobody's words. One line."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{e['loc']}: {e['type']}" for e in error.errors(include_url=False, include_input=False)
        )
    if isinstance(error, QUOTING):
        named = (getattr(error, name, None) for name in ("table_name", "column_name", "constraint_name"))
        return " ".join(str(n) for n in named if n) or "(its message repeats a value)"
    return str(error).partition("\n")[0][:300]
