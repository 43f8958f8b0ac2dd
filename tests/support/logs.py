"""What a server logs as an error while tests do to it what nobody should."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from structlog.typing import EventDict, WrappedLogger

_ERRORS = ("error", "exception", "critical")


class _Handler(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@contextmanager
def errors_logged() -> Iterator[list[str]]:
    """Collects every error that this process logs, by structlog or by the standard library; the rest is dropped."""
    lines: list[str] = []

    def collect(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if method in _ERRORS:
            lines.append(repr(event))
        raise structlog.DropEvent

    # In place: loggers that were bound before share this list.
    processors = structlog.get_config()["processors"]
    before = [*processors]
    processors[:] = [structlog.processors.format_exc_info, collect]
    handler = _Handler(lines)
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)
        processors[:] = before
