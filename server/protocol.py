"""HTTP that cannot be read at all: answered in the product's own form, too.

What fails in the parser (a malformed request line, headers past the limit) never reaches the application's middlewares;
aiohttp answers it by itself, in plain text or HTML. :class:`Runner` puts one method in between.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from uuid import uuid4

import structlog
from aiohttp import web

from handlers import keys
from server.middleware.errors import status_problem
from server.middleware.headers import FIXED

log = structlog.get_logger("parley.http")

MAX_LINE = 8190
"""Longest request line, in bytes; a cursor, a ticket and a few parameters are far below."""
MAX_HEADERS = 16_384
"""Longest single header, in bytes."""


class ProblemHandler(web.RequestHandler):
    """One connection."""

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

    ``options`` are those of a connection (``keepalive_timeout`` and the like). aiohttp's own access log is off: the
    outermost middleware writes one.
    """

    def __init__(self, app: web.Application, *, shutdown_timeout: float = 60.0, **options: Any) -> None:
        self._options = {
            "access_log": None,
            "max_line_size": MAX_LINE,
            "max_field_size": MAX_HEADERS,
            **options,
        }
        super().__init__(app, handler_cancellation=True, shutdown_timeout=shutdown_timeout, **self._options)

    async def _make_server(self) -> web.Server:
        return ProblemServer(await super()._make_server(), **self._options)
