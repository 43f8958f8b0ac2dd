"""Going away without a stampede (I10)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import random
import socket
import struct
from collections.abc import Iterator, Sequence

import structlog
from aiohttp import web

from handlers.reading import BODY_SECONDS
from realtime.hub import Hub
from realtime.presence import Presence

logger = structlog.get_logger(__name__)

BATCH = 200  # sessions sent away together
PAUSE = 0.1  # seconds between two batches
RETURNS_A_SECOND = 2000  # how fast clients are asked to come back, to the other instances

_ANSWER_SECONDS = 15.0  # a body that came at the last moment is still worked on: as long as a send may take

_SO_ATTACH_FILTER, _BPF_RETURN = 26, 0x06  # Linux: asm-generic/socket.h, linux/bpf_common.h


class Ongoing:
    """The requests of one instance between their headers and the end of their handler."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Holds :meth:`ended` while the block runs."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Holds :meth:`ended` until :meth:`leave` is called: for a request that is not served by one task."""
        self._count += 1
        self._none.clear()

    def leave(self) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    async def ended(self) -> None:
        """Returns when there is none."""
        await self._none.wait()


class Drain:
    """From SIGTERM to the last answer: ``grace`` seconds not ready but serving, then sessions go in batches."""

    def __init__(self, hub: Hub, presence: Presence, *, grace: float) -> None:
        self._hub = hub
        self._presence = presence
        self._grace = grace
        self.begun = False
        self.ongoing = Ongoing()

    async def announce(self) -> None:
        """Not ready from now on; returns when balancers have had the grace time to notice."""
        self.begun = True
        self._presence.hold()
        logger.info("drain.begun", sessions=len(self._hub), grace_seconds=self._grace)
        await asyncio.sleep(self._grace)

    async def send_away(self) -> None:
        """Ends every session, some at a time, each told when to come back. Call it when nothing new is accepted."""
        spread_ms = max(1000, len(self._hub) * 1000 // RETURNS_A_SECOND)
        await self._hub.drain(
            batch=BATCH,
            pause=PAUSE,
            reconnect_after_ms=lambda: random.randint(100, spread_ms),  # noqa: S311  # spreads load, no secret
        )

    async def answer_the_last(self) -> None:
        """Returns when all requests whose headers had arrived are answered, at the latest when no body is waited for.

        Call it before the server shuts its connections: from then on aiohttp drops what they bring, so that a body
        still under way would never be whole, and its request never answered.
        """
        try:
            async with asyncio.timeout(BODY_SECONDS + _ANSWER_SECONDS):
                await self.ongoing.ended()
        except TimeoutError:
            logger.warning("drain.unanswered")


async def stop_listening(runner: web.AppRunner, sockets: Sequence[socket.socket]) -> None:
    """Takes no new connection from `sockets`, and serves every one that reached them before.

    To close a listening socket resets what the kernel has queued on it, requests included: behind a proxy that
    was a lost POST in 3 of 20 rolling deploys at 400 a second. So a second handle keeps the queue while the loop
    lets go of the first; then nothing more is let into the queue, it is emptied, and closed. Who connects later is
    refused, having sent nothing.
    """
    assert runner.server is not None
    handles = [each.dup() for each in sockets]
    for site in list(runner.sites):
        await site.stop()
    queued: list[socket.socket] = []
    for handle in handles:
        with handle:
            _shut_the_gate(handle)
            queued.extend(_queued(handle))
    for connection in queued:
        with contextlib.suppress(OSError):  # it went away meanwhile
            await asyncio.get_running_loop().connect_accepted_socket(runner.server, connection)


def _shut_the_gate(listening: socket.socket) -> None:
    """Has Linux ignore who knocks, by a packet filter that drops everything (socket(7), SO_ATTACH_FILTER).

    They knock again a second later, and find the socket closed. Without this, who came between the last look into
    the queue and its closing was reset: on a busy machine, where that takes milliseconds, still one drain in a few.
    """
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(drop_all))
    with contextlib.suppress(OSError):  # another system: the gap stays
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _queued(listening: socket.socket) -> Iterator[socket.socket]:
    listening.setblocking(False)
    while True:
        try:
            connection, _ = listening.accept()
        except ConnectionAbortedError:
            continue
        except OSError:  # none left (EAGAIN), or no descriptor for one more
            return
        connection.setblocking(False)
        yield connection
