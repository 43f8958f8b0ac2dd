"""Fills a tenant with made-up history, all or nothing: for trying Parley out at a size, and for measuring it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

from domain.ids import DEFAULT_TENANT, TenantId, new_id
from services import retention
from services.seed_history import SeedHistory, Stretch, username
from services.seed_plan import SeedPlan, SeedRefused, SeedSize
from storage import seeding, tenants
from storage.database import Connection, Database
from storage.retention import PARTITION_EVENTS

AT_ONCE = 10_000
"""Messages that are rendered, and then copied, at once."""
SPAN = timedelta(hours=24)
"""How long ago it all began, unless the log is younger."""

Progress = Callable[[str, int, int], None]
"""Told what is at work, how many rows are through, and of how many."""


@dataclass(frozen=True, slots=True)
class Seeded:
    """What there is now. Users are called from ``first_user`` to ``last_user``."""

    conversations: int
    memberships: int
    messages: int
    log_rows: int
    first_position: int
    first_user: str
    last_user: str
    rows: int
    """All that was written, as the progress counts."""


def rows_of(plan: SeedPlan) -> int:
    """All rows that a plan makes; each member is two."""
    size = plan.size
    return size.users + size.conversations + 2 * plan.memberships + size.messages + size.log_rows


class Seeding:
    """:meth:`run` is one transaction: who interrupts it, or cuts its connection, finds everything as it was.

    :meth:`settle` comes after it, when all is stored.
    """

    def __init__(
        self, database: Database, *, progress: Progress, partition_events: int = PARTITION_EVENTS
    ) -> None:
        self._database = database
        self._progress = progress
        self._partition_events = partition_events
        self._done = self._total = 0

    async def look(self) -> None:
        """Raises SeedRefused where instances are at work. For a database of any schema; nothing in it is changed."""
        async with self._database.connection() as connection:
            await _refuse_beside_instances(connection)

    async def run(self, slug: str | None, size: SeedSize, number: int, password_hash: str) -> Seeded:
        """Makes up everything that ``size`` says for the tenant of that slug, which is made where there is none.

        The same ``number`` into a database in the same state makes the same people, ids and texts; times end now.
        It holds up every writer and every start of an instance, so it raises SeedRefused where instances are at work;
        where the tenant has accounts, since made-up people are not mixed with others; and for a size that does not fit.
        Raises Unavailable.
        """
        plan = await asyncio.to_thread(SeedPlan, size, Random(f"parley {number}"))  # noqa: S311  # no secrets
        self._total = rows_of(plan)
        async with self._database.transaction() as connection:
            head = await seeding.hold(connection)
            await _refuse_beside_instances(connection)
            tenant = await _tenant(connection, slug)
            if await seeding.has_users(connection, tenant):
                raise SeedRefused("there are accounts already; name a tenant of its own with --tenant")
            begins, ends = _span(await seeding.newest_moment(connection, head))
            rng = Random(f"parley {number} {slug} {head}")  # noqa: S311
            history = await asyncio.to_thread(SeedHistory, plan, tenant, rng, head, begins, ends)
            await self._people(connection, history, password_hash)
            await self._log(connection, history)
        return Seeded(
            len(plan.chats),
            plan.memberships,
            size.messages,
            size.log_rows,
            head + 1,
            username(0),
            username(size.users - 1),
            self._done,
        )

    async def settle(self) -> None:
        """Statistics, and pages marked as visible to all, so that the first hours are not spent on that.

        Where it does not come to its end, PostgreSQL's own autovacuum does the same in its time. Raises Unavailable.
        """
        self._progress("statistics", self._done, self._total)
        async with self._database.connection() as connection:
            await seeding.vacuum(connection)

    async def _people(self, connection: Connection, history: SeedHistory, password_hash: str) -> None:
        plan = history.plan
        for table, records, count in (
            (seeding.USERS, history.user_records(password_hash), plan.size.users),
            (seeding.CONVERSATIONS, history.conversation_records(), len(plan.chats)),
            (seeding.MEMBERS, history.member_records(), plan.memberships),
            (seeding.WINDOWS, history.window_records(), plan.memberships),
        ):
            self._progress("people", self._done, self._total)
            await seeding.copy_records(connection, table, records)
            self._done += count

    async def _log(self, connection: Connection, history: SeedHistory) -> None:
        loader = seeding.LogLoader(connection, self._partition_events)
        await loader.begin(history.head)
        stretches = history.stretches(AT_ONCE)
        loop = asyncio.get_running_loop()
        coming = loop.run_in_executor(None, _next, stretches)
        try:
            while (stretch := await coming) is not None:
                # The next rows are made while these are on their way.
                coming = loop.run_in_executor(None, _next, stretches)
                self._progress("messages and log", self._done, self._total)
                await seeding.copy_messages(connection, stretch.messages)
                await loader.append(stretch.first, stretch.events)
                self._done += len(stretch.messages) + len(stretch.events)
        finally:
            coming.cancel()
        await seeding.copy_records(connection, seeding.REACTIONS, history.reaction_records())
        self._progress("indexes", self._done, self._total)
        await loader.finish(history.last, retention.AHEAD)
        await seeding.finish(connection, history.last, history.marks)


async def _refuse_beside_instances(connection: Connection) -> None:
    if await seeding.count_clients(connection):
        raise SeedRefused("instances are at work on this database; stop them first")


def _next(stretches: Iterator[Stretch]) -> Stretch | None:
    return next(stretches, None)


def _span(newest: datetime | None) -> tuple[datetime, datetime]:
    """From when to when it all happened: never before what is in the log already."""
    ends = datetime.now(UTC)
    begins = ends - SPAN
    if newest is not None:
        begins = max(begins, newest + timedelta(microseconds=1))
    return begins, max(ends, begins + timedelta(seconds=1))


async def _tenant(connection: Connection, slug: str | None) -> TenantId:
    if slug is None:
        return DEFAULT_TENANT
    known = (await tenants.find_tenants(connection, [slug])).get(slug)
    if known is None:
        known = TenantId(new_id())
        await tenants.insert_tenant(connection, known, slug, slug)
    return known
