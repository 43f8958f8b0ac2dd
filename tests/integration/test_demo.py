"""`python -m demo`, as `make demo` runs it: it ends by itself with its proof, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.command import ROOT


@contextmanager
def demo(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Running, with `directory` for its temporary files."""
    process = subprocess.Popen(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def left_by(directory: Path) -> list[str]:
    """What still runs there, and the files that are there."""
    running = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        about = [process.info["cwd"] or "", *(process.info["cmdline"] or [])]
        if any(str(directory) in part for part in about):
            running.append(" ".join(about))
    return running + [path.name for path in directory.iterdir()]


@pytest.mark.timeout(150)
def test_the_demo_proves_that_nobody_missed_or_doubled_anything(tmp_path: Path) -> None:
    with demo(tmp_path, "--plain", "--pace", "0.15") as process:
        output, _ = process.communicate(timeout=140)
    assert process.returncode == 0, output
    assert output.splitlines()[-1].startswith("PROVED:")
    for told in (
        "kill -9 west: 3 people",
        "FLUSHALL",
        "west is back",
        "Redis is back",
        "cleo deletes message",
    ):
        assert told in output
    assert left_by(tmp_path) == []


@pytest.mark.timeout(90)
def test_a_stopped_demo_ends_what_it_started(tmp_path: Path) -> None:
    with demo(tmp_path, "--plain") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any("is ready" in line for line in lines)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert rest.splitlines()[-1] == "Stopped, with everything that was started."
    assert left_by(tmp_path) == []
