"""Stands between one instance and Redis, and loses some of what is published."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from faults.links import Link

_MESSAGES = (b"$7\r\nmessage\r\n", b"$8\r\npmessage\r\n")


class RedisProxy:
    """`drop` is the share of published messages that do not arrive, 0 to 1; `dropped` and `passed` count them."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self.port = 0
        self.drop = 0.0
        self.dropped = 0
        self.passed = 0
        self._target = port
        self._rng = rng
        self._links: set[Link] = set()

    def cut(self) -> None:
        """Resets every connection; new ones are taken."""
        for link in list(self._links):
            link.cut()

    def accept(self) -> asyncio.Protocol:
        """The near side of a new link."""
        link = Link(self._dial, self._links.discard, down=_Losing(self._keeps))
        self._links.add(link)
        return link.near

    async def _dial(self, link: Link, far: Callable[[], asyncio.Protocol]) -> None:
        await asyncio.get_running_loop().create_connection(far, "127.0.0.1", self._target)

    def _keeps(self) -> bool:
        if self.drop and self._rng.random() < self.drop:
            self.dropped += 1
            return False
        self.passed += 1
        return True


@asynccontextmanager
async def losing(redis_port: int, rng: random.Random) -> AsyncIterator[RedisProxy]:
    """A proxy before the Redis on that port of the loopback."""
    proxy = RedisProxy(redis_port, rng)
    server = await asyncio.get_running_loop().create_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()


class _Losing:
    """Takes Redis's answers apart (RESP 2 and 3), leaves out published messages, passes on all else as it came."""

    def __init__(self, keeps: Callable[[], bool]) -> None:
        self._keeps = keeps
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What to pass on: whole answers only, so that one that is left out leaves nothing behind."""
        held = self._held + data
        passed, at = list[bytes](), 0
        while (end := _end_of(held, at)) is not None:
            if not _is_message(held, at) or self._keeps():
                passed.append(held[at:end])
            at = end
        self._held = held[at:]
        return b"".join(passed)


def _is_message(data: bytes, at: int) -> bool:
    if data[at : at + 1] not in (b"*", b">"):
        return False
    return data.startswith(_MESSAGES, data.index(b"\r\n", at) + 2)


def _end_of(data: bytes, at: int) -> int | None:
    """Where the answer that begins at `at` ends; None where it is not all there."""
    waiting = 1
    while waiting:
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        kind, word, at = data[at : at + 1], data[at + 1 : line], line + 2
        waiting -= 1
        if kind in (b"$", b"=", b"!"):
            if int(word) >= 0:
                at += int(word) + 2
                if at > len(data):
                    return None
        elif kind in (b"*", b"~", b">"):
            waiting += max(0, int(word))
        elif kind in (b"%", b"|"):
            waiting += 2 * int(word) + (kind == b"|")  # what an attribute describes follows it
    return at
