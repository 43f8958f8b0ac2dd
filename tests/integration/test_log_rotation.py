"""Partitions of the log come and go while it is written and read, and nobody waits for them.

What waits is not told by a clock, which a busy machine would disturb. Each change of partitions is held open in the
middle; then a writer and a reader, whom PostgreSQL fails the moment they would have to wait for a lock, do their work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from domain.ids import DEFAULT_TENANT, UserId, new_id
from domain.log import EventDraft, Window, inbox
from services.retention import Retention
from storage import log, retention
from storage.database import Connection, Database
from storage.retention import Partition

SIZE = 50
_READER = inbox(UserId(new_id()))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Its log has two partitions of 50 positions, the first one full and past its time."""
    async with Database(database_url) as made:
        async with made.connection() as connection:
            for partition in await retention.list_partitions(connection):
                await connection.execute(f"DROP TABLE {partition.name}")
            for first in (0, SIZE):
                await retention.add_partition(connection, first, SIZE)
        await append(made, SIZE + 4)
        async with made.connection() as connection:
            await connection.execute("UPDATE log_heads SET floor = $1", SIZE - 1)
        yield made


@asynccontextmanager
async def impatient(database: Database) -> AsyncIterator[Connection]:
    """A transaction that fails at once where it would wait for a lock: the time limit is the shortest there is."""
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL lock_timeout = '1ms'")
        yield connection


async def append(database: Database, count: int) -> int:
    """Appends to the log as every writer does; the position of the last event."""
    async with impatient(database) as connection:
        events = await log.append(
            connection, [EventDraft(DEFAULT_TENANT, _READER, "x", b"{}") for _ in range(count)]
        )
    return events[-1].position


async def read(database: Database, after: int) -> list[int]:
    """What a replay reads, and what an instance does."""
    async with impatient(database) as connection:
        head = (await log.read_head(connection)).position
        replayed = await log.read_windows(connection, [Window(_READER, 0)], after, head, 1000)
        tail = await log.read_range(connection, after, head, 1000)
    assert replayed == tail
    return [event.position for event in tail]


async def nobody_waits(database: Database, after: int = SIZE) -> None:
    """A writer and a reader get their work done."""
    last = await append(database, 3)
    assert await read(database, after) == list(range(after + 1, last + 1))


async def partitions(database: Database) -> list[Partition]:
    async with database.connection() as connection:
        return await retention.list_partitions(connection)


async def waiting(database: Database, text: str) -> bool:
    """Whether a statement with these words waits for a lock now."""
    async with database.connection() as connection:
        return bool(
            await connection.fetchval(
                "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock' AND query LIKE $1 AND pid <> pg_backend_pid())",
                f"%{text}%",
            )
        )


async def comes_to_wait(database: Database, text: str) -> None:
    async with asyncio.timeout(20):
        while not await waiting(database, text):  # noqa: ASYNC110  # PostgreSQL tells nobody
            await asyncio.sleep(0.01)


async def test_the_probe_fails_where_somebody_would_wait(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("LOCK TABLE events IN SHARE MODE")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await nobody_waits(database)


async def test_writers_and_readers_go_on_while_a_partition_is_made(database: Database) -> None:
    async with database.transaction() as connection:
        await retention.add_partition(connection, 2 * SIZE, SIZE)
        await nobody_waits(database)
    assert [p.first for p in await partitions(database)] == [0, SIZE, 2 * SIZE]


async def test_a_partition_is_made_in_the_middle_of_a_long_read(database: Database) -> None:
    async with database.transaction() as reader, database.transaction() as writer:
        await reader.execute("SELECT 1 FROM events")
        await log.append(writer, [EventDraft(DEFAULT_TENANT, _READER, "x", b"{}")])
        async with database.connection() as connection:
            await connection.execute("SET lock_timeout = '1ms'")
            await connection.execute(f"CREATE TABLE events_p{2 * SIZE} (LIKE events INCLUDING ALL)")
            await retention.attach(connection, f"events_p{2 * SIZE}", 2 * SIZE, SIZE)
            await connection.execute("RESET lock_timeout")
    await nobody_waits(database)


async def test_writers_and_readers_go_on_while_a_long_read_holds_up_a_detaching(database: Database) -> None:
    tending = Retention(database, keep_hours=168, partition_events=SIZE)
    await tending.tend()  # from here on others know the floor
    async with asyncio.TaskGroup() as tasks, database.transaction() as reader:
        assert await reader.fetchval("SELECT count(*) FROM events WHERE position < $1", SIZE) == SIZE - 1
        going = tasks.create_task(tending.tend())
        await comes_to_wait(database, "DETACH PARTITION events_p0 CONCURRENTLY")
        await nobody_waits(database)
        assert await reader.fetchval("SELECT count(*) FROM events WHERE position >= $1", SIZE) > 3
        assert not going.done()
    assert [p.first for p in await partitions(database)] == [SIZE, 2 * SIZE, 3 * SIZE]


async def test_writers_and_readers_go_on_while_a_detaching_waits_for_the_partition(
    database: Database,
) -> None:
    (old, _) = await partitions(database)

    async def detach() -> None:
        async with database.connection() as connection:
            await retention.detach_partition(connection, old)

    async with asyncio.TaskGroup() as tasks, database.transaction() as reader:
        # Of the partition alone: the first wait, for those who use the log, does not see it.
        await reader.execute(f"SELECT 1 FROM {old.name}")
        tasks.create_task(detach())
        await comes_to_wait(database, "CONCURRENTLY")
        await nobody_waits(database)
    assert [p.first for p in await partitions(database)] == [SIZE]


async def test_writers_and_readers_go_on_while_a_cut_off_detaching_is_finished(database: Database) -> None:
    (old, _) = await partitions(database)
    async with database.transaction() as reader, database.connection() as connection:
        await reader.execute("SELECT 1 FROM events")
        await connection.execute("SET lock_timeout = '10ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await retention.detach_partition(connection, old)
        await connection.execute("RESET lock_timeout")
    async with database.transaction() as connection:
        (old, _) = await partitions(database)
        assert old.detaching
        await retention.detach_partition(connection, old)
        await nobody_waits(database)


async def test_writers_and_readers_go_on_while_a_partition_is_dropped(database: Database) -> None:
    (old, _) = await partitions(database)
    async with database.connection() as connection:
        await retention.detach_partition(connection, old)
    async with database.transaction() as connection:
        assert await retention.drop_detached(connection, SIZE - 1) == [old.name]
        await nobody_waits(database)


async def test_a_log_that_is_written_all_the_time_rotates_without_a_hole_or_a_wait(
    database: Database,
) -> None:
    tending = Retention(database, keep_hours=168, partition_events=SIZE)
    rounds, step = (
        16,
        SIZE // 20,
    )  # half a partition a round: there is always room for one, however slow tending is
    seen, last = await read(database, 0), 0
    for _ in range(rounds):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(tending.tend())
            for _ in range(10):
                last = await append(database, step)
                seen += await read(database, seen[-1])
        async with database.connection() as connection:
            await connection.execute("UPDATE log_heads SET floor = $1", last - SIZE)
    assert seen == list(range(1, last + 1))
    assert last == SIZE + 4 + rounds * 10 * step
    left = await partitions(database)
    assert left[0].first >= last - 4 * SIZE, "those of former rounds are gone"
    assert left[-1].end > last + SIZE
