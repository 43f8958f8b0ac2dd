"""The log has room ahead of its head, and keeps nothing past its time."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from domain.errors import Unavailable
from services.retention import Retention
from storage import auth_sessions, log, retention
from storage.database import Connection, Database

SIZE = retention.PARTITION_EVENTS


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


async def bounds(connection: Connection) -> list[tuple[int, int]]:
    return [(p.first, p.end) for p in await retention.list_partitions(connection)]


async def attached(connection: Connection) -> set[str]:
    return {p.name for p in await retention.list_partitions(connection)}


async def tables(connection: Connection) -> set[str]:
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND starts_with(relname, 'events_')"
    )
    return {row[0] for row in rows}


async def store_event(connection: Connection, position: int) -> None:
    await connection.execute(
        "INSERT INTO events (position, tenant_id, topic_kind, topic_id, type, at, data)"
        " VALUES ($1, $2, 1, $2, 'message.created', now(), '{}')",
        position,
        uuid.uuid4(),
    )


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
        tending = Retention(database, keep_hours=2)
        await tending.tend()
        assert (await log.read_head(connection)).floor == SIZE + 7
        assert (await bounds(connection))[0] == (0, SIZE), "others learn of the floor a moment later"
        await tending.tend()
        assert (await bounds(connection))[0] == (SIZE, 2 * SIZE)
        assert await tables(connection) == await attached(connection)


async def test_a_restored_log_loses_no_partition_by_the_floor_it_had_before(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("UPDATE log_heads SET position = $1, floor = $1", 2 * SIZE + 5)
        tending = Retention(database, keep_hours=168)
        await tending.tend()
        await connection.execute("UPDATE log_heads SET position = $1, floor = $2", SIZE + 5, 7)
        await tending.tend()
        assert (await bounds(connection))[0] == (0, SIZE)


async def test_a_detaching_that_was_cut_off_is_finished_later(database: Database, database_url: str) -> None:
    async with (
        Database(database_url, statement_seconds=1.0) as impatient,
        database.connection() as connection,
    ):
        await connection.execute("UPDATE log_heads SET position = $1, floor = $2", 2 * SIZE + 5, SIZE)
        tending = Retention(impatient, keep_hours=168)
        await tending.tend()
        async with database.transaction() as dump:
            await dump.execute("SELECT 1 FROM events")
            for _ in range(2):
                with pytest.raises((Unavailable, asyncpg.LockNotAvailableError)):
                    await tending.tend()
                assert (await retention.list_partitions(connection))[0].detaching
        await tending.tend()
        assert (await bounds(connection))[0] == (SIZE, 2 * SIZE)
        assert await tables(connection) == await attached(connection)


async def test_what_was_detached_but_not_dropped_is_dropped_the_next_time(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("UPDATE log_heads SET position = $1, floor = $2", 2 * SIZE + 5, SIZE)
        await store_event(connection, SIZE - 1)
        await store_event(connection, SIZE + 1)
        await connection.execute("ALTER TABLE events DETACH PARTITION events_p0 CONCURRENTLY")
        await connection.execute("ALTER TABLE events DETACH PARTITION events_p1 CONCURRENTLY")
        await connection.execute("CREATE TABLE events_pinned (LIKE events INCLUDING ALL)")
        await Retention(database, keep_hours=168).tend()
        left = await tables(connection) - await attached(connection)
    assert left == {"events_p1", "events_pinned"}, (
        "one holds what is not past its time, the other is not ours"
    )


async def test_a_table_in_the_way_does_not_keep_the_log_from_growing(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("UPDATE log_heads SET position = $1", SIZE)
        await connection.execute(f"CREATE TABLE events_p{2 * SIZE} (position bigint)")
        await connection.execute(f"INSERT INTO events_p{2 * SIZE} VALUES (5), ({9 * SIZE})")
        await Retention(database, keep_hours=168).tend()
        found = await bounds(connection)
        assert await connection.fetchval(f"SELECT count(*) FROM events_p{2 * SIZE}") == 2
    assert all(left[1] == right[0] for left, right in itertools.pairwise(found))
    assert found[-1][1] >= 3 * SIZE


async def test_stays_that_ended_past_retention_are_forgotten_and_others_kept(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("UPDATE log_heads SET position = 50")
        async with connection.transaction():
            await connection.execute(
                "SET LOCAL session_replication_role = replica"
            )  # no conversation for them
            await connection.execute(
                "INSERT INTO membership_windows (tenant_id, conversation_id, user_id, opens, closes)"
                " SELECT $1, $1, $1, opens, closes FROM (VALUES (1, 20), (2, 21), (30, NULL)) w (opens, closes)",
                uuid.uuid4(),
            )
        await connection.execute(
            "INSERT INTO log_marks (log, at, position) VALUES (0, now() - interval '3 hours', 20)"
        )
        await Retention(database, keep_hours=2).tend()
        left = await connection.fetch("SELECT opens FROM membership_windows ORDER BY opens")
    assert [row[0] for row in left] == [2, 30]


async def test_what_is_past_its_time_is_found_without_reading_the_whole_table(database: Database) -> None:
    statements: list[tuple[str, list[float], str]] = [
        (retention.FORGET_WINDOWS, [5, 100], "membership_windows_closed"),
        (auth_sessions.PURGE, [86_400.0, 100], "auth_sessions_ended"),
    ]
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        for statement, values, index in statements:
            plan = [row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *values)]
            assert any("Index" in line and index in line for line in plan), plan


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
