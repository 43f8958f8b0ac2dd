"""Servers for acceptance tests: in this process, on the real PostgreSQL and Redis, reached over TCP.

| fixture | what it is |
| --- | --- |
| `api` | one running instance |
| `contract` | the OpenAPI document, which every answer that `Api.call` sees is held against |
| `start` | starts further instances on the same database and Redis; keyword arguments change settings |
| `ann`, `bob`, `carol` | three people with accounts on `api` |
| `house` | two instances for all tests of a module: no test may rely on being alone there |

`house` lives on the module's loop, so a module that uses it says
``pytestmark = pytest.mark.asyncio(loop_scope="module")`` and takes its servers and people from there alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from handlers.routes import ROUTES
from server import openapi
from server.embedded import EmbeddedServices
from server.settings import Settings
from tests.conftest import Databases, settings_for_tests
from tests.support.clients import Answer, Api, Person, Watcher
from tests.support.contract import Contract
from tests.support.house import House, running

Start = Callable[..., Awaitable[Api]]


@pytest.fixture(scope="session")
def contract() -> Contract:
    return Contract(openapi.build(ROUTES))


@pytest.fixture(scope="session")
def watch(contract: Contract) -> Watcher:
    def check(method: str, url: str, answer: Answer) -> None:
        contract.answer(method, url, answer.status, answer.headers, answer.text)

    return check


@pytest.fixture
async def start(settings: Settings, watch: Watcher) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())

        async def start_one(**changes: Any) -> Api:
            changed = settings.model_copy(update=changes)
            return await stack.enter_async_context(running(changed, http, watch))

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


@pytest.fixture(scope="module")
def module_database_url(databases: Databases, template_database: str) -> Iterator[str]:
    url = databases.create(template_database)
    yield url
    databases.drop(url)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(
    tmp_path_factory: pytest.TempPathFactory,
    module_database_url: str,
    services: EmbeddedServices,
    watch: Watcher,
) -> AsyncIterator[House]:
    settings = settings_for_tests(tmp_path_factory.mktemp("data"), module_database_url, services.redis_url)
    async with House.opened(settings, watch) as opened:
        yield opened
