"""Servers for acceptance tests: in this process, on the real PostgreSQL and Redis, reached over TCP.

| fixture | what it is |
| --- | --- |
| `api` | one running instance |
| `contract` | the OpenAPI document, which every answer that `Api.call` sees is held against |
| `start` | starts further instances on the same database and Redis; keyword arguments change settings |
| `ann`, `bob`, `carol` | three people with accounts on `api` |
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from handlers.routes import ROUTES
from server import openapi
from server.app import create_app
from server.protocol import Runner
from server.settings import Settings
from tests.support.clients import Answer, Api, Person
from tests.support.contract import Contract

Start = Callable[..., Awaitable[Api]]


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract(openapi.build(ROUTES))


@pytest.fixture
async def start(settings: Settings, contract: Contract) -> AsyncIterator[Start]:
    def watch(method: str, url: str, answer: Answer) -> None:
        contract.answer(method, url, answer.status, answer.headers, answer.text)

    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())

        async def start_one(**changes: Any) -> Api:
            changed = settings.model_copy(update=changes)
            assert changed.database_url is not None
            assert changed.redis_url is not None
            app = await create_app(changed, database_url=changed.database_url, redis_url=changed.redis_url)
            runner = Runner(app, shutdown_timeout=0.2)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            return Api(http, f"http://127.0.0.1:{port}", watch)

        yield start_one


@pytest.fixture
async def api(start: Start) -> Api:
    return await start()


@pytest.fixture
async def ann(api: Api) -> Person:
    return await api.register()


@pytest.fixture
async def bob(api: Api) -> Person:
    return await api.register()


@pytest.fixture
async def carol(api: Api) -> Person:
    return await api.register()
