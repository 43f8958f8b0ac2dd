"""HTTP that cannot be read at all: answered in the product's own form, too.

What fails in the parser (a malformed request line, headers past the limit) never reaches the application's middlewares;
aiohttp answers it by itself, in plain text or HTML. Nor does it put a limit to how long headers may take to come.
:class:`Runner` does both.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import structlog
from aiohttp import web

from handlers import keys
from server.fast_polls import BEGINNING, FastPolls, Lane
from server.middleware.errors import status_problem
from server.middleware.headers import FIXED

log = structlog.get_logger("parley.http")

MAX_LINE = 8190
"""Longest request line, in bytes; a cursor, a ticket and a few parameters are far below."""
MAX_HEADERS = 16_384
"""Longest single header, in bytes."""
HEADER_SECONDS = 10.0
"""How long a connection may be open without a whole request, and how long the headers of a later one may take."""
KEEPALIVE_SECONDS = 75.0
"""How long a connection may be idle between two requests; proxies in use close theirs sooner, after 60 s or less."""

FAST_POLLS: web.AppKey[FastPolls] = web.AppKey("fast_polls", FastPolls)
"""What answers repeated polls out of turn; without it on the application, they are served like everything else."""


class ProblemHandler(web.RequestHandler):
    """One connection. It is closed without a word where headers do not become whole within ``header_seconds``; once
    they are, what is sent and answered takes as long as it takes."""

    __slots__ = ("_asked", "_fast_polls", "_header_seconds", "_headers_due", "_lane")

    def __init__(
        self,
        manager: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        header_seconds: float,
        fast_polls: FastPolls | None = None,
        **options: Any,
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._fast_polls = fast_polls
        self._lane: Lane | None = None
        self._asked = b""
        """What came last, where it may be a poll that others like it follow."""
        self._header_seconds = header_seconds
        self._headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._headers_came()
        if self._lane is not None:
            self._lane.lost()
            self._lane = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Also of a body, or of a WebSocket: only between requests there is nobody who waits for the first byte."""
        if self._lane is None:
            self.serve_slowly(data)
        elif not self._lane.takes(data):
            self._lane.leave()
            self._lane = None
            self.serve_slowly(data)

    def is_idle(self) -> bool:
        """Whether every request that came has been answered, and the next is waited for."""
        return self._waiter is not None and not self._waiter.done() and self._headers_due is None

    def is_free(self) -> bool:
        """Whether no request is under way that was read, on either way; not all of a next one may have come."""
        waits = self._waiter is not None and not self._waiter.done()
        return waits and (self._lane is None or not self._lane.is_busy)

    def serve(self, data: bytes) -> None:
        """Takes bytes as if they had just come from the client."""
        self.data_received(data)

    def serve_slowly(self, data: bytes) -> None:
        """The same, by aiohttp."""
        if self._lane is not None:
            self._lane.leave()
            self._lane = None
        self._asked = data if data.startswith(BEGINNING) and self.is_idle() else b""
        known = self._request_count
        super().data_received(data)
        if self._request_count != known:
            self._headers_came()
        elif self._waiter is not None and self._headers_due is None and not self._waiter.done():
            self._expect_headers()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Answers; where that was a poll, those like it that follow have a lane of their own from now on."""
        asked = self._asked
        finished = await super().finish_response(request, resp, start_time)
        if asked and asked is self._asked and self._fast_polls is not None and self.transport is not None:
            self._asked = b""
            try:
                self._lane = self._fast_polls.lane(
                    self, self.transport, asked, request, finished[0], idle_seconds=self.keepalive_timeout
                )
            except Exception:
                log.exception(
                    "poll.not_learnt"
                )  # the client has its answer, and the next comes the usual way
        return finished

    def _expect_headers(self) -> None:
        self._headers_due = self._loop.call_later(self._header_seconds, self._too_slow)

    def _headers_came(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _too_slow(self) -> None:
        self._headers_due = None
        log.debug("headers_late", seconds=self._header_seconds)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what could not be parsed, and closes. Says in words of ours what is wrong: theirs quote the input."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer had begun")
        request_id = request[keys.REQUEST_ID] = uuid4().hex
        detail = "the request is not well-formed HTTP, or its headers are too large"
        response = status_problem(request, HTTPStatus(status), detail)
        response.headers.update(FIXED)
        response.headers["Server"] = "parley"
        response.headers["X-Request-ID"] = request_id
        response.force_close()
        error = type(exc).__qualname__
        log.info(
            "request_unreadable", status=status, error=error, client=request.remote, request_id=request_id
        )
        return response


class ProblemServer(web.Server):
    """Makes a :class:`ProblemHandler` for each connection."""

    def __init__(self, made: web.Server, **options: Any) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
        )
        self._options = options

    def __call__(self) -> web.RequestHandler:
        return ProblemHandler(self, loop=self._loop, **self._options)


class Runner(web.AppRunner):
    """Runs an application with bounded headers, cancelled handlers for clients that leave, and problems for all errors.

    ``options`` are those of a connection (``keepalive_timeout``, ``header_seconds`` and the like). aiohttp's own
    access log is off: the outermost middleware writes one.
    """

    _LOOKS = 100  # turns of the loop in which what has come is read: two, but for a peer that goes on and on

    def __init__(self, app: web.Application, *, shutdown_timeout: float = 60.0, **options: Any) -> None:
        self._options = {
            "access_log": None,
            "max_line_size": MAX_LINE,
            "max_field_size": MAX_HEADERS,
            "header_seconds": HEADER_SECONDS,
            "keepalive_timeout": KEEPALIVE_SECONDS,
            **options,
        }
        self._options["fast_polls"] = app.get(FAST_POLLS)
        super().__init__(app, handler_cancellation=True, shutdown_timeout=shutdown_timeout)

    async def _make_server(self) -> web.Server:
        return ProblemServer(await super()._make_server(), **self._options)

    async def hang_up(self) -> None:
        """Closes the connections that no request is under way on, but those that one has just reached.

        A client that asked nothing during the grace time was never told that its connection ends, and may ask in this
        very moment. What the kernel holds unread when a connection is closed is reset, though its headers had arrived;
        on a busy machine that is what came in the last tenths of a second. It is left to be read, and answered, first.
        """
        assert self.server is not None
        for _ in range(self._LOOKS):
            free = {
                each.transport.get_extra_info("socket").fileno(): each.transport
                for each in self.server.connections
                if isinstance(each, ProblemHandler) and each.transport is not None and each.is_free()
            }
            asked = _readable(free)
            for descriptor, transport in free.items():
                if descriptor not in asked:
                    transport.close()
            if not asked:
                return
            await asyncio.sleep(0)


def _readable(descriptors: Iterable[int]) -> set[int]:
    look = select.poll()
    for descriptor in descriptors:
        look.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in look.poll(0)}
