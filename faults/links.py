"""One connection through a proxy: bytes one way and the other, and what may be done to it on their way."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol, cast

DIAL_SECONDS = 10.0


class Kind(StrEnum):
    """What a connection carries at the moment, by the first line of its last request."""

    UNKNOWN = "unknown"
    WEBSOCKET = "websocket"
    SSE = "sse"
    POLL = "poll"
    SEND = "send"
    REST = "rest"


_KINDS = (
    (b"GET /api/v1/realtime/ws", Kind.WEBSOCKET),
    (b"GET /api/v1/realtime/sse", Kind.SSE),
    (b"GET /api/v1/realtime/poll", Kind.POLL),
)
_METHODS = (b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ")


def kind_of(request: bytes) -> Kind | None:
    """What the request that these bytes begin with is about; None where no request begins here."""
    if not request.startswith(_METHODS):
        return None
    for start, kind in _KINDS:
        if request.startswith(start):
            return kind
    line = request[: request.find(b"\r\n")]
    return Kind.SEND if line.startswith(b"POST ") and line.endswith(b"/messages HTTP/1.1") else Kind.REST


class Filter(Protocol):
    """What becomes of the bytes of one direction of one connection."""

    def feed(self, data: bytes) -> bytes:
        """What to pass on of these, and of what was held back before."""


class Dial(Protocol):
    """Finds the far end of a new link: connects `far` somewhere. Raises OSError where there is nothing to reach."""

    async def __call__(self, link: Link, far: Callable[[], asyncio.Protocol]) -> None: ...


class Link:
    """A client's connection and the one it was given to the server; either ending ends the other.

    `backend` is the name of the instance at the far end, "" until it is known.
    """

    def __init__(self, dial: Dial, ended: Callable[[Link], None], *, down: Filter | None = None) -> None:
        self.backend = ""
        self.kind = Kind.UNKNOWN
        self.port = 0
        """The client's own port, by which a client finds its link."""
        self.near = _Side(self, self._up)
        self.far = _Side(self, self._down)
        self.near.peer, self.far.peer = self.far, self.near
        self._dial = dial
        self._ended = ended
        self._filter = down
        self._cut: Callable[[bytes], int] | None = None
        self._cut_up: Callable[[bytes], int] | None = None
        self._early = b""
        self._through = False
        self._halted = False
        self._dialling: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether bytes can pass."""
        return self.near.is_open and self.far.is_open

    def cut(self) -> None:
        """Ends both connections at once, by a reset; what was under way is gone."""
        self.near.abort()
        self.far.abort()

    def cut_inside(self, choose: Callable[[bytes], int]) -> None:
        """Cuts in the middle of the next bytes from the server: `choose` says how many of them still pass.

        The client gets exactly these, then the end of the connection. 0 lets all pass, and the next be cut.
        """
        self._cut = choose

    def cut_sending(self, choose: Callable[[bytes], int]) -> None:
        """The same in the middle of the next bytes from the client."""
        self._cut_up = choose

    def stall(self) -> None:
        """From now on not one byte passes, in either direction, and nobody is told."""
        self._halted = True
        self.near.hold()
        self.far.hold()

    def stop_reading(self) -> None:
        """Takes nothing more from the server, as a client that stopped reading; what the client sends passes."""
        self.far.hold()

    def resume(self) -> None:
        """Takes back :meth:`stall` and :meth:`stop_reading`; what waited passes."""
        self._halted = False
        self.near.release()
        self.far.release()

    def opened(self) -> None:
        """The client is there: connects the far side."""
        self.near.hold()
        self.port = self.near.client_port()
        self._dialling = asyncio.get_running_loop().create_task(self._connect())

    def lost(self, side: _Side, error: Exception | None) -> None:
        """One of the two has ended."""
        if self._dialling is not None:
            self._dialling.cancel()
        if error is None:
            side.peer.close()
        else:
            side.peer.abort()
        self._ended(self)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                await self._dial(self, lambda: self.far)
        except (OSError, TimeoutError):
            self.near.abort()
        else:
            if not self.near.is_open:
                self.far.abort()
                return
            self._through = True
            self.far.write(self._early)
            if not self._halted:
                self.near.release()

    def _up(self, data: bytes) -> None:
        if self.kind is not Kind.WEBSOCKET and (kind := kind_of(data)) is not None:
            self.kind = kind
        if not self._through:
            self._early += data
        elif self._cut_up is not None and (passing := self._cut_up(data)):
            self._cut_up = None
            self.far.write(data[:passing])
            self.far.close()
            self.near.abort()
        else:
            self.far.write(data)

    def _down(self, data: bytes) -> None:
        if self._filter is not None:
            data = self._filter.feed(data)
        if self._cut is not None and (passing := self._cut(data)):
            self._cut = None
            self.near.write(data[:passing])
            self.near.close()
            self.far.abort()
        elif data:
            self.near.write(data)


class _Side(asyncio.Protocol):
    """One of a link's two connections. Held, its bytes stay with the kernel, and then with whoever sends them."""

    peer: _Side

    def __init__(self, link: Link, received: Callable[[bytes], None]) -> None:
        self._link = link
        self.data_received = received  # type: ignore[method-assign, assignment]  # one call less for every chunk
        self._transport: asyncio.Transport | None = None
        self._held = False
        self._full = False

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def client_port(self) -> int:
        assert self._transport is not None
        return int(self._transport.get_extra_info("peername")[1])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._link.near is self:
            self._link.opened()
        asyncio.get_running_loop().call_soon(self._settle)  # uvloop begins to read after this, held or not

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._link.lost(self, exc)

    def pause_writing(self) -> None:
        """This side takes no more: its peer is not read meanwhile."""
        self._full = True
        self.peer._settle()

    def resume_writing(self) -> None:
        self._full = False
        self.peer._settle()

    def hold(self) -> None:
        self._held = True
        self._settle()

    def release(self) -> None:
        self._held = False
        self._settle()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _settle(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        with contextlib.suppress(
            RuntimeError
        ):  # uvloop: it has ended a moment ago, and we are about to be told
            if self._held or self.peer._full:
                if self._transport.is_reading():
                    self._transport.pause_reading()
            elif not self._transport.is_reading():
                self._transport.resume_reading()


def inside_of(kind: Kind, data: bytes, rng: random.Random) -> int:
    """A place in these bytes that is not the end of a frame, of a block or of an answer; 0 where there is none."""
    ends = _ends(kind, data)
    inside = [at for at in range(1, len(data)) if at not in ends]
    return rng.choice(inside) if inside else 0


def _ends(kind: Kind, data: bytes) -> set[int]:
    """Where something is whole in these bytes, which begin at such a place."""
    if kind is Kind.SSE:
        blocks = [at + 2 for at in range(len(data) - 1) if data[at : at + 2] == b"\n\n"]
        return {end + more for end in blocks for more in range(3)}  # a chunk of HTTP ends with two bytes more
    if kind is not Kind.WEBSOCKET:
        return {len(data)}  # an answer is whole when all of it is there
    ends, at = set[int](), 0
    while at + 2 <= len(data):
        short = data[at + 1] & 0x7F
        extra = {126: 2, 127: 8}.get(short, 0)
        size = int.from_bytes(data[at + 2 : at + 2 + extra]) if extra else short
        at += 2 + extra + size
        ends.add(at)
    return ends
