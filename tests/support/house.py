"""Servers in this process: one to a call, or two that stay for many tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
from aiohttp import web

from server.app import create_app
from server.protocol import Runner
from server.settings import Settings
from tests.support.clients import Api, Person, Watcher


@asynccontextmanager
async def running(
    settings: Settings, http: aiohttp.ClientSession, watch: Watcher | None
) -> AsyncIterator[Api]:
    """An instance on a free port, reached over TCP."""
    assert settings.database_url is not None
    assert settings.redis_url is not None
    app = await create_app(settings, database_url=settings.database_url, redis_url=settings.redis_url)
    runner = Runner(app, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Api(http, f"http://127.0.0.1:{runner.addresses[0][1]}", watch)
    finally:
        await runner.cleanup()


@dataclass(frozen=True, slots=True)
class House:
    """Two instances on one database and one Redis, for many tests, each of which brings its own people."""

    settings: Settings
    http: aiohttp.ClientSession
    watch: Watcher
    api: Api
    other: Api

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: Settings, watch: Watcher) -> AsyncIterator[House]:
        async with (
            aiohttp.ClientSession() as http,
            running(settings, http, watch) as api,
            running(settings, http, watch) as other,
        ):
            yield cls(settings, http, watch, api, other)

    @asynccontextmanager
    async def instance(self, **changes: Any) -> AsyncIterator[Api]:
        """One more instance for one test; on the same database and Redis unless ``changes`` to the settings say not."""
        async with running(self.settings.model_copy(update=changes), self.http, self.watch) as api:
            yield api

    async def people(self, count: int = 2, at: Api | None = None) -> list[Person]:
        """New accounts."""
        return [await (at or self.api).register() for _ in range(count)]

    async def sql(self, statement: str, *values: object) -> None:
        """Changes what is stored, behind the servers' backs."""
        connection = await asyncpg.connect(self.settings.database_url, timeout=10)
        try:
            await connection.execute(statement, *values, timeout=10)
        finally:
            await connection.close()
