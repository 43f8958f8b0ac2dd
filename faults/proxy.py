"""The load balancer between clients and instances: routes by `/readyz`, and cuts, stalls and switches on demand.

It works on connections, not on requests: a connection goes to one instance for its life, and nothing is ever repeated.
An instance whose `/readyz` is not 200 gets no new connection; where that is true of all, they are tried anyway, so that
clients hear from the servers themselves what is wrong.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from faults.links import Kind, Link, inside_of

LOOK_SECONDS = 0.2
ANSWER_SECONDS = 1.0
_BACKLOG = 1024


@dataclass(slots=True)
class Backend:
    """An instance as the balancer sees it. `port` is 0 while it does not run."""

    name: str
    port: int = 0
    ready: bool = False


class Proxy:
    """One address for all instances, and one that prefers each. Made by :func:`balancing`."""

    def __init__(self, backends: Iterable[Backend], rng: random.Random) -> None:
        self.backends = {backend.name: backend for backend in backends}
        self.ports: dict[str, int] = {}
        """By instance: a port whose connections go to that instance while it is ready, else to another."""
        self.port = 0
        """The port whose connections go to any."""
        self.links: set[Link] = set()
        self.cut_short: Counter[Kind] = Counter()
        """How many of each were cut in the middle of something."""
        self._rng = rng

    @property
    def url(self) -> str:
        """The balancer's address."""
        return f"http://127.0.0.1:{self.port}"

    def choose(self, kinds: Iterable[Kind] = Kind, backend: str | None = None) -> list[Link]:
        """Open links that carry one of these, to one instance or to any, in random order."""
        wanted = set(kinds)
        chosen = [
            link
            for link in self.links
            if link.is_open and link.kind in wanted and backend in (None, link.backend)
        ]
        chosen.sort(key=lambda link: link.port)  # a set's own order is not the seed's
        self._rng.shuffle(chosen)
        return chosen

    def link(self, port: int) -> Link | None:
        """The link of the client whose own port this is."""
        return next((link for link in self.links if link.port == port), None)

    def instance_of(self, port: int) -> str:
        """The name of the instance a client is connected to, by the client's own port; "" where it is to none."""
        found = self.link(port)
        return found.backend if found is not None else ""

    def cut(self, links: Iterable[Link]) -> int:
        """Resets these; how many."""
        cut = list(links)
        for link in cut:
            link.cut()
        return len(cut)

    def cut_inside(self, links: Iterable[Link]) -> None:
        """Cuts these in the middle of the next thing the server tells them; how many will be, `cut_short` counts."""
        for link in links:
            link.cut_inside(partial(self._inside, link))

    def cut_sending(self, links: Iterable[Link]) -> None:
        """Cuts these in the middle of the next thing they tell the server."""
        for link in links:
            link.cut_sending(partial(self._inside, link))

    def _inside(self, link: Link, data: bytes) -> int:
        at = inside_of(link.kind, data, self._rng)
        self.cut_short[link.kind] += bool(at)
        return at

    async def watch(self) -> None:
        """Asks each instance for its health, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for backend in self.backends.values():
                tasks.create_task(self._watch(backend))

    async def until_ready(self, name: str, seconds: float = 30.0) -> None:
        """Returns when new connections go to that instance. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not self.backends[name].ready:  # noqa: ASYNC110  (it is polled for anyway)
                await asyncio.sleep(LOOK_SECONDS / 4)

    def accept(self, preferred: str = "") -> asyncio.Protocol:
        """The near side of a new link."""
        link = Link(partial(self._dial, preferred), self.links.discard)
        self.links.add(link)
        return link.near

    async def _dial(self, preferred: str, link: Link, far: Callable[[], asyncio.Protocol]) -> None:
        running = [backend for backend in self.backends.values() if backend.port]
        self._rng.shuffle(running)
        running.sort(key=lambda backend: (not backend.ready, backend.name != preferred))
        for backend in running:
            try:
                await asyncio.get_running_loop().create_connection(far, "127.0.0.1", backend.port)
            except OSError:  # refused: nothing was sent, so another may have it
                continue
            link.backend = backend.name
            return
        raise OSError("no instance takes connections")

    async def _watch(self, backend: Backend) -> None:
        while True:
            port = backend.port
            ready = bool(port) and await _is_ready(port)
            if backend.port == port:
                backend.ready = ready
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def balancing(names: Iterable[str], rng: random.Random) -> AsyncIterator[Proxy]:
    """A balancer on free ports of the loopback, before instances of these names, none of which runs yet."""
    proxy = Proxy([Backend(name) for name in names], rng)
    servers = [await _listen(proxy, name) for name in ("", *proxy.backends)]
    proxy.port, *ports = (server.sockets[0].getsockname()[1] for server in servers)
    proxy.ports = dict(zip(proxy.backends, ports, strict=True))
    watching = asyncio.get_running_loop().create_task(proxy.watch())
    try:
        yield proxy
    finally:
        watching.cancel()
        for server in servers:
            server.close()
        proxy.cut(list(proxy.links))
        await asyncio.gather(watching, return_exceptions=True)


async def _listen(proxy: Proxy, preferred: str) -> asyncio.Server:
    accept = partial(proxy.accept, preferred)
    return await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0, backlog=_BACKLOG)


async def _is_ready(port: int) -> bool:
    """Whether `/readyz` says 200, in time. A connection of its own each time, as load balancers do."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: parley\r\nConnection: close\r\n\r\n")
            return (await reader.readline()).split()[1:2] == [b"200"]
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        if writer is not None:
            writer.transport.abort()
