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

from realtime.hub import Hub
from realtime.presence import Presence

logger = structlog.get_logger(__name__)

BATCH = 200  # sessions sent away together
PAUSE = 0.1  # seconds between two batches
RETURNS_A_SECOND = 2000  # how fast clients are asked to come back, to the other instances

_SO_ATTACH_FILTER, _BPF_RETURN = 26, 0x06  # Linux: asm-generic/socket.h, linux/bpf_common.h


class Drain:
    """From SIGTERM to the last session: ``grace`` seconds not ready but serving, then sessions go in batches."""

    def __init__(self, hub: Hub, presence: Presence, *, grace: float) -> None:
        self._hub = hub
        self._presence = presence
        self._grace = grace
        self.begun = False

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
