"""The embedded services over the life and death of the instances that share them."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from domain.waiting import within
from server.embedded import EmbeddedServices
from server.embedded.postgres import EmbeddedPostgres
from server.embedded.processes import wait_until
from server.embedded.redis import EmbeddedRedis
from server.settings import Settings
from server.startup import StartupError
from tests.support.loop import LoopThread

ROOT = Path(__file__).resolve().parents[2]


class Holder:
    """One `tests.support.holder` process."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.holder", str(data_dir)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ready(self) -> tuple[str, str]:
        """Waits for the services; returns (database URL, Redis URL)."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr and self.process.stderr.read()
        database_url, redis_url = json.loads(line)
        return database_url, redis_url

    def end(self, sent: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(sent)
        return self.wait()

    def wait(self) -> int:
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture
def data_dir() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="pd-"))
    yield made
    EmbeddedPostgres(made).stop()
    EmbeddedRedis(made).stop()
    shutil.rmtree(made)


@pytest.fixture
def holder(data_dir: Path) -> Iterator[Callable[[], Holder]]:
    started: list[Holder] = []

    def start() -> Holder:
        started.append(Holder(data_dir))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.end(signal.SIGKILL)
        else:
            each.wait()


@pytest.fixture
def sql(loop_thread: LoopThread) -> Callable[[str, str], object]:
    async def run(url: str, statement: str) -> object:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval(statement, timeout=10)
        finally:
            await connection.close(timeout=5)

    return lambda url, statement: loop_thread.run(run(url, statement))


def postmaster(data_dir: Path) -> psutil.Process:
    found = EmbeddedPostgres(data_dir).postmaster()
    assert found is not None
    return found


def redis_pid(url: str) -> int:
    with Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def runs(data_dir: Path) -> tuple[bool, bool]:
    """Whether PostgreSQL and Redis run for this data directory."""
    return EmbeddedPostgres(data_dir).is_alive(), EmbeddedRedis(data_dir).is_alive()


async def test_given_urls_are_used_and_nothing_is_started(tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path / "none", database_url="postgresql://db/x", redis_url="redis://cache")
    async with EmbeddedServices(given) as services:
        assert (services.database_url, services.redis_url) == ("postgresql://db/x", "redis://cache")
    assert not given.data_dir.exists()


async def test_only_the_service_without_a_url_is_embedded(data_dir: Path) -> None:
    async with EmbeddedServices(Settings(data_dir=data_dir, database_url="postgresql://db/x")) as services:
        assert services.redis_url.startswith("unix://")
        assert await asyncio.to_thread(runs, data_dir) == (False, True)
    assert await asyncio.to_thread(runs, data_dir) == (False, False)


async def test_postgres_is_durable_and_as_new_as_promised(data_dir: Path) -> None:
    async with EmbeddedServices(Settings(data_dir=data_dir)) as services:
        connection = await asyncpg.connect(services.database_url, timeout=10)
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await connection.fetchval(f"SHOW {name}") == "on"
        assert (await connection.fetchval("SHOW server_version")).startswith("18")
        assert await connection.fetchval("SELECT lower('ÀÉÎ') = 'àéî' AND 'é' > 'z'")
        await connection.close()


def test_data_stays_over_a_stop_and_the_second_start_is_quick(
    holder: Callable[[], Holder], sql: Callable[[str, str], object], data_dir: Path
) -> None:
    first = holder()
    url, _ = first.ready()
    sql(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert first.end() == 0
    assert runs(data_dir) == (False, False)
    url, _ = holder().ready()
    assert sql(url, "SELECT answer FROM kept") == 42


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_leaving_stops_everything_that_was_started_and_removes_the_sockets(
    sent: signal.Signals, holder: Callable[[], Holder], data_dir: Path
) -> None:
    only = holder()
    only.ready()
    processes = [postmaster(data_dir), *postmaster(data_dir).children(recursive=True)]
    assert only.end(sent) == 0
    assert [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert runs(data_dir) == (False, False)
    assert [p for p in (data_dir / "run").rglob("*") if p.is_socket()] == []


def test_two_instances_share_the_services_and_the_last_one_out_stops_them(
    holder: Callable[[], Holder], sql: Callable[[str, str], object], data_dir: Path
) -> None:
    first, second = holder(), holder()  # both find nothing running, at the same time
    urls = first.ready()
    assert second.ready() == urls
    server, cache = postmaster(data_dir).pid, redis_pid(urls[1])
    assert first.end() == 0
    assert sql(urls[0], "SELECT 1") == 1
    assert (postmaster(data_dir).pid, redis_pid(urls[1])) == (server, cache)
    assert second.end() == 0
    assert runs(data_dir) == (False, False)


def test_services_left_by_a_killed_instance_are_taken_over_and_stopped_at_the_end(
    holder: Callable[[], Holder], data_dir: Path
) -> None:
    killed = holder()
    urls = killed.ready()
    server, cache = postmaster(data_dir).pid, redis_pid(urls[1])
    killed.end(signal.SIGKILL)
    assert runs(data_dir) == (True, True)
    second = holder()
    assert second.ready() == urls
    assert (postmaster(data_dir).pid, redis_pid(urls[1])) == (server, cache)
    assert second.end() == 0
    assert runs(data_dir) == (False, False)


def test_an_instance_killed_while_others_run_takes_nothing_with_it(
    holder: Callable[[], Holder], sql: Callable[[str, str], object], data_dir: Path
) -> None:
    killed = holder()
    url, _ = killed.ready()
    staying = holder()
    staying.ready()
    killed.end(signal.SIGKILL)
    assert sql(url, "SELECT 1") == 1
    assert staying.end() == 0
    assert runs(data_dir) == (False, False)


def test_the_terminals_interrupt_does_not_reach_the_services(
    holder: Callable[[], Holder], data_dir: Path
) -> None:
    first = holder()
    _, redis_url = first.ready()
    group = os.getpgid(first.process.pid)
    assert os.getpgid(postmaster(data_dir).pid) != group
    assert os.getpgid(redis_pid(redis_url)) != group
    assert os.getsid(postmaster(data_dir).pid) != os.getsid(first.process.pid)


def test_services_do_not_inherit_the_secrets_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, holder: Callable[[], Holder], data_dir: Path
) -> None:
    monkeypatch.setenv("PARLEY_SECRET_KEY", "b3f09a6e1c5d47829be0f3ac61d85e7743a0c9d21f8e6b5")
    _, redis_url = holder().ready()
    for pid in (postmaster(data_dir).pid, redis_pid(redis_url)):
        assert "PARLEY_SECRET_KEY" not in psutil.Process(pid).environ()


def test_postgres_and_redis_killed_under_an_instance_are_started_again(
    holder: Callable[[], Holder], sql: Callable[[str, str], object], data_dir: Path
) -> None:
    url, redis_url = holder().ready()
    sql(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    server, cache = postmaster(data_dir), psutil.Process(redis_pid(redis_url))
    server.kill()
    cache.kill()
    assert wait_until(lambda: runs(data_dir) == (True, True), 30)

    def another_redis() -> bool:
        try:
            return redis_pid(redis_url) != cache.pid
        except RedisConnectionError:  # the killed one's socket, for a moment
            return False

    assert wait_until(another_redis, 30)

    def answer() -> object:
        try:
            return sql(url, "SELECT answer FROM kept")
        except (OSError, asyncpg.PostgresError):
            return None

    assert wait_until(lambda: answer() == 42, 30)
    assert postmaster(data_dir).pid != server.pid


def test_a_start_after_everything_was_killed_recovers_what_was_committed(
    holder: Callable[[], Holder], sql: Callable[[str, str], object], data_dir: Path
) -> None:
    killed = holder()
    url, redis_url = killed.ready()
    sql(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    server, cache = postmaster(data_dir), psutil.Process(redis_pid(redis_url))
    killed.end(signal.SIGKILL)
    server.kill()  # its children still run for a moment, on purpose
    cache.kill()
    url, _ = holder().ready()
    assert sql(url, "SELECT answer FROM kept") == 42


def test_a_stale_process_id_that_now_belongs_to_someone_else_does_not_stop_the_start(
    holder: Callable[[], Holder], sql: Callable[[str, str], object], data_dir: Path
) -> None:
    first = holder()
    first.ready()
    pid_file = data_dir / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    owner, mode = pid_file.stat(), pid_file.stat().st_mode
    first.end()
    # What a machine that lost power leaves, its process ids since given to others: to this test, for one.
    stranger = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        lines[0] = str(stranger.pid)
        pid_file.write_text("\n".join(lines) + "\n")
        pid_file.chmod(stat.S_IMODE(mode))
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        (data_dir / "redis.pid").write_text(f"{stranger.pid}\n")
        url, _ = holder().ready()
        assert sql(url, "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.communicate(timeout=10)


def test_a_frozen_redis_is_replaced_at_the_next_start(holder: Callable[[], Holder], data_dir: Path) -> None:
    first = holder()
    _, redis_url = first.ready()
    frozen = psutil.Process(redis_pid(redis_url))
    first.end(signal.SIGKILL)
    frozen.suspend()
    second = holder()
    assert second.ready()[1] == redis_url
    assert redis_pid(redis_url) != frozen.pid


def test_an_initdb_that_was_cut_short_is_begun_again(
    holder: Callable[[], Holder], sql: Callable[[str, str], object], data_dir: Path
) -> None:
    half = data_dir / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    url, _ = holder().ready()
    assert sql(url, "SELECT 1") == 1
    assert not half.exists()


def test_a_data_directory_with_a_long_or_odd_path_works(
    sql: Callable[[str, str], object], loop_thread: LoopThread, tmp_path: Path
) -> None:
    deep = tmp_path / ("long" * 30) / "with space, ünïcode & 100%"
    services = EmbeddedServices(Settings(data_dir=deep))
    loop_thread.run(services.__aenter__())
    socket_path = Path((re.search(r"host=(.*)", services.database_url) or [""])[1])
    try:
        assert sql(services.database_url, "SELECT 1") == 1
        with Redis.from_url(services.redis_url) as client:
            assert client.ping()
    finally:
        loop_thread.run(services.__aexit__(None, None, None))
    assert runs(deep) == (False, False)
    assert not socket_path.exists(), "the short directory made for the sockets stays behind"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes accounts")
def test_started_by_root_postgres_runs_as_someone_else_behind_a_closed_directory(
    loop_thread: LoopThread, sql: Callable[[str, str], object], tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    services = EmbeddedServices(Settings(data_dir=closed / "data"))
    loop_thread.run(services.__aenter__())
    try:
        assert 0 not in postmaster(closed / "data").uids()
        assert sql(services.database_url, "SELECT 1") == 1
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    finally:
        loop_thread.run(services.__aexit__(None, None, None))


async def test_a_data_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="Set PARLEY_DATA_DIR to a directory you can write") as raised:
        await EmbeddedServices(Settings(data_dir=tmp_path / "file" / "data")).__aenter__()
    assert "\n" not in str(raised.value)


async def test_data_of_another_postgres_version_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("15\n")
    with pytest.raises(StartupError, match="made by PostgreSQL 15, and the embedded one is 18"):
        await EmbeddedServices(Settings(data_dir=tmp_path, redis_url="redis://cache")).__aenter__()


async def test_a_directory_that_is_no_cluster_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "precious").write_text("mine")
    with pytest.raises(StartupError, match="is no PostgreSQL cluster"):
        await EmbeddedServices(Settings(data_dir=tmp_path, redis_url="redis://cache")).__aenter__()
    assert (tmp_path / "postgres" / "precious").read_text() == "mine"


async def test_when_one_service_cannot_start_the_other_is_stopped_again(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir()
    (data_dir / "postgres" / "precious").write_text("mine")
    with pytest.raises(StartupError):
        await EmbeddedServices(Settings(data_dir=data_dir)).__aenter__()
    assert await asyncio.to_thread(runs, data_dir) == (False, False)


async def test_a_start_that_is_cancelled_leaves_nothing_running(data_dir: Path) -> None:
    start = asyncio.ensure_future(EmbeddedServices(Settings(data_dir=data_dir)).__aenter__())
    assert await asyncio.to_thread(wait_until, lambda: (data_dir / "locks" / "postgres").exists(), 10)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert await asyncio.to_thread(runs, data_dir) == (False, False)


async def test_a_start_waits_for_its_turn(data_dir: Path) -> None:
    """The turn's lock orders one instance's stop before another's start."""
    (data_dir / "locks").mkdir()
    turn = os.open(data_dir / "locks" / "redis", os.O_RDWR | os.O_CREAT)
    fcntl.flock(turn, fcntl.LOCK_EX)
    services = EmbeddedServices(Settings(data_dir=data_dir, database_url="postgresql://db/x"))
    start = asyncio.ensure_future(services.__aenter__())
    done, _ = await asyncio.wait([start], timeout=0.3)
    assert not done
    assert await asyncio.to_thread(runs, data_dir) == (False, False)
    os.close(turn)
    await within(20, start)
    await services.__aexit__(None, None, None)


def test_the_socket_is_no_tcp_port(holder: Callable[[], Holder], data_dir: Path) -> None:
    holder().ready()
    listening = [
        connection
        for process in [postmaster(data_dir)]
        for connection in process.net_connections("inet")
        if connection.type == socket.SOCK_STREAM
    ]
    assert listening == []
