"""WebSocket: ``GET /realtime/ws``."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from domain.errors import Malformed, TooManyConnections, Unavailable
from domain.identity import Identity
from handlers import keys
from handlers.commands import Connection
from handlers.endpoint import Call, Route
from handlers.outlet import Outlet
from handlers.realtime import Realtime, StreamQuery, begin, check_room, hello, parse_topics, sign_in
from handlers.schemas.common import NoBody
from realtime.closing import BINARY, PROTOCOL_ABUSE, TOO_MANY, Closing, draining
from realtime.codec import Wire, ws_close_frame
from realtime.events import Group
from realtime.places import Place

SUBPROTOCOL = "parley.v1"
MAX_FRAME = 64 * 1024
CLOSE_SECONDS = 5.0  # for the closing handshake
ENDS = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)


class WebSocketTransport(Outlet):
    """Writes frames that were encoded once: one call to the kernel a turn of the loop.

    aiohttp's own writer sends pongs and the close frame on the same connection; both write whole frames only.
    """

    wire: Wire = "ws"
    __slots__ = ("_heard", "occupied")

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._heard = time.monotonic()
        self.occupied = False
        """While a command is carried out no frame is read, so that silence would say nothing of the peer."""

    def heard(self) -> None:
        """Any frame counts as life."""
        self._heard = time.monotonic()

    def heard_at(self) -> float | None:
        return None if self.occupied else self._heard

    def close(self, closing: Closing) -> None:
        """Says goodbye. The peer has a while to read what came before, and to answer; then it is cut off.

        The frame is written here: aiohttp's ``close()`` from another task ends the connection without waiting for the
        peer, which a peer that is sending sees as a reset, without the code.
        """
        if self.closing is None:
            self.write(ws_close_frame(closing.code, closing.reason))
            self.closing = closing
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.abort)


def check_subprotocol(request: web.Request) -> None:
    """Offering ``parley.v1`` or nothing is fine. Raises Malformed where only others are offered."""
    offered = request.headers.getall("Sec-WebSocket-Protocol", [])
    names = [name.strip() for line in offered for name in line.split(",")]
    if names and SUBPROTOCOL not in names:
        raise Malformed(f"this server speaks {SUBPROTOCOL}", code="unknown_subprotocol")


@dataclass(frozen=True, slots=True)
class Opening:
    """What a connection was opened with."""

    identity: Identity
    presented: str | None
    place: Place
    groups: frozenset[Group] | None


class SessionSocket(web.WebSocketResponse[bool]):
    """A WebSocket that serves its session as its body.

    The handler only upgrades. The session runs in :meth:`write_eof`, which aiohttp awaits once the handler and every
    middleware have returned: none of their frames, nor the parsed query, stays in memory for the connection's life,
    which is a sixth of what an idle connection costs (docs/adr/0006). Its request is logged when it is upgraded.
    """

    def __init__(self, opening: Opening) -> None:
        super().__init__(
            protocols=(SUBPROTOCOL,),
            autoping=False,
            autoclose=False,
            compress=False,
            max_msg_size=MAX_FRAME + 1,
            timeout=CLOSE_SECONDS,
            decode_text=False,
        )
        self._opening: Opening | None = opening
        self._request: web.Request | None = None
        self._outlet: WebSocketTransport | None = None

    async def upgrade(self, request: web.Request) -> None:
        """Sends the 101. Raises Malformed where the request is no upgrade."""
        if not self.can_prepare(request):
            raise Malformed("this is a WebSocket: send an upgrade", code="upgrade_expected")
        self._request = request
        await self.prepare(request)

    async def write_eof(self) -> None:  # type: ignore[override]  # as WebSocketResponse itself narrows it
        request, opening = self._request, self._opening
        self._request = self._opening = None
        if request is not None and opening is not None and request.transport is not None:
            realtime = request.app[keys.REALTIME]
            self._outlet = transport = WebSocketTransport(request.transport)
            connection = await self._open(request.app, opening, transport)
            request.clear()
            self.headers.clear()
            del request, opening
            if connection is not None:
                await self._serve(realtime, transport, connection)
        await super().write_eof()

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        """As aiohttp closes, which it does by itself for frames that break the protocol; but nobody is told twice."""
        if self._outlet is not None and self._outlet.closing is not None:
            self._outlet.finish()
        return await super().close(code=code, message=message, drain=drain)

    async def _open(
        self, app: web.Application, opening: Opening, transport: WebSocketTransport
    ) -> Connection | None:
        """Opens the session and greets. None where it is closed again at once."""
        realtime, identity = app[keys.REALTIME], opening.identity
        try:
            view, place = await begin(realtime, identity, opening.presented, opening.place)
            check_room(realtime, view)
        except TooManyConnections:
            await self.close(code=TOO_MANY.code, message=TOO_MANY.reason.encode())
            return None
        except Unavailable:
            away = draining(1000)
            await self.close(code=away.code, message=away.reason.encode())
            return None
        session = realtime.hub.open(
            view,
            transport,
            place,
            sign_in=identity.session,
            expires_at=identity.expires_at,
            groups=opening.groups,
        )
        session.greet(hello(realtime, identity, place.presented), place.resync)
        session.start()
        return Connection(app, session, identity)

    async def _serve(self, realtime: Realtime, transport: WebSocketTransport, connection: Connection) -> None:
        """Takes the peer's frames, in order, until either side closes."""
        session = connection.session
        realtime.metrics.connection_opened("websocket")
        try:
            while True:
                message = await self.receive()
                transport.heard()
                if message.type in ENDS:
                    if isinstance(message.data, Exception):
                        # A protocol error is kept by the reader it was raised in: with its traceback it would hold
                        # itself and this connection until the collector's next pass over everything.
                        message.data.__traceback__ = None
                    break
                if transport.closing is not None:
                    continue  # what is sent behind the end takes no effect
                if message.type is WSMsgType.TEXT:
                    transport.occupied = True
                    behaved = await connection.take(message.data)
                    transport.occupied = False
                    transport.heard()  # what came meanwhile waits to be read
                    if not behaved:
                        session.flush()  # the replies
                        session.close(PROTOCOL_ABUSE)
                elif message.type is WSMsgType.PING:
                    await self.pong(message.data)
                elif message.type is WSMsgType.BINARY:
                    session.flush()
                    session.close(BINARY)
        except (ConnectionError, RuntimeError):
            pass  # the peer went away while it was being answered
        finally:
            session.detach()
            realtime.metrics.connection_closed(
                "websocket", transport.closing.name if transport.closing else "gone"
            )
            if transport.closing is not None:
                transport.finish()  # both have said goodbye


async def get_websocket(call: Call[NoBody, StreamQuery]) -> web.StreamResponse:
    """Upgrades. Whatever can be wrong with the request is said before that."""
    request, identity = call.request, call.identity
    check_subprotocol(request)
    presented, groups = call.query.cursor or None, parse_topics(call.query.topics)
    _, place = await begin(request.app[keys.REALTIME], identity, presented)
    ws = SessionSocket(Opening(identity, presented, place, groups))
    await ws.upgrade(request)
    return ws


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
