"""One instance as an operator runs it: `python main.py serve` in a process of its own, and what may befall it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping
from pathlib import Path

from faults.proxy import Backend

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 60.0


class StageError(Exception):
    """A part of the stage did not do what it must; the message says which, with the end of its log."""


class Instance:
    """Keeps its name over restarts, not its process and port. The balancer learns of the port when it is there."""

    def __init__(self, backend: Backend, directory: Path, settings: Mapping[str, str]) -> None:
        self.name = backend.name
        self.started_in = 0.0
        """Seconds from the command to the banner, the last time."""
        self._backend = backend
        self._directory = directory
        self._settings = settings
        self._log = directory / f"{backend.name}.log"
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Its own address, past the balancer."""
        return f"http://127.0.0.1:{self._backend.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def beside(self, name: str, **settings: str) -> Instance:
        """Another one on the same services, with some settings of its own and no balancer before it. Close it."""
        return Instance(Backend(name), self._directory, {**self._settings, **settings})

    async def command(self, *words: str) -> None:
        """Runs one of the program's other commands, with this instance's settings. Raises StageError."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "main.py"),
            *words,
            cwd=self._directory,
            env=environment(self._settings),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise StageError(f"{words[0]} has not ended after {START_SECONDS:.0f} s") from None
        if process.returncode:
            raise StageError(f"{words[0]} failed: {said.decode(errors='replace')[-500:]}")

    async def start(self) -> None:
        """Returns once it accepts requests. Raises StageError."""
        assert not self.is_running
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(ROOT / "main.py"),
                "serve",
                cwd=self._directory,  # where no .env of a developer changes anything
                env=environment(self._settings),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C is for the harness, which then stops its instances
            )
        try:
            async with asyncio.timeout(START_SECONDS):
                self._backend.port = await _announced(self._process)
        except (TimeoutError, EOFError):
            raise StageError(f"{self.name} did not start: {self.last_words()}") from None
        self.started_in = time.monotonic() - began

    async def kill(self) -> None:
        """`kill -9`; returns once it is dead."""
        await self._end(signal.SIGKILL)

    async def leave(self) -> int:
        """SIGTERM; returns once it has left by itself, with its exit status. Raises StageError where it does not."""
        return await self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay, and it does nothing."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._running().send_signal(signal.SIGCONT)

    async def close(self) -> None:
        """Ends it, frozen or not, if it still runs. At once: nobody is there any more to be sent away."""
        if self.is_running:
            await self.kill()

    def last_words(self) -> str:
        """The end of what it logged."""
        return self._log.read_text(errors="replace")[-1500:].strip() or "it logged nothing"

    def _running(self) -> Process:
        assert self._process is not None
        assert self._process.returncode is None, f"{self.name} ended: {self.last_words()}"
        return self._process

    async def _end(self, sent: signal.Signals) -> int:
        process = self._running()
        process.send_signal(sent)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                status = await process.wait()
        except TimeoutError:
            raise StageError(f"{self.name} has not ended {STOP_SECONDS:.0f} s after {sent.name}") from None
        self._backend.port, self._backend.ready = 0, False
        return status


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with no setting of Parley but these."""
    ours = ("PARLEY_", "DATABASE_URL", "REDIS_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | dict(settings)


async def _announced(process: Process) -> int:
    """The port from the banner, once the banner is whole. Raises EOFError where the process ends before."""
    assert process.stdout is not None
    port = 0
    while line := await process.stdout.readline():
        if found := re.search(rb"running at http://[^:]+:(\d+)", line):
            port = int(found[1])
        if port and b"Ctrl-C" in line:
            return port
    raise EOFError
