"""Headers of every answer, errors and streams included. Set when an answer starts, so no middleware has to touch it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from handlers import keys
from handlers.origins import Origins

CSP = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""For JSON: nothing in it is ever to be run. A page of ours brings its own policy."""

HSTS = "max-age=31536000"

FIXED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": CSP,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
}
EXPOSED = "Retry-After, RateLimit, RateLimit-Policy, Idempotent-Replayed, X-Request-ID"


def answer_headers(
    origins: Origins, draining: Callable[[], bool]
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Makes the receiver of ``on_response_prepare``. What a handler has set itself stays as it is."""

    async def set_headers(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers["Server"] = "parley"  # aiohttp would tell its version and Python's
        if (request_id := request.get(keys.REQUEST_ID)) is not None:
            headers["X-Request-ID"] = request_id
        if response.status == 101:
            return  # what follows is no longer HTTP
        for name, value in FIXED.items():
            headers.setdefault(name, value)
        client = keys.client_of(request)
        if client.scheme == "https":
            headers.setdefault("Strict-Transport-Security", HSTS)
        for name, value in request.get(keys.ANSWER_HEADERS, {}).items():
            headers.setdefault(name, value)
        _cross_origin(request, client, origins, response)
        if draining():
            headers["Connection"] = "close"
            response.force_close()

    return set_headers


def _cross_origin(
    request: web.Request, client: keys.Client, origins: Origins, response: web.StreamResponse
) -> None:
    """Lets pages of the allowed origins read the answer (Fetch standard, CORS protocol)."""
    origin = request.headers.get("Origin")
    if origin is None:
        return
    response.headers.add("Vary", "Origin")
    if not origins.allows(origin, client):
        return
    if origins.any and not origins.named(origin):
        response.headers["Access-Control-Allow-Origin"] = "*"
    else:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
    response.headers["Access-Control-Expose-Headers"] = EXPOSED
