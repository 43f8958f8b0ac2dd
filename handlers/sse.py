"""Server-Sent Events: ``GET /realtime/sse``."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import orjson
from aiohttp import HttpVersion11, web
from aiohttp_sse import EventSourceResponse, sse_response

from domain.identity import Identity
from domain.log import inbox
from handlers import keys
from handlers.endpoint import Call, Route
from handlers.outlet import Outlet
from handlers.realtime import StreamQuery, begin, check_room, hello, parse_topics, presented_cursor, sign_in
from handlers.schemas.common import NoBody
from realtime.closing import EXPIRED, STALLED, Closing
from realtime.codec import Wire, encode_envelope, sse_block

CLOSE_SECONDS = 2.0  # for a peer to take what was written before its end
RETRY_MS = 2000
COMMENT_SECONDS = 15.0


class SseTransport(Outlet):
    """Writes blocks that were encoded once straight to the connection: one call to the kernel a turn of the loop.

    What is written is framed as one chunk (RFC 9112, 7.1), as aiohttp frames its own writes; HTTP/1.0 knows no chunks.
    """

    wire: Wire = "sse"
    __slots__ = ("_chunked", "_identity", "_response")

    def __init__(self, request: web.Request, response: EventSourceResponse, identity: Identity) -> None:
        assert request.transport is not None
        super().__init__(request.transport)
        self._response = response
        self._chunked = request.version >= HttpVersion11
        self._identity = identity

    def write(self, data: bytes) -> int:
        return super().write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def heard_at(self) -> float | None:
        return None

    def close(self, closing: Closing) -> None:
        if closing.reconnect_after_ms is not None:
            drain = orjson.dumps({"type": "drain", "reconnect_after_ms": closing.reconnect_after_ms})
            self.write(sse_block(drain, "drain", None))
        elif closing is EXPIRED:
            self.write(self._expired())
        self.closing = closing
        if closing is STALLED or self.buffered() > 0:
            # A peer that does not read would keep the connection, and what waits for it, for ever.
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.abort)
        self._response.stop_streaming()

    def _expired(self) -> bytes:
        """Told to this stream alone, so it has no place in the log."""
        data = orjson.dumps({"session_id": str(self._identity.session), "reason": "token_expired"})
        topic = inbox(self._identity.user)
        envelope = encode_envelope(None, "session.revoked", topic, datetime.now(UTC), data)
        return sse_block(envelope, "session.revoked", None)


async def get_sse(call: Call[NoBody, StreamQuery]) -> web.StreamResponse:
    """Streams the events of a session until it ends."""
    request, identity = call.request, call.identity
    realtime = request.app[keys.REALTIME]
    groups = parse_topics(call.query.topics)
    presented = presented_cursor(request, call.query)
    view, _ = await begin(realtime, identity, presented)
    check_room(realtime, view)
    headers = dict(request.get(keys.ANSWER_HEADERS, {}))
    async with sse_response(request, ping_interval=COMMENT_SECONDS, headers=headers) as response:
        await response.write(b"retry: %d\n\n" % RETRY_MS)
        transport = SseTransport(request, response, identity)
        view, place = await begin(realtime, identity, presented)
        session = realtime.hub.open(
            view, transport, place, sign_in=identity.session, expires_at=identity.expires_at, groups=groups
        )
        realtime.metrics.connection_opened("sse")
        try:
            session.greet(hello(realtime, identity, place.presented), place.resync)
            session.start()
            await response.wait()
        finally:
            session.detach()
            realtime.metrics.connection_closed("sse", transport.closing.name if transport.closing else "gone")
    return response


ROUTES = (
    Route(
        "GET",
        "/api/v1/realtime/sse",
        get_sse,
        "Streams events (Server-Sent Events).",
        "Realtime",
        query=StreamQuery,
        answers={200: None},
        errors=(400, 403, 429),
        description="`Last-Event-ID` resumes. Described by the AsyncAPI document beside this one.",
        auth=False,
        sign_in=sign_in,
        limit="realtime",
        stream=True,
        produces="text/event-stream",
    ),
)
