"""An instance of Parley as an operator starts it: `python main.py serve` in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.command import MAIN, environment


class Instance:
    """Started on a free port unless `PARLEY_PORT` is given. A context manager: leaving stops it if it still runs."""

    def __init__(self, data_dir: Path, *, cwd: Path | None = None, **settings: str) -> None:
        self._log = data_dir.parent / f"instance-{time.monotonic_ns()}.log"
        self._began = time.monotonic()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(MAIN), "serve"],
                cwd=cwd or data_dir.parent,
                env=environment(data_dir, **{"PARLEY_PORT": "0", **settings}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.url = ""
        self.banner = ""
        self.started_in = 0.0
        """Seconds from the command to the banner."""

    def ready(self) -> Self:
        """Blocks until the banner is printed, which is when requests are accepted."""
        assert self.process.stdout is not None
        while "Ctrl-C" not in self.banner:
            line = self.process.stdout.readline()
            assert line, f"ended with {self.process.wait(10)}: {self.log()}"
            self.banner += line
        self.started_in = time.monotonic() - self._began
        found = re.search(r"running at (http://\S+)", self.banner)
        assert found, self.banner
        self.url = found[1]
        return self

    def send(self, sent: signal.Signals) -> None:
        self.process.send_signal(sent)

    def stop(self, sent: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
        """Sends a signal and blocks until the process has ended; returns its exit status."""
        self.process.send_signal(sent)
        return self.wait(seconds)

    def wait(self, seconds: float = 30) -> int:
        """Blocks until the process has ended; returns its exit status."""
        self.process.communicate(timeout=seconds)
        return self.process.returncode

    def log(self) -> str:
        """What it wrote on stderr."""
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=30)
