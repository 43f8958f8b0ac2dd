"""Which deployment a database is: its key, and whether it is a restored copy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from domain.ids import new_id
from services.deployment import Deployment, begin_new_epoch, ensure_deployment
from storage import deployment, log
from storage.database import Connection, Database

OURS, NEWER, THEIRS = "our-key-" * 5, "newer-key-" * 4, "their-key-" * 4


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as opened:
        yield opened


async def start(database: Database, key: str = OURS, *previous: str) -> Deployment:
    return await ensure_deployment(database, secret_key=key, previous_secret_keys=previous)


async def execute(database: Database, statement: str) -> None:
    async with database.connection() as connection:
        await connection.execute(statement)


async def epoch(database: Database) -> int:
    async with database.connection() as connection:
        return (await log.read_head(connection)).epoch


async def test_a_database_is_one_deployment_from_its_first_start_on(database: Database) -> None:
    first = await start(database)
    assert first.key_matches
    assert first.epoch == await epoch(database)
    assert await start(database) == first


async def test_instances_that_start_together_agree(database: Database) -> None:
    started = await asyncio.gather(*(start(database) for _ in range(8)))
    assert len(set(started)) == 1


async def test_another_key_does_not_match_and_changes_nothing(database: Database) -> None:
    first = await start(database)
    wrong = await start(database, THEIRS)
    assert (wrong.id, wrong.epoch, wrong.key_matches) == (first.id, first.epoch, False)
    assert await start(database) == first


async def test_a_new_epoch_is_that_of_another_deployment_and_stays(database: Database) -> None:
    first = await start(database)
    await begin_new_epoch(database)
    second = await start(database)
    assert second.id != first.id
    assert second.epoch != first.epoch
    assert second.key_matches
    assert await start(database) == second


async def test_a_key_is_changed_by_naming_the_former_one(database: Database) -> None:
    first = await start(database)
    assert await start(database, NEWER, THEIRS, OURS) == first
    assert (await start(database, NEWER)).key_matches
    assert not (await start(database, OURS)).key_matches


async def test_the_key_is_not_in_the_database(database: Database) -> None:
    await start(database)
    async with database.connection() as connection:
        row = str(await connection.fetch("SELECT * FROM deployment"))
    assert OURS[:8] not in row


async def test_a_restored_copy_is_another_deployment_with_another_epoch(database: Database) -> None:
    first = await start(database)
    await execute(database, "UPDATE deployment SET origin = '1:1'")
    copy = await start(database)
    assert copy.id != first.id
    assert copy.epoch != first.epoch
    assert copy.epoch == await epoch(database)
    assert await start(database) == copy


async def test_instances_that_start_together_on_a_copy_change_it_once(database: Database) -> None:
    await start(database)
    await execute(database, "UPDATE deployment SET origin = '1:1'")
    started = await asyncio.gather(*(start(database) for _ in range(8)))
    assert len(set(started)) == 1


async def test_who_starts_while_another_changes_it_takes_what_that_one_wrote(database: Database) -> None:
    await start(database)
    await execute(database, "UPDATE deployment SET origin = '1:1'")
    async with database.connection() as connection:
        origin = await deployment.read_origin(connection)
    fresh = new_id()
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with (
        asyncio.TaskGroup() as group,
        database.transaction() as first,
        database.connection() as looking,
    ):
        await deployment.lock_deployment(first)
        second = group.create_task(start(database))
        async with asyncio.timeout(10):
            while not await looking.fetch(waiting):
                assert not second.done(), "it did not wait"
        new_epoch = await deployment.replace_deployment(first, fresh, origin)
    assert (second.result().id, second.result().epoch) == (fresh, new_epoch)


async def test_a_new_epoch_is_never_the_former_one_and_fits_a_cursor(database: Database) -> None:
    await start(database)
    for former in (0, 1, 2**53 - 2):
        await execute(
            database, f"UPDATE log_heads SET epoch = {former}; UPDATE deployment SET origin = '1:1'"
        )
        assert 0 <= (await start(database)).epoch < 2**53
        assert (await start(database)).epoch != former


async def test_a_role_that_may_not_ask_for_the_origin_starts_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await start(database)
    await execute(database, "CREATE ROLE plain; GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
    await execute(
        database, "REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint() FROM PUBLIC"
    )
    real = deployment.read_origin

    async def as_plain(connection: Connection) -> str:
        await connection.execute("SET ROLE plain")
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetchval(deployment.READ_ORIGIN)
            return await real(connection)
        finally:
            await connection.execute("RESET ROLE")

    try:
        monkeypatch.setattr(deployment, "read_origin", as_plain)
        assert await start(database) == first, "what cannot be known has not changed"
    finally:
        await execute(database, "DROP OWNED BY plain; DROP ROLE plain")


async def test_an_origin_that_was_not_known_is_noted_when_it_is(database: Database) -> None:
    first = await start(database)
    await execute(database, "UPDATE deployment SET origin = ''")
    assert await start(database) == first
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT origin FROM deployment") == await deployment.read_origin(
            connection
        )
