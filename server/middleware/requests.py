"""The outermost middleware: who asks and under which id, one line in the log, one count in the metrics."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from domain.ids import UserId
from handlers import keys
from handlers.longpoll import POLL
from server.drain import Ongoing
from server.metrics import Metrics
from server.middleware.proxies import Proxies

if TYPE_CHECKING:
    from yarl import URL

log = structlog.get_logger("parley.http")
_lines = logging.getLogger("parley.http")

SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")
"""A request id from outside goes into logs and headers, so it holds no space, quote or control character."""

SHOWN = frozenset(
    {"limit", "cursor", "wait", "topics", "before_seq", "after_seq", "rank", "window", "type", "unread"}
)
"""Query parameters whose values are logged. Others may be credentials (``ticket``) or what people look for (``q``)."""

QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by machines every few seconds; logged for debugging only."""

UNMATCHED = "unmatched"


def request_id_of(request: web.BaseRequest) -> str:
    """The caller's own X-Request-ID where it is sane, else a new one."""
    return given_id(request) or new_id()


def given_id(request: web.BaseRequest) -> str | None:
    """The caller's own id, where it is sane."""
    given = request.headers.get("X-Request-ID", "")
    return given if SANE_ID.fullmatch(given) else None


def new_id() -> str:
    return os.urandom(16).hex()


def debugging() -> bool:
    """Whether lines for debugging are written: asked in 0.1 µs, before one is put together in vain."""
    return _lines.isEnabledFor(logging.DEBUG)


def observe(
    metrics: Metrics, proxies: Proxies, ongoing: Ongoing, *, clock: Callable[[], float] = time.perf_counter
) -> Middleware:
    """Makes the middleware. Streams pass through it untouched; they are logged and counted when they end."""

    @web.middleware
    async def observe_request(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request[keys.REQUEST_ID] = request_id_of(request)
        request[keys.CLIENT] = proxies.client(request)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began = clock()
        status = 499  # gone before there was an answer
        metrics.request_started()
        try:
            with ongoing.one():
                response = await handler(request)
            status = response.status
            if "Idempotent-Replayed" in response.headers:
                metrics.answer_replayed()
            return response
        finally:
            _told(request, status, clock() - began, metrics)

    return observe_request


def _told(request: web.Request, status: int, seconds: float, metrics: Metrics) -> None:
    route = request.get(keys.ROUTE)
    template = route.path if route is not None else UNMATCHED
    streams = route is not None and route.stream
    metrics.request_ended(request.method, template, status, None if streams else seconds)
    caller = request.get(keys.IDENTITY)
    user = None if caller is None else caller.user
    write_line(request.method, request.rel_url, template, status, seconds, request[keys.CLIENT], user)


def write_line(
    method: str,
    url: URL,
    route: str,
    status: int,
    seconds: float,
    client: keys.Client,
    user: UserId | None,
    **bound: str,
) -> None:
    """The line of a request in the log. ``bound``: fields that are not bound to the task that serves it."""
    # A poll is asked again for each event: one that is answered is counted, and that is all.
    if route in QUIET or (route == POLL and status == 200):
        if not debugging():
            return
        write = log.debug
    else:
        write = log.info
    write(
        "request",
        method=method[:16],
        path=url.raw_path[:512],
        query=shown_query(url),
        route=route,
        status=status,
        ms=round(seconds * 1000, 1),
        client=client.address,
        user=None if user is None else str(user),
        **bound,
    )


def shown_query(url: URL) -> str | None:
    """The query for the log: names, and values only where they are known to be harmless."""
    if not url.raw_query_string:
        return None
    parts = [f"{n}={v[:64]}" if n in SHOWN else f"{n[:32]}=…" for n, v in url.query.items()]
    return "&".join(parts[:20])
