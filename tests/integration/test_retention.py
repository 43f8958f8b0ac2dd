"""The log has room ahead of its head, and keeps nothing past its time."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from services.retention import Retention
from storage import log, retention
from storage.database import Connection, Database

SIZE = retention.PARTITION_EVENTS


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


async def bounds(connection: Connection) -> list[tuple[int, int]]:
    return [(p.first, p.end) for p in await retention.list_partitions(connection)]


async def test_partitions_stand_ready_ahead_of_the_head(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("UPDATE log_heads SET position = $1", 2 * SIZE + 5)
        await Retention(database, keep_hours=168).tend()
        found = await bounds(connection)
    assert found[0][0] == 0
    assert all(left[1] == right[0] for left, right in itertools.pairwise(found))
    assert found[-1][1] >= 4 * SIZE + 5


async def test_what_is_past_its_time_is_dropped_whole_partitions_at_once(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("UPDATE log_heads SET position = $1", 2 * SIZE + 5)
        await connection.execute(
            "INSERT INTO log_marks (log, at, position) VALUES (0, now() - interval '3 hours', $1)", SIZE + 7
        )
        await Retention(database, keep_hours=2).tend()
        head = await log.read_head(connection)
        found = await bounds(connection)
    assert head.floor == SIZE + 7
    assert found[0] == (SIZE, 2 * SIZE)


async def test_the_floor_stays_where_nothing_is_old_enough(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("UPDATE log_heads SET position = 10")
        await Retention(database, keep_hours=1).tend()
        await Retention(database, keep_hours=1).tend()
        assert (await log.read_head(connection)).floor == 0
        marks = await connection.fetchval("SELECT count(*) FROM log_marks")
    assert marks == 1


async def test_one_instance_at_a_time_tends_the_log(database: Database) -> None:
    async with database.connection() as leader, database.connection() as connection:
        assert await retention.try_lead(leader)
        await connection.execute("UPDATE log_heads SET position = $1", 2 * SIZE + 5)
        before = await bounds(connection)
        await Retention(database, keep_hours=1).tend()
        assert await bounds(connection) == before
        await retention.stop_leading(leader)
        await Retention(database, keep_hours=1).tend()
        assert await bounds(connection) != before
