"""WebSocket: ``GET /realtime/ws``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine

from aiohttp import WSMsgType, web

from domain.errors import Malformed, TooManyConnections
from handlers import keys
from handlers.commands import Connection
from handlers.endpoint import Call, Route
from handlers.realtime import StreamQuery, begin, check_room, hello, parse_topics, sign_in
from handlers.schemas.common import NoBody
from realtime.closing import PROTOCOL_ABUSE, TOO_MANY, Closing
from realtime.codec import Wire

SUBPROTOCOL = "parley.v1"
MAX_FRAME = 64 * 1024
CLOSE_SECONDS = 5.0  # for the closing handshake


class WebSocketTransport:
    """Writes frames that were encoded once straight to the connection: one call to the kernel a turn of the loop.

    aiohttp's own writer sends pongs and the close frame on the same connection; both write whole frames only.
    """

    wire: Wire = "ws"
    __slots__ = ("_heard", "_spawn", "_transport", "_ws", "closed", "closing")

    def __init__(
        self,
        ws: web.WebSocketResponse[bool],
        transport: asyncio.Transport,
        spawn: Callable[[Coroutine[object, object, None]], None],
    ) -> None:
        self._ws = ws
        self._transport = transport
        self._spawn = spawn
        self._heard = time.monotonic()
        self.closing: Closing | None = None
        self.closed: asyncio.Event | None = None

    def write(self, data: bytes) -> None:
        if self.closing is None and not self._transport.is_closing():
            self._transport.write(data)

    def buffered(self) -> int:
        return self._transport.get_write_buffer_size()

    def heard(self) -> None:
        """Any frame counts as life."""
        self._heard = time.monotonic()

    def heard_at(self) -> float | None:
        return self._heard

    def close(self, closing: Closing) -> None:
        if self.closing is None:
            self.closing = closing
            self.closed = asyncio.Event()
            self._spawn(self._close(closing))

    async def _close(self, closing: Closing) -> None:
        """The closing handshake; a peer that does not take part is cut off, and what waits for it is dropped."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._ws.close(code=closing.code, message=closing.reason.encode())
        except TimeoutError:
            pass
        finally:
            if not self._transport.is_closing():
                self._transport.abort()
            assert self.closed is not None
            self.closed.set()


def check_subprotocol(request: web.Request) -> None:
    """Offering ``parley.v1`` or nothing is fine. Raises Malformed where only others are offered."""
    offered = request.headers.getall("Sec-WebSocket-Protocol", [])
    names = [name.strip() for line in offered for name in line.split(",")]
    if names and SUBPROTOCOL not in names:
        raise Malformed(f"this server speaks {SUBPROTOCOL}", code="unknown_subprotocol")


async def get_websocket(call: Call[NoBody, StreamQuery]) -> web.StreamResponse:
    """Upgrades, and serves the session until it ends."""
    request, identity = call.request, call.identity
    realtime = request.app[keys.REALTIME]
    check_subprotocol(request)
    groups = parse_topics(call.query.topics)
    presented = call.query.cursor or None
    await begin(realtime, identity, presented)  # what can fail, fails before the upgrade
    ws: web.WebSocketResponse[bool] = web.WebSocketResponse(
        protocols=(SUBPROTOCOL,),
        autoping=False,
        compress=False,
        max_msg_size=MAX_FRAME + 1,
        timeout=CLOSE_SECONDS,
        decode_text=False,
    )
    ws.headers.update(request.get(keys.ANSWER_HEADERS, {}))
    if not ws.can_prepare(request):
        raise Malformed("this is a WebSocket: send an upgrade", code="upgrade_expected")
    await ws.prepare(request)
    if request.transport is None:
        return ws
    transport = WebSocketTransport(ws, request.transport, realtime.spawn)
    view, place = await begin(realtime, identity, presented)
    try:
        check_room(realtime, view)
    except TooManyConnections:
        await ws.close(code=TOO_MANY.code, message=TOO_MANY.reason.encode())
        return ws
    session = realtime.hub.open(
        view, transport, place, sign_in=identity.session, expires_at=identity.expires_at, groups=groups
    )
    realtime.metrics.connection_opened("ws")
    try:
        session.greet(hello(realtime, identity, place.presented), place.resync)
        session.start()
        await _serve(ws, transport, Connection(request.app, session, identity))
    finally:
        session.detach()
        realtime.metrics.connection_closed("ws", transport.closing.reason if transport.closing else "gone")
        if transport.closed is not None:
            await transport.closed.wait()
    return ws


async def _serve(
    ws: web.WebSocketResponse[bool], transport: WebSocketTransport, connection: Connection
) -> None:
    """Takes the peer's frames, in order, until either side closes."""
    try:
        while True:
            message = await ws.receive()
            transport.heard()
            if message.type is WSMsgType.TEXT:
                if not await connection.take(message.data):
                    connection.session.close(PROTOCOL_ABUSE)
                    return
            elif message.type is WSMsgType.PING:
                await ws.pong(message.data)
            elif message.type is WSMsgType.PONG:
                pass
            elif message.type is WSMsgType.BINARY:
                connection.session.close(Closing(1003, "text frames only"))
                return
            else:
                return
    except (ConnectionError, RuntimeError):  # the peer went away while it was being answered
        return


ROUTES = (
    Route(
        "GET",
        "/api/v1/realtime/ws",
        get_websocket,
        "Opens a WebSocket (subprotocol `parley.v1`).",
        "Realtime",
        query=StreamQuery,
        answers={101: None},
        errors=(400, 403, 429),
        description="The frames are described by the AsyncAPI document beside this one.",
        auth=False,
        sign_in=sign_in,
        limit="realtime",
        stream=True,
    ),
)
