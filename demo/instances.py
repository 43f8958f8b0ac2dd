"""The instances of the show: real processes on one data directory, started, killed and started again."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from server.embedded.postgres import EmbeddedPostgres
from server.embedded.redis import EmbeddedRedis

MAIN = Path(__file__).resolve().parent.parent / "main.py"
START_SECONDS = 120.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.4
"""How often each instance is asked for its health, and how long it may take to answer."""


class StartError(Exception):
    """An instance did not come up; the message holds the end of its log."""


class State(StrEnum):
    DOWN = "down"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"  # its own word for Redis being away
    KILLED = "killed"


@dataclass(slots=True)
class Instance:
    """One instance. It keeps its name over a restart, not its address and process id."""

    name: str
    url: str = ""
    pid: int = 0
    state: State = State.DOWN
    process: Process | None = None

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.returncode is None


class Fleet:
    """Instances on one data directory, with PostgreSQL and Redis embedded. An async context manager.

    Leaving stops every process that was started, the embedded services too, however the show ended.
    """

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        self._directory = directory
        self.instances = tuple(Instance(name) for name in names)

    @property
    def data_dir(self) -> Path:
        return self._directory / "data"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = asyncio.ensure_future(self._end())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:  # cut short, it would leave processes behind
            await asyncio.wait([ending])
            raise

    def after(self, instance: Instance) -> Instance:
        """The one to try when this one does not answer: what a client with a list of addresses does."""
        at = self.instances.index(instance)
        return self.instances[(at + 1) % len(self.instances)]

    async def start(self, instance: Instance) -> float:
        """Starts it on a free port; the seconds until it accepted requests. Raises StartError."""
        began = time.monotonic()
        instance.state, instance.url = State.STARTING, ""
        log = _open_log(self._directory / f"{instance.name}.log")
        try:
            instance.process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(MAIN),
                "serve",
                cwd=self._directory,  # where no .env of a developer changes the show
                env=_environment(self.data_dir),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is for the show, which then stops its instances
            )
        finally:
            os.close(log)
        instance.pid = instance.process.pid
        try:
            async with asyncio.timeout(START_SECONDS):
                instance.url = await _announced(instance.process)
        except (TimeoutError, EOFError):
            raise StartError(f"{instance.name} did not start: {self.last_words(instance)}") from None
        instance.state = State.READY
        return time.monotonic() - began

    async def kill(self, instance: Instance) -> None:
        """`kill -9`, with no warning and before anything is awaited; returns once it is dead."""
        assert instance.process is not None
        instance.process.send_signal(signal.SIGKILL)
        instance.state = State.KILLED
        async with asyncio.timeout(STOP_SECONDS):
            await instance.process.wait()

    async def watch(self, http: aiohttp.ClientSession) -> None:
        """Keeps each running instance's state as its own `/readyz` tells it. Runs until cancelled."""
        while True:
            await asyncio.gather(*(_look(http, instance) for instance in self.instances))
            await asyncio.sleep(LOOK_SECONDS)

    async def _end(self) -> None:
        await asyncio.gather(*(_stop(instance) for instance in self.instances))
        # The last instance stops them itself; where it had to be killed, nobody did.
        await asyncio.to_thread(self._stop_services)

    def _stop_services(self) -> None:
        EmbeddedRedis(self.data_dir).stop()
        EmbeddedPostgres(self.data_dir).stop()

    def last_words(self, instance: Instance) -> str:
        """The end of what it logged."""
        log = self._directory / f"{instance.name}.log"
        return log.read_text(errors="replace")[-1500:].strip() if log.exists() else "it logged nothing"


def _open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _environment(data_dir: Path) -> dict[str, str]:
    """This process's environment with no setting of Parley but those of the show."""
    ours = ("PARLEY_", "DATABASE_URL", "REDIS_URL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {
        "PARLEY_DATA_DIR": str(data_dir),
        "PARLEY_PORT": "0",
        "PARLEY_RATE_LIMITS": "off",  # six people who all have one address and count as fast as they can
        "PARLEY_DRAIN_GRACE_SECONDS": "0",
        "NO_COLOR": "1",
    }


async def _announced(process: Process) -> str:
    """The address from the banner, once the banner is whole. Raises EOFError where the process ends before."""
    assert process.stdout is not None
    url = ""
    while line := await process.stdout.readline():
        if found := re.search(rb"running at (http://\S+)", line):
            url = found[1].decode()
        if url and b"Ctrl-C" in line:
            return url
    raise EOFError


async def _look(http: aiohttp.ClientSession, instance: Instance) -> None:
    asked = instance.url
    if instance.state not in (State.READY, State.DEGRADED):
        return
    try:
        async with asyncio.timeout(LOOK_SECONDS), http.get(asked + "/readyz") as response:
            status = (await response.json())["status"]
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return  # busy; whether it was killed, we know
    if instance.url == asked and instance.state in (State.READY, State.DEGRADED):
        instance.state = {"ok": State.READY, "degraded": State.DEGRADED}.get(status, State.DOWN)


async def _stop(instance: Instance) -> None:
    process = instance.process
    if process is None or process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    instance.state = State.DOWN
