"""A TCP relay that a test can freeze or cut: a network that fails between two parts that are well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit, urlunsplit

Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Relay:
    """Passes bytes on, in both directions, while it is open."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._taking = asyncio.Event()
        self._taking.set()
        self._ending = asyncio.Event()
        self._ending.set()
        self.port = 0
        self.connections = 0
        """How many have been accepted so far."""

    @classmethod
    @asynccontextmanager
    async def to(cls, dial: Dial) -> AsyncIterator[Relay]:
        relay = cls(dial)
        server = await asyncio.start_server(relay._accepted, "127.0.0.1", 0)
        relay.port = server.sockets[0].getsockname()[1]
        try:
            yield relay
        finally:
            server.close()
            await relay.cut()
            await server.wait_closed()

    def freeze(self) -> None:
        """Connections stay open, and not one byte passes."""
        self._open.clear()

    def thaw(self) -> None:
        """Whatever waited passes."""
        self._open.set()

    def hold_new(self) -> None:
        """From now on new connections are accepted and not a byte of theirs passes; those there are work on."""
        self._taking.clear()

    def hold_ends(self) -> None:
        """From now on bytes pass, and nobody hears that the other side has hung up."""
        self._ending.clear()

    async def cut(self, *, refuse: bool = False) -> None:
        """Ends every connection, and with ``refuse`` new ones too."""
        self._refusing = refuse
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def accept(self) -> None:
        """Takes new connections again."""
        self._refusing = False

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            if not self._refusing:
                await self._relay(reader, writer)
        except (asyncio.CancelledError, OSError):
            pass  # the end of a connection, which is all there is to it
        finally:
            self._tasks.discard(task)
            _reset(writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._taking.wait()
        far_reader, far_writer = await self._dial()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass(reader, far_writer))
                tasks.create_task(self._pass(far_reader, writer))
        except* (OSError, EOFError):
            pass
        finally:
            _reset(far_writer)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        await self._ending.wait()
        raise EOFError


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.transport.abort()


@asynccontextmanager
async def database_relay(url: str) -> AsyncIterator[tuple[Relay, str]]:
    """A relay before a database, and the URL that leads through it."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host", [""])[0]
    if folder:
        port = parse_qs(parts.query).get("port", ["5432"])[0]
        path = f"{folder}/.s.PGSQL.{port}"
        dial: Dial = lambda: asyncio.open_unix_connection(path)  # noqa: E731
    else:
        dial = lambda: asyncio.open_connection(parts.hostname, parts.port)  # noqa: E731
    async with Relay.to(dial) as relay:
        user = parts.username or "postgres"
        netloc = f"{user}@127.0.0.1:{relay.port}"
        yield relay, urlunsplit((parts.scheme, netloc, parts.path, "", ""))


@asynccontextmanager
async def server_relay(url: str) -> AsyncIterator[tuple[Relay, str]]:
    """A relay before an instance, and its URL."""
    parts = urlsplit(url)
    async with Relay.to(lambda: asyncio.open_connection(parts.hostname, parts.port)) as relay:
        yield relay, f"http://127.0.0.1:{relay.port}"
