"""Fixtures for every test: one real PostgreSQL and Redis for the run, a database of its own for each test.

| fixture | scope | what it is |
| --- | --- | --- |
| `services` | session | embedded PostgreSQL and Redis in a temporary directory, one pair a worker |
| `database_url` | test | a fresh clone of the migrated template; no other test sees it |
| `empty_database_url` | test | a database with nothing in it, for migrations |
| `redis_url` | test | the shared Redis; keys are told apart by the deployment's id |
| `own_redis`, `own_postgres` | test | servers that the test may stop, freeze, flush or kill |
"""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import asyncpg
import pytest
from blockbuster import BlockBuster
from pydantic import SecretStr

from server.embedded import EmbeddedServices, postgres
from server.settings import Settings
from storage import migrate
from tests.support.loop import LoopThread
from tests.support.services import OwnPostgres, OwnRedis, with_database

_OURS = ["domain", "storage", "realtime", "services", "handlers", "server"]
_NOT_KEPT = {"fsync": "off", "full_page_writes": "off", "checkpoint_flush_after": "0"}
"""The run's own cluster is thrown away with it, so no commit waits for the disk; those of `own_postgres` do."""
_SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings must not reach the tests."""
    for name in list(os.environ):
        if name.startswith("PARLEY_") or name in ("DATABASE_URL", "REDIS_URL"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _nothing_blocks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails an async test in which code of ours, or called by ours, blocks the event loop (invariant I11)."""
    is_async = inspect.iscoroutinefunction(getattr(request, "function", None))
    if not is_async or request.node.get_closest_marker("allow_blocking") is not None:
        yield
        return
    guard = BlockBuster(_OURS)
    for function in guard.functions.values():
        function.can_block_in("storage/migrate.py", {"_run", "newest_revision"})  # at start, before serving
        function.can_block_in(
            "asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"}
        )  # looks for ~/.pgpass
    guard.activate()
    try:
        yield
    finally:
        guard.deactivate()


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    with LoopThread() as running:
        yield running


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory, loop_thread: LoopThread) -> Iterator[EmbeddedServices]:
    data_dir = tmp_path_factory.mktemp("services")
    embedded = EmbeddedServices(Settings(data_dir=data_dir, database_url=None, redis_url=None))
    with mock.patch.dict(postgres._SETTINGS, _NOT_KEPT):
        loop_thread.run(embedded.__aenter__())
    yield embedded
    loop_thread.run(embedded.__aexit__(None, None, None))


class Databases:
    """Makes and drops databases on one server over one connection."""

    def __init__(self, url: str, loop: LoopThread) -> None:
        self.url = url
        self._loop = loop
        self._numbers = itertools.count(1)
        self._admin = loop.run(asyncpg.connect(with_database(url, "postgres"), timeout=10))

    def create(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
        return with_database(self.url, name)

    def drop(self, url: str) -> None:
        name = url.partition("?")[0].rpartition("/")[2]
        self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def close(self) -> None:
        self._loop.run(self._admin.close())

    def _run(self, statement: str) -> None:
        self._loop.run(self._admin.execute(statement, timeout=30))


@pytest.fixture(scope="session")
def databases(services: EmbeddedServices, loop_thread: LoopThread) -> Iterator[Databases]:
    made = Databases(services.database_url, loop_thread)
    yield made
    made.close()


@pytest.fixture(scope="session")
def template_database(services: EmbeddedServices, loop_thread: LoopThread) -> str:
    """The name of a migrated database that nobody connects to."""
    loop_thread.run(migrate.upgrade(services.database_url))
    return "parley"


@pytest.fixture
def database_url(databases: Databases, template_database: str) -> Iterator[str]:
    url = databases.create(template_database)
    yield url
    databases.drop(url)


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    url = databases.create("template0")
    yield url
    databases.drop(url)


@pytest.fixture
def redis_url(services: EmbeddedServices) -> str:
    return services.redis_url


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    redis = OwnRedis(tmp_path_factory.mktemp("redis"))
    redis.start()
    yield redis
    redis.close()


@pytest.fixture
def own_postgres(tmp_path_factory: pytest.TempPathFactory, loop_thread: LoopThread) -> Iterator[OwnPostgres]:
    """Started and migrated."""
    postgres = OwnPostgres(tmp_path_factory.mktemp("postgres"))
    postgres.start()
    loop_thread.run(migrate.upgrade(postgres.url))
    yield postgres
    postgres.close()


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory, database_url: str, redis_url: str) -> Settings:
    """An instance's settings for tests: own database, shared Redis, a free port, cheap passwords, no limits."""
    return settings_for_tests(tmp_path_factory.mktemp("data"), database_url, redis_url)


def settings_for_tests(data_dir: Path, database_url: str, redis_url: str) -> Settings:
    """On services that are there: a free port, cheap passwords, no limits."""
    return Settings(
        port=0,
        data_dir=data_dir,
        database_url=database_url,
        redis_url=redis_url,
        secret_key=SecretStr(_SECRET),
        bcrypt_rounds=4,
        rate_limits=False,
    )
