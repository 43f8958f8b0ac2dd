"""Made-up history is what the services would have written, and is there whole or not at all."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from server.commands import seed as command
from server.progress import ProgressBar
from server.settings import Settings
from server.startup import StartupError
from services.seed_plan import SeedRefused, SeedSize
from storage import log, retention
from storage.database import Database
from tests.conftest import Databases
from tests.support.command import MAIN, environment, run
from tests.support.loop import LoopThread
from tests.support.relay import database_relay
from tests.support.seeded import seed, wrongs


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, pool_size=1) as made:
        yield made


async def test_seeded_history_keeps_every_promise_of_history(database: Database) -> None:
    made = await seed(database, users=60, messages=300, log_rows=2500, partition_events=700)
    async with database.connection() as connection:
        assert await wrongs(connection) == {}
        counts = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM messages) AS messages,"
            " (SELECT count(*) FROM events) AS log_rows, (SELECT count(*) FROM conversations) AS conversations,"
            " (SELECT count(*) FROM conversation_members) AS memberships,"
            " (SELECT sum(last_seq - read_seq) FROM conversation_members m"
            "  JOIN conversations c ON c.id = m.conversation_id) AS unread"
        )
        partitions = await retention.list_partitions(connection)
        sizes = {p.name: await connection.fetchval(f"SELECT count(*) FROM {p.name}") for p in partitions}
        indexes = await connection.fetch(
            "SELECT tablename, count(*) FROM pg_indexes WHERE tablename LIKE 'events_p%' GROUP BY 1"
        )
    assert counts is not None
    assert (counts["users"], counts["messages"], counts["log_rows"]) == (60, 300, 2500)
    assert (counts["conversations"], counts["memberships"]) == (made.conversations, made.memberships)
    assert counts["unread"] > 0
    assert [sizes[p.name] for p in partitions] == [699, 700, 700, 401, 0, 0], "position 0 is never used"
    assert {row[0]: row[1] for row in indexes} == dict.fromkeys(sizes, 2)


async def test_a_second_tenant_is_seeded_behind_the_first(database: Database) -> None:
    await seed(database, users=20, messages=50, log_rows=400, partition_events=300)
    made = await seed(database, users=20, messages=40, log_rows=333, slug="acme", partition_events=300)
    assert made.first_position == 401
    async with database.connection() as connection:
        assert await wrongs(connection) == {}
        assert (await log.read_head(connection)).position == 733
        assert await connection.fetchval("SELECT count(DISTINCT tenant_id) FROM users") == 2


async def test_log_rows_that_no_receipt_is_left_for_are_reactions(database: Database) -> None:
    await seed(database, users=2, messages=3, log_rows=21)
    async with database.connection() as connection:
        assert await wrongs(connection) == {}
        types = await connection.fetch("SELECT type, count(*) FROM events GROUP BY type")
        assert await connection.fetchval("SELECT count(*) FROM reactions") == 1
    assert dict(map(tuple, types))["reaction.added"] == 6


async def test_the_same_number_makes_the_same_history(database: Database) -> None:
    everything = """SELECT md5(string_agg(md5(x), '' ORDER BY x)) FROM (
        SELECT concat(id, username, display_name) FROM users UNION ALL
        SELECT concat(conversation_id, seq, id, client_id, body, position, sender_id) FROM messages UNION ALL
        SELECT concat(conversation_id, user_id, read_seq, delivered_seq, role) FROM conversation_members) r (x)"""
    made = []
    for number in (5, 5, 6):
        await seed(database, users=20, messages=60, log_rows=300, number=number)
        async with database.connection() as connection:
            made.append(await connection.fetchval(everything))
            await connection.execute("TRUNCATE users, conversations, events, log_marks CASCADE")
            await connection.execute("UPDATE log_heads SET position = 0")
    assert made[0] == made[1] != made[2]


async def test_people_are_not_mixed_with_made_up_ones(database: Database) -> None:
    await seed(database, users=2, messages=0, log_rows=1)
    with pytest.raises(SeedRefused, match="accounts already"):
        await seed(database, users=2, messages=0, log_rows=1)


async def test_nothing_is_seeded_under_a_serving_instance(database: Database, database_url: str) -> None:
    async with Database(database_url, pool_size=1):
        with pytest.raises(SeedRefused, match="instances are at work"):
            await seed(database, users=2, messages=0, log_rows=1)


@pytest.mark.parametrize(
    "size", [SeedSize(0, 0, 0), SeedSize(1, 1, 9), SeedSize(10, 5, 10), SeedSize(10, 0, 10)], ids=str
)
async def test_a_size_that_does_not_fit_is_refused(database: Database, size: SeedSize) -> None:
    with pytest.raises(SeedRefused):
        await seed(database, users=size.users, messages=size.messages, log_rows=size.log_rows)


def test_seeding_that_is_stopped_leaves_nothing(
    tmp_path: Path, database_url: str, redis_url: str, loop_thread: LoopThread
) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            str(MAIN),
            "seed",
            "--users",
            "2000",
            "--messages",
            "30000",
            "--log-rows",
            "400000",
        ],
        cwd=tmp_path,
        env=environment(tmp_path / "data", DATABASE_URL=database_url, REDIS_URL=redis_url),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert " of 4" in process.stderr.readline(), "the first line of progress"
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=50)
    assert process.returncode == 130, told

    async def left() -> list[object]:
        connection = await asyncpg.connect(database_url, timeout=10)
        try:
            return [
                await connection.fetchval(f"SELECT count(*) FROM {table}")
                for table in ("users", "conversations", "messages", "events", "log_marks")
            ]
        finally:
            await connection.close(timeout=5)

    assert loop_thread.run(left()) == [0, 0, 0, 0, 0]
    assert "Traceback" not in told[1]


def test_the_command_says_what_it_made_and_how_to_sign_in(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    sizes = ("--users", "10", "--messages", "20", "--log-rows", "100", "--tenant", "acme")
    ended = run("seed", *sizes, data_dir=tmp_path / "data", DATABASE_URL=database_url, REDIS_URL=redis_url)
    assert ended.returncode == 0, ended.stderr
    assert "10 users, 6 conversations, 20 messages and 100 log rows" in ended.stdout
    assert "seed000001 to seed000010 with the password parley-seed" in ended.stdout


class AtTheStatistics(ProgressBar):
    """Does something in the moment when all is stored, and only the statistics are not made yet."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(io.StringIO())
        self._act = act

    def show(self, what: str, done: int, total: int) -> None:
        if what == "statistics":
            self._act()


async def people_in(database: Database) -> object:
    async with database.connection() as connection:
        return await connection.fetchval("SELECT count(*) FROM users")


@pytest.mark.allow_blocking
async def test_who_stops_it_at_the_statistics_is_told_that_all_is_stored(
    settings: Settings, database_url: str
) -> None:
    task = asyncio.current_task()
    assert task is not None
    bar = AtTheStatistics(task.cancel)
    with capture_logs() as lines, pytest.raises(asyncio.CancelledError):
        await command(settings, bar, None, SeedSize(2, 3, 21), 1, None)
    task.uncancel()
    assert [line["left"] for line in lines if line["event"] == "seed_stopped"] == ["all but the statistics"]
    async with Database(database_url, pool_size=1) as database:
        assert await people_in(database) == 2


@pytest.mark.allow_blocking
async def test_a_database_that_goes_away_at_the_statistics_leaves_it_seeded_and_it_says_so(
    settings: Settings, database_url: str
) -> None:
    async with database_relay(database_url) as (relay, url), asyncio.TaskGroup() as tasks:
        bar = AtTheStatistics(lambda: tasks.create_task(relay.cut(refuse=True)))
        changed = settings.model_copy(update={"database_url": url})
        told = await command(changed, bar, None, SeedSize(2, 3, 21), 1, None)
    assert "2 users" in told
    assert "without statistics" in told
    async with Database(database_url, pool_size=1) as database:
        assert await people_in(database) == 2


@pytest.mark.parametrize("password", ["", "1234567", "x" * 1025], ids=len)
@pytest.mark.parametrize("environment", ["production", "development"])
async def test_a_password_that_nobody_may_set_is_refused_before_anything_is_done(
    tmp_path: Path, environment: str, password: str
) -> None:
    nowhere = Settings(data_dir=tmp_path / "data").model_copy(update={"environment": environment})
    with pytest.raises(StartupError, match="--password must be 8 to 1,024 bytes"):
        await command(nowhere, ProgressBar(io.StringIO()), None, SeedSize(2, 0, 1), 1, password)
    assert not (tmp_path / "data").exists()


@pytest.mark.allow_blocking
async def test_a_database_that_instances_work_on_is_not_migrated_either(
    settings: Settings, databases: Databases
) -> None:
    older = databases.create("template1")
    try:
        async with Database(older, pool_size=1) as instance:
            changed = settings.model_copy(update={"database_url": older})
            with pytest.raises(StartupError, match="nothing was seeded: instances are at work"):
                await command(changed, ProgressBar(io.StringIO()), None, SeedSize(2, 0, 1), 1, None)
            async with instance.connection() as connection:
                assert await connection.fetchval("SELECT to_regclass('users')") is None
    finally:
        databases.drop(older)
