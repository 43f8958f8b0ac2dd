"""One write: state and its events in one transaction, told to every instance after the commit (I1)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import aiojobs

from domain.errors import Unavailable
from domain.log import EventDraft, StoredEvent
from storage import log
from storage.database import AWAY, RETRY, Connection, Database

T = TypeVar("T")
ATTEMPTS = 4


class Publisher(Protocol):
    """Tells of events that have just been committed. Never raises, never waits: what it loses, readers find."""

    def committed(self, events: Sequence[StoredEvent]) -> None: ...


class Transaction:
    """What the work of one write is given.

    Lock order, the same in every transaction: conversations by id (``FOR NO KEY UPDATE``), then whatever hangs on them,
    and the log head last. :meth:`append` takes the head, so it comes once, after the last statement that may wait.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.events: list[StoredEvent] = []

    async def append(self, *drafts: EventDraft) -> list[StoredEvent]:
        """Appends the events of this write, in this order, and returns them with their positions."""
        assert not self.events, "append once, at the end: the head is the last lock"
        self.events = await log.append(self.connection, drafts)
        return self.events


class UnitOfWork:
    """Runs writes. Each is shielded as a whole: a client that goes away does not cut it in half."""

    def __init__(self, database: Database, publisher: Publisher, jobs: aiojobs.Scheduler) -> None:
        self._database = database
        self._publisher = publisher
        self._jobs = jobs

    async def run(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs ``work`` in one transaction, commits, and tells of its events.

        ``work`` may run several times (serialization failure, deadlock), so it must have no effect outside its
        transaction. Raises what ``work`` raises, after a rollback; :class:`Unavailable` where the database is away,
        which says nothing about whether the commit happened.
        """
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        unit = self._attempt(work, result)
        try:
            await self._jobs.spawn(unit)
        except RuntimeError as error:  # closed
            unit.close()
            raise Unavailable("this instance is going away") from error
        try:
            return await result
        finally:
            # What is raised holds this frame by its traceback, and is held by the result: with that gone, a refusal
            # is freed at once, not when the collector looks at everything (the soak saw requests pile up).
            del result

    async def _attempt(self, work: Callable[[Transaction], Awaitable[T]], result: asyncio.Future[T]) -> None:
        try:
            value = await self._attempts(work)
        except BaseException as error:
            if not result.done():
                result.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            if not result.done():
                result.set_result(value)
        finally:
            del result

    async def _attempts(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        for remaining in reversed(range(ATTEMPTS)):
            try:
                async with self._database.transaction() as connection:
                    transaction = Transaction(connection)
                    value = await work(transaction)
            except RETRY as error:
                if not remaining:
                    raise Unavailable("too many writers at once; try again") from error
                continue
            except AWAY as error:
                raise Unavailable("the database is away") from error
            if transaction.events:
                self._publisher.committed(transaction.events)
            return value
        raise AssertionError("unreachable")
