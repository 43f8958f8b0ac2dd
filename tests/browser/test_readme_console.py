"""What README.md says to type into a browser's console, typed into a real one's."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from server.embedded.postgres import EmbeddedPostgres
from server.embedded.redis import EmbeddedRedis
from tests.support.chromium import PROGRAM, opened
from tests.support.clients import Api
from tests.support.instance import Instance
from tests.support.readme import tour

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="needs Chromium"),
    pytest.mark.allow_blocking,
    pytest.mark.timeout(180),
]


@pytest.fixture
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="console-") as made:
        yield Path(made) / "data"
        EmbeddedPostgres(Path(made) / "data").stop()
        EmbeddedRedis(Path(made) / "data").stop()


async def test_a_browser_goes_on_after_its_server_was_killed(data: Path) -> None:
    open_socket, say, open_stream, open_again, say_again = [b.text for b in tour() if b.kind == "js"]
    with Instance(data) as first:
        url = (await asyncio.to_thread(first.ready)).url
        async with aiohttp.ClientSession() as http:
            ada, bob = [await Api(http, url).register(name) for name in ("ada", "bob")]
            chat = await ada.direct_with(bob)
        async with opened(f"{url}/api/docs/") as page:
            await page.type(open_socket)
            await page.line("socket hello")
            await page.type(say)
            await page.line("socket reply", '"ok":true')
            await page.line("socket message.created", "Hello from a browser")
            await page.type(open_stream)
            await page.line("stream hello")

            first.stop(signal.SIGKILL)
            await page.line("socket closed")
            with Instance(data, PARLEY_PORT=url.rpartition(":")[2], PARLEY_DRAIN_GRACE_SECONDS="0") as second:
                await asyncio.to_thread(second.ready)
                async with aiohttp.ClientSession() as http:
                    await ada.at(Api(http, url)).say(chat, "While you were away")
                await page.line("stream hello")
                await page.line("stream message.created", "While you were away")
                await page.type(open_again)
                await page.line("socket hello")
                await page.line("socket message.created", "While you were away")
                await page.type(say_again)
                await page.line("socket message.created", "Nothing happened")
                await page.line("stream message.created", "Nothing happened")
                assert page.lines("message.created") == []  # nothing came twice
                assert second.stop() == 0
