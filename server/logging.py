"""Logs: one JSON object a line, or readable lines in a terminal. Every line carries the request's id.

Call `structlog.get_logger("parley.…")` anywhere and log an event name with fields:
`log.info("token_refused", reason="expired")`. Put ids in fields, never what people wrote and never a
credential; a field whose name says that it is one is blanked here all the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO
from urllib.parse import urlsplit

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from server.settings import Settings

_WAITING_LINES = 10_000
"""Lines that may wait for a slow terminal or pipe; past it they are dropped and counted."""

_LAST_WORDS_SECONDS = 5.0

_PRIVATE = ("password", "secret", "token", "authorization", "cookie", "ticket", "api_key", "private_key")
_PRIVATE_EXACTLY = frozenset({"body", "content", "text", "cursor_key"})
_BLANK = "[redacted]"

_NOISY = ("asyncio", "aiohttp.access", "alembic", "sqlalchemy")


def bind_request(request_id: str, **fields: object) -> None:
    """Adds the request's id (and fields) to every line logged from here on in this task and its children."""
    structlog.contextvars.bind_contextvars(request_id=request_id, **fields)


def clear_request() -> None:
    """Forgets what `bind_request` added: for a task that serves one request after another."""
    structlog.contextvars.clear_contextvars()


def request_id() -> str | None:
    """The id bound in this context, for error bodies and outgoing calls."""
    bound = structlog.contextvars.get_contextvars().get("request_id")
    return bound if isinstance(bound, str) else None


def without_password(url: str) -> str:
    """A URL fit for a log line or an error: credentials and query left out."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def logging_to(stream: TextIO, settings: Settings) -> Iterator[None]:
    """Sends every log of the process, libraries' too, to `stream`, written by a thread of its own.

    Leaving writes what still waits.
    """
    readable = settings.log_format == "console" or (settings.log_format == "auto" and stream.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared = _shared_processors()
    rendering = _rendering(readable, colors=stream.isatty())
    writer = _Writer(stream)
    # Our own lines pass the standard library's loggers by, which took as long again as making the line.
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *names: _Lines(writer, *names),
        cache_logger_on_first_use=False,
    )
    entry = _Entry(writer)
    entry.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers, root.level = [entry], level
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.handlers, root.level = before
        structlog.reset_defaults()
        writer.close()


class _Writer:
    """Writes lines in a thread, so that a slow terminal or pipe never holds up the event loop."""

    def __init__(self, stream: TextIO) -> None:
        self.dropped = 0
        self._stream = stream
        self._waiting: queue.SimpleQueue[str | None] = (
            queue.SimpleQueue()
        )  # takes no lock that another may hold
        self._thread = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Never waits: past the limit the line is dropped and counted."""
        if self._waiting.qsize() < _WAITING_LINES:
            self._waiting.put(line)
        else:
            self.dropped += 1

    def close(self) -> None:
        """Writes what waits, giving a reader that hangs a limited time to take it."""
        self._waiting.put(None)
        self._thread.join(_LAST_WORDS_SECONDS)

    def _write(self) -> None:
        # A reader that has gone away (a closed pipe) is no reason to stop serving.
        with contextlib.suppress(OSError, ValueError):
            while (line := self._waiting.get()) is not None:
                self._stream.write(line + "\n")
                if self._waiting.empty():
                    self._stream.flush()
            if self.dropped:
                self._stream.write(
                    f"parley: {self.dropped} log lines were dropped: nobody read them fast enough\n"
                )
            self._stream.flush()


class _Lines:
    """What structlog hands finished lines to."""

    __slots__ = ("critical", "debug", "error", "exception", "info", "name", "warning")

    def __init__(self, writer: _Writer, name: str = "parley") -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.exception = self.critical = writer.put


class _Entry(logging.Handler):
    """Formats what libraries log on the caller's side, where the request's context is."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put(self.format(record))
        except Exception:
            self.handleError(record)


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A structlog processor: blanks fields that are named like credentials or like what people write."""
    for key, value in event.items():
        if value is None or isinstance(value, bool | int | float):
            continue
        name = key.lower()
        if name in _PRIVATE_EXACTLY or any(word in name for word in _PRIVATE):
            event[key] = _BLANK
        elif name.endswith("url") and isinstance(value, str):
            try:
                event[key] = without_password(value)
            except ValueError:  # it is none, so nobody can tell where in it a password is
                event[key] = _BLANK
    return event


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        redact,
    ]


def _rendering(readable: bool, *, colors: bool) -> list[Processor]:
    if readable:
        return [_Readable(colors=colors)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dumps)]


class _Readable:
    """Renders for a terminal. Never raises: what cannot be shown is shown as that."""

    def __init__(self, *, colors: bool) -> None:
        # Plain tracebacks: the pretty ones print local variables, and those hold people's messages.
        self._render = structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback
        )

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        kept = dict(event)  # rendering takes it apart
        try:
            return self._render(logger, method, event)
        except Exception:
            return self._render(
                logger, method, {key: _shown(value, _as_words) for key, value in kept.items()}
            )


def _dumps(value: EventDict, **_: object) -> str:
    """A line of JSON. Never raises: a value that cannot be written is written as its looks, or as unreadable."""
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:
        pass  # text that is no UTF-8, a number past 64 bits, or something worse
    try:
        return json.dumps(value, default=str)
    except Exception:
        return json.dumps({key: _shown(each, _as_json) for key, each in value.items()}, default=str)


def _as_json(value: object) -> str:
    return json.dumps(value, default=str)


def _as_words(value: object) -> str:
    return f"{value!r} {value}"


def _shown(value: object, way: Callable[[object], str]) -> object:
    """The value, where it can be shown that way; else its looks, or its type where it has none."""
    for attempt in (way, repr):
        try:
            text = attempt(value)
        except Exception:  # noqa: S112  # a last resort, with nobody left to tell
            continue
        return value if attempt is way else text
    return f"[unreadable {type(value).__name__}]"


def default_stream() -> TextIO:
    """Where logs go unless a test says otherwise: stderr, so that stdout stays for what was asked for."""
    return sys.stderr
