"""The connection pool, and the transaction every write runs in."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from domain.errors import Unavailable
from domain.waiting import within

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    """What a store takes. A store never commits and never keeps it."""
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.pool.PoolConnectionProxy
    Pool = asyncpg.Pool

#: Errors that mean "PostgreSQL is away or shutting down", as opposed to "the statement is wrong".
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What a statement meets on a connection that was told it is ended (57P01) while it was idle, and has not ended yet.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    # A standby, or a primary that is kept from writing: another one will take over, or it will be set free.
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TargetServerAttributeNotMatched,
)

#: Errors after which the same transaction, run again, may succeed (PostgreSQL docs, 13.5).
RETRY = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


SILENCE_SECONDS = 1.0
"""For how long a database that did not answer is not asked again."""

RELEASE_SECONDS = 1.0


async def _keep(connection: object) -> None:
    """What is done to a connection that comes back to the pool."""


class Database:
    """PostgreSQL behind a bounded pool. An async context manager.

    Every statement has a time limit, so a cut-off or frozen database is noticed within ``statement_seconds``; who comes
    in the second after that is refused at once, instead of waiting as long to find out the same. Where a connection
    cannot be made in time, or a statement not be cancelled, that holds only if nobody else was answered meanwhile.
    Where the database is away, :class:`~domain.errors.Unavailable` is raised instead of a driver error.
    """

    def __init__(
        self, url: str, *, pool_size: int = 10, statement_seconds: float = 5.0, connect_seconds: float = 3.0
    ) -> None:
        self._url = url
        self._pool_size = pool_size
        self._statement_seconds = statement_seconds
        self._connect_seconds = connect_seconds
        self._pool: Pool | None = None
        self._silent_until = 0.0
        self._answered_at = 0.0

    async def __aenter__(self) -> Self:
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=self._pool_size,
            timeout=self._connect_seconds,
            connect=self._connect,
            # Of several hosts the primary; a standby's log is behind, and would look like one that lost its end.
            target_session_attrs=SessionAttribute.read_write,
            command_timeout=self._statement_seconds,
            max_inactive_connection_lifetime=300,
            # Nothing here changes a session's state, so the round trip that would undo it is saved.
            reset=_keep,
            server_settings={
                "application_name": "parley",
                "jit": "off",
                "timezone": "UTC",
                "idle_in_transaction_session_timeout": "15000",
                # Sooner than we give up, so that one that is well says itself what took too long.
                "statement_timeout": str(int(self._statement_seconds * 900)),
            },
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await within(5, pool.close())
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for reads, in autocommit: each statement sees everything committed before it began."""
        if self._pool is None:
            raise Unavailable("the database is closed")
        if asyncio.get_running_loop().time() < self._silent_until:
            raise Unavailable("the database does not answer")
        try:
            async with self._taken(self._pool) as connection, self._ended_with(connection):
                yield connection
                self._answered_at = asyncio.get_running_loop().time()
        except AWAY as error:
            raise Unavailable("the database is away") from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside one READ COMMITTED transaction: committed on leaving, rolled back on an exception."""
        async with self.connection() as connection, connection.transaction(), self._ended_with(connection):
            yield connection

    @asynccontextmanager
    async def _taken(self, pool: Pool) -> AsyncIterator[Connection]:
        connection = await pool.acquire(timeout=5)
        try:
            yield connection
        finally:
            began = asyncio.get_running_loop().time()
            try:
                # Takes time only where a statement was cancelled, which PostgreSQL has to confirm. Whoever cancelled it
                # waits for this too, and had a limit in mind.
                await pool.release(connection, timeout=RELEASE_SECONDS)
            except TimeoutError:
                self._note_silence(began)  # the connection is ended; what the caller did or raised stands

    @asynccontextmanager
    async def _ended_with(self, connection: Connection) -> AsyncIterator[None]:
        """Ends the connection at once where going on with it, or cancelling what it does, would take its time again."""
        try:
            yield
        except TimeoutError:
            self._note_silence()
            connection.terminate()
            raise
        except asyncpg.InternalClientError:
            connection.terminate()  # the driver has lost its place on it, and would give it out again
            raise

    async def _connect(self, *args: Any, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
        began = asyncio.get_running_loop().time()
        try:
            return await asyncpg.connect(*args, **options)
        except TimeoutError:
            self._note_silence(began)
            raise

    def _note_silence(self, since: float = math.inf) -> None:
        """Nothing was heard on one connection: that tells of the database, unless another was answered since."""
        if self._answered_at <= since:
            self._silent_until = asyncio.get_running_loop().time() + SILENCE_SECONDS
