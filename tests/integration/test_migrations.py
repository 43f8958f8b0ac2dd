"""The schema goes up from nothing and down again, whoever else is at it."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from storage import migrate


async def tables(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
        )
        functions = await connection.fetch(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        )
    finally:
        await connection.close()
    return {row[0] for row in rows} | {f"{row[0]}()" for row in functions}


async def test_the_schema_goes_up_from_nothing_down_and_up_again(empty_database_url: str) -> None:
    await migrate.upgrade(empty_database_url)
    made = await tables(empty_database_url)
    assert {"users", "conversations", "messages", "events", "log_heads", "send_messages()"} <= made
    await migrate.downgrade(empty_database_url)
    assert await tables(empty_database_url) == {"alembic_version"}
    await migrate.upgrade(empty_database_url)
    assert await tables(empty_database_url) == made


async def test_instances_that_start_together_migrate_once(empty_database_url: str) -> None:
    await asyncio.gather(*(migrate.upgrade(empty_database_url) for _ in range(4)))
    assert "messages" in await tables(empty_database_url)


async def test_a_database_ahead_of_the_code_is_refused(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()
    with pytest.raises(migrate.SchemaTooNew):
        await migrate.upgrade(database_url)
