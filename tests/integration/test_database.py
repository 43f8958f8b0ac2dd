"""What a write meets where PostgreSQL is there but may not be written to, and a log that came back without its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from domain.errors import Unavailable
from server.health import database_check
from services.log_source import StoredLog
from storage.database import Database
from tests.support.relay import database_relay


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, pool_size=3) as made:
        yield made


async def make_read_only(url: str) -> None:
    """For connections from now on, as those to a standby are."""
    connection = await asyncpg.connect(url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await connection.close()


async def test_a_write_that_meets_a_read_only_postgresql_finds_it_away(database: Database) -> None:
    async def write() -> None:
        async with database.transaction() as connection:
            await connection.execute("SET TRANSACTION READ ONLY")
            await connection.execute("UPDATE log_heads SET floor = 0")

    with pytest.raises(Unavailable):
        await write()
    async with database.transaction() as connection:
        await connection.execute("UPDATE log_heads SET floor = 0")


async def test_a_connection_that_became_read_only_is_reported_as_down(database: Database) -> None:
    assert (await database_check(database).run()).status == "ok"
    async with database.connection() as connection:
        await connection.execute("SET default_transaction_read_only = on")
    assert (await database_check(database).run()).status == "down"


async def test_no_connection_is_made_to_a_postgresql_that_cannot_be_written_to(
    database: Database, database_url: str
) -> None:
    await make_read_only(database_url)
    async with database.connection():  # the one there is; the next is a new one
        with pytest.raises(Unavailable):
            await database.connection().__aenter__()
        assert (await database_check(database).run()).status == "down"


async def test_several_that_find_the_log_replaced_give_it_one_new_epoch(database: Database) -> None:
    source = StoredLog(database, database)
    before = await source.head()
    heads = await asyncio.gather(*(source.renew_epoch(before.epoch) for _ in range(5)))
    assert len({head.epoch for head in heads}) == 1
    assert heads[0].epoch != before.epoch
    assert heads[0].position == before.position
    assert await source.renew_epoch(before.epoch) == heads[0]
    assert await source.head() == heads[0]


async def test_a_connection_that_was_told_of_its_end_while_idle_counts_as_away_and_is_not_given_out_again(
    database_url: str,
) -> None:
    async with database_relay(database_url) as (relay, url), Database(url, pool_size=1) as database:
        async with database.connection() as connection:
            process = await connection.fetchval("SELECT pg_backend_pid()")
        relay.hold_ends()
        other = await asyncpg.connect(database_url)
        assert await other.fetchval("SELECT pg_terminate_backend($1, 5000)", process)
        await other.close()
        with pytest.raises(Unavailable):
            async with database.connection() as connection:
                await connection.fetchval("SELECT 1")
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_a_database_that_does_not_answer_is_found_out_in_time_and_then_not_asked_for_a_moment(
    database_url: str,
) -> None:
    async with (
        database_relay(database_url) as (relay, url),
        Database(url, pool_size=1, statement_seconds=0.5, connect_seconds=0.4) as database,
    ):
        relay.freeze()
        async with asyncio.timeout(3):  # neither the rollback nor the cancelling is waited for
            with pytest.raises(Unavailable):
                async with database.transaction() as connection:
                    await connection.fetchval("SELECT 1")
        async with asyncio.timeout(0.3):  # less than connecting would take
            with pytest.raises(Unavailable):
                await database.connection().__aenter__()
        relay.thaw()
        async with asyncio.timeout(20):
            while not await _answers(database):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_giving_up_on_a_database_that_does_not_answer_takes_no_longer_than_was_meant(
    database_url: str,
) -> None:
    async with (
        database_relay(database_url) as (relay, url),
        Database(url, pool_size=1, statement_seconds=30) as database,
    ):
        relay.freeze()
        async with asyncio.timeout(4):  # where it took 5 s more to have the statement cancelled
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), database.connection() as connection:
                    await connection.fetchval("SELECT 1")
        with pytest.raises(Unavailable):  # and it is known from then on, for a moment
            await database.connection().__aenter__()


async def test_one_statement_that_cannot_be_cancelled_in_time_refuses_nobody_while_others_are_answered(
    database_url: str,
) -> None:
    async with (
        database_relay(database_url) as (relay, url),
        Database(url, pool_size=2) as database,
    ):
        async with database.connection(), database.connection():
            pass
        relay.hold_new()  # what is connected works; to cancel takes a connection of its own

        async def leaves() -> None:
            async with database.connection() as connection:
                asking.set()
                await connection.fetchval("SELECT pg_sleep(5)")

        asking = asyncio.Event()
        leaver = asyncio.create_task(leaves())
        await asking.wait()
        await asyncio.sleep(0)
        leaver.cancel()
        while not leaver.done():
            assert await _answers(database)
        for _ in range(10):
            assert await _answers(database)
        with pytest.raises(asyncio.CancelledError):
            await leaver


async def _answers(database: Database) -> bool:
    try:
        async with database.connection() as connection:
            await connection.fetchval("SELECT 1")
            return True
    except Unavailable:
        return False
