"""Every statement finds its rows by an index, planned for the values at hand and planned once for any.

Prepared statements get a plan of the second kind after a few uses, so both are looked at, and run: what PostgreSQL
counts tells also of statements within functions and of foreign keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest

from storage.database import Connection, Database
from tests.conftest import Databases
from tests.support.loop import LoopThread
from tests.support.seeded import seed
from tests.support.statements import (
    EXEMPT,
    GROWING,
    Sample,
    enlarge,
    examples,
    exempt,
    literal,
    statements,
)

MODES = ("force_custom_plan", "force_generic_plan")
MOST_ROWS, MOST_PAGES = 1500, 2000
"""How many rows of large tables, and pages of anything, a statement may look at with its example, which is for 50 users
at once, or a page. A plan that reads a whole index, or probes it everywhere, needs more."""

LEADING = """
SELECT c.relname, pg_get_indexdef(c.oid, 1, true) FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
"""
# Of this transaction, and of those just before it.
COUNTS = """
SELECT s.relname, seq_scan, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables s
JOIN pg_class c ON c.oid = s.relid WHERE c.reltuples >= 1000
"""


@pytest.fixture(scope="module")
def large_database_url(
    databases: Databases, template_database: str, loop_thread: LoopThread
) -> Iterator[str]:
    """Every table that grows is so large that reading all of it costs more than an index does."""
    url = databases.create(template_database)

    async def fill() -> None:
        async with Database(url, pool_size=1, statement_seconds=60) as database:
            await seed(database, users=3000, messages=10_000, log_rows=60_000, partition_events=20_000)
            async with database.connection() as connection:
                await enlarge(connection)

    loop_thread.run(fill())
    yield url
    databases.drop(url)


@pytest.fixture
async def connection(large_database_url: str) -> AsyncIterator[Connection]:
    async with Database(large_database_url, pool_size=1) as database, database.connection() as made:
        yield made


Counts = dict[str, tuple[int, int]]


async def counted(connection: Connection) -> Counts:
    """How often each large table was read whole, and how many of its rows were fetched in any way."""
    return {name: (scans, rows) for name, scans, rows in await connection.fetch(COUNTS)}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def faults(connection: Connection, statement: str, values: Any, mode: str) -> list[str]:
    """What is wrong with how a statement is planned and run. It is undone."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        await connection.execute(f"PREPARE example AS {statement}")
        before = await counted(connection)
        given = f"({', '.join(map(literal, values))})" if values else ""
        plan = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE example{given}")
        after = await counted(connection)
    finally:
        await transaction.rollback()
        await connection.execute("DEALLOCATE example")
    leading = dict(map(tuple, await connection.fetch(LEADING)))
    found = []
    root = orjson.loads(plan)[0]["Plan"]
    if (pages := root["Shared Hit Blocks"] + root["Shared Read Blocks"]) > MOST_PAGES:
        found.append(f"has looked at {pages} pages")
    for node in nodes(root):
        index, table = node.get("Index Name"), node.get("Relation Name")
        if node["Node Type"] == "Seq Scan" and table in after:
            found.append(f"reads all of {table}")
        # A condition on later columns alone has all of the index read, or skipped through.
        elif index in leading and leading[index] not in node.get("Index Cond", ""):
            found.append(f"reads all of {index}")
    found += [f"has read all of {table}" for table in after if after[table][0] > before[table][0]]
    fetched = sum(rows for _, rows in after.values()) - sum(rows for _, rows in before.values())
    if fetched > MOST_ROWS:
        found.append(f"has fetched {fetched} rows")
    return [f"{mode}: {fault}" for fault in found]


async def test_every_statement_of_the_stores_is_looked_at(connection: Connection) -> None:
    all_there_are = set(statements())
    assert all_there_are == set(examples(await Sample.taken(connection))) | set(filter(exempt, all_there_are))
    assert {name for name in EXEMPT if "." in name} <= all_there_are


async def test_every_table_that_grows_is_large_here(connection: Connection) -> None:
    sizes = await connection.fetch(
        "SELECT relname, relkind, reltuples FROM pg_class"
        " WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace AND NOT relispartition"
    )
    small = {name for name, _, rows in sizes if rows < 1000}
    assert small == {"alembic_version", "deployment", "log_heads"}
    assert {name for name, *_ in sizes} - small == GROWING


async def test_no_statement_reads_all_of_a_table_that_grows(connection: Connection) -> None:
    found: dict[str, list[str]] = {}
    for name, values in examples(await Sample.taken(connection)).items():
        for mode in MODES:
            if wrong := await faults(connection, statements()[name], values, mode):
                found[name] = found.get(name, []) + wrong
    assert not found, "\n".join(f"{name} {wrong}" for name, wrong in found.items())


@pytest.mark.parametrize(
    ("index", "name"),
    [
        ("users_username", "users.FIND_BY_USERNAME"),
        ("conversation_members_user", "conversation_views.LIST"),
        ("events_topic", "log.READ_WINDOWS"),
        ("conversation_members_user", "receipts.FIND_DELIVERED"),
        ("blocks_blocked", "blocks.DELETE_BLOCKS_OF"),
    ],
)
async def test_without_its_index_a_statement_is_found_out(
    connection: Connection, index: str, name: str
) -> None:
    values = examples(await Sample.taken(connection))[name]
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"DROP INDEX {index}")
        for mode in MODES:
            assert await faults(connection, statements()[name], values, mode) != [], mode
    finally:
        await transaction.rollback()
    for mode in MODES:
        assert await faults(connection, statements()[name], values, mode) == []
