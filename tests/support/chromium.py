"""A real browser without a window, driven as its own developer tools drive it (Chrome DevTools Protocol)."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
SECONDS = 30.0
_OPTIONS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--remote-debugging-port=0",
)

Json = dict[str, Any]


class Page:
    """One tab, and its console."""

    def __init__(self, devtools: aiohttp.ClientWebSocketResponse) -> None:
        self._devtools = devtools
        self._ids = itertools.count(1)
        self._console: list[str] = []
        self._answers: dict[int, Json] = {}
        self._happened: list[str] = []

    async def visit(self, url: str) -> None:
        """Returns when the page has loaded."""
        for domain in ("Page", "Runtime", "Log"):
            await self._call(f"{domain}.enable")
        await self._call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._happened:
            await self._hear()

    async def type(self, script: str) -> None:
        """Types into the console: `await` works, and what is declared stays. Raises where the script does."""
        answer = await self._call("Runtime.evaluate", expression=script, replMode=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]

    async def line(self, *parts: str) -> str:
        """Waits for a console line that holds all these parts, and takes it out of the console."""
        async with asyncio.timeout(SECONDS):
            while True:
                for line in self._console:
                    if all(part in line for part in parts):
                        self._console.remove(line)
                        return line
                await self._hear()

    def lines(self, *parts: str) -> list[str]:
        """The lines so far that hold all these parts and were not taken out."""
        return [line for line in self._console if all(part in line for part in parts)]

    async def _call(self, method: str, **params: object) -> Json:
        name = next(self._ids)
        command = {"id": name, "method": method, "params": params}
        await self._devtools.send_str(orjson.dumps(command).decode())
        async with asyncio.timeout(SECONDS):
            while name not in self._answers:
                await self._hear()
        answer = self._answers.pop(name)
        assert "error" not in answer, answer
        result: Json = answer["result"]
        return result

    async def _hear(self) -> None:
        said: Json = orjson.loads((await self._devtools.receive(SECONDS)).data)
        if "id" in said:
            self._answers[said["id"]] = said
            return
        self._happened.append(said["method"])
        if said["method"] == "Runtime.consoleAPICalled":
            values = [str(each.get("value", each.get("description"))) for each in said["params"]["args"]]
            self._console.append(" ".join(values))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Page]:
    """A page in a fresh browser profile. Needs `PROGRAM`."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        options = [*_OPTIONS, f"--user-data-dir={profile}"]
        if os.geteuid() == 0:  # a browser's own sandbox refuses root
            options.append("--no-sandbox")
        browser = await asyncio.create_subprocess_exec(
            PROGRAM,
            *options,
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
                assert browser.stderr is not None
                tab = await _tab(http, browser.stderr)
                rest = tasks.create_task(browser.stderr.read())  # a full pipe would hold the browser up
                async with http.ws_connect(tab, max_msg_size=0) as devtools:
                    page = Page(devtools)
                    await page.visit(url)
                    yield page
                rest.cancel()
        finally:
            browser.terminate()
            await browser.wait()


async def _tab(http: aiohttp.ClientSession, said: asyncio.StreamReader) -> str:
    """Where the developer tools of the first tab are."""
    async with asyncio.timeout(SECONDS):
        while (line := (await said.readline()).decode(errors="replace")) != "":
            if (found := re.search(r"DevTools listening on ws://([^/\s]+)/", line)) is not None:
                async with http.get(f"http://{found[1]}/json/list") as answer:
                    targets = await answer.json()
                return next(str(t["webSocketDebuggerUrl"]) for t in targets if t["type"] == "page")
    raise AssertionError("the browser ended")
