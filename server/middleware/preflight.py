"""CORS preflights: what a browser asks before it lets a page of another origin call."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from domain.errors import OriginRefused
from handlers import keys
from handlers.origins import Origins

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
HEADERS = "Authorization, Content-Type, Idempotency-Key, X-Idempotency-Key, X-Request-ID, Last-Event-ID"
MAX_AGE = "600"


def preflights(origins: Origins) -> Middleware:
    """Makes the middleware. Who may read the answer, the response headers say; here only what may be asked."""

    @web.middleware
    async def answer_preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if request.method != "OPTIONS" or origin is None:
            return await handler(request)
        if "Access-Control-Request-Method" not in request.headers:
            return await handler(request)
        if not origins.allows(origin, keys.client_of(request)):
            raise OriginRefused()
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": METHODS,
                "Access-Control-Allow-Headers": HEADERS,
                "Access-Control-Max-Age": MAX_AGE,
            },
        )

    return answer_preflight
