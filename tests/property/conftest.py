"""A running server for tests that are not async: Hypothesis and schemathesis call them, not the loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest

from handlers.routes import ROUTES
from server import openapi
from server.embedded import EmbeddedServices
from tests.conftest import Databases, settings_for_tests
from tests.support.clients import Answer, Api
from tests.support.contract import Contract
from tests.support.house import running
from tests.support.logs import errors_logged
from tests.support.loop import LoopThread


@dataclass(frozen=True, slots=True)
class Served:
    """One instance for the tests of a module. ``errors``: what it has logged as one."""

    loop: LoopThread
    api: Api
    contract: Contract
    errors: list[str]


@pytest.fixture(scope="module")
def served(
    services: EmbeddedServices,
    databases: Databases,
    template_database: str,
    loop_thread: LoopThread,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    url = databases.create(template_database)
    chosen = settings_for_tests(tmp_path_factory.mktemp("data"), url, services.redis_url)
    contract = Contract(openapi.build(ROUTES))
    stack = AsyncExitStack()

    def watch(method: str, address: str, answer: Answer) -> None:
        contract.answer(method, address, answer.status, answer.headers, answer.text)

    async def begin() -> Api:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        return await stack.enter_async_context(running(chosen, http, watch))

    with errors_logged() as errors:
        yield Served(loop_thread, loop_thread.run(begin()), contract, errors)
        loop_thread.run(stack.aclose())
    databases.drop(url)


@pytest.fixture
def quiet(served: Served) -> Iterator[None]:
    """Nothing a client sends is an error of the server's."""
    served.errors.clear()
    yield
    assert served.errors == []
