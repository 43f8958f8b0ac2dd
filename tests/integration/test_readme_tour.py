"""The tour in README.md, typed as it stands there: on a fresh server, in a folder that holds nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.embedded.postgres import EmbeddedPostgres
from server.embedded.redis import EmbeddedRedis
from tests.support.command import MAIN, environment
from tests.support.instance import Instance
from tests.support.readme import Block, missing_lines, tour
from tests.support.services import free_port

NEXT = "=== block"


@pytest.fixture
def folder() -> Iterator[Path]:
    """What a clone has after `make run`, as far as the tour uses it; nothing runs there afterwards."""
    with tempfile.TemporaryDirectory(prefix="tour-") as made:
        (Path(made) / "main.py").symlink_to(MAIN)
        (Path(made) / ".venv").symlink_to(sys.prefix)
        yield Path(made)
        EmbeddedPostgres(Path(made) / ".parley").stop()
        EmbeddedRedis(Path(made) / ".parley").stop()


def script_of(blocks: list[Block], first_port: str, second_port: str) -> str:
    """One script for the whole terminal. Only the two ports are others than those printed."""
    parts = [block.text for block in blocks if block.kind == "sh"]
    text = f"\necho '{NEXT}'\n".join(["", *parts])
    return text.replace("127.0.0.1:8080", f"127.0.0.1:{first_port}").replace("8081", second_port)


@pytest.mark.timeout(180)  # two starts, and two seconds of listening, on a machine that may be busy
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_tour_does_what_it_says(folder: Path) -> None:
    start, *blocks = tour()
    assert start == Block("sh", "make run\n")
    with Instance(folder / ".parley", PARLEY_DRAIN_GRACE_SECONDS="0") as first:
        port = first.ready().url.rpartition(":")[2]
        done = subprocess.run(
            ["sh", "-eu", "-c", script_of(blocks, port, str(free_port()))],
            cwd=folder,
            env=environment(folder / ".parley"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + first.log()
        assert first.stop() == 0
    printed = iter(done.stdout.split(f"{NEXT}\n")[1:])
    shown = ""
    promises = 0
    for block in blocks:
        if block.kind == "sh":
            shown = next(printed)
        elif block.kind == "text":
            promises += 1
            assert missing_lines(block.text, shown) == [], shown
    assert promises >= 4
    left = {path.name for path in folder.iterdir() if not path.name.startswith("instance-")}
    assert left == {"main.py", ".venv", ".parley"}


def test_a_promise_that_is_not_kept_is_noticed() -> None:
    printed = '{"seq":1,"body":"Hello"}\n201\n'
    assert missing_lines('{"seq":1,…}\n201', printed) == []
    assert missing_lines("201\n{…}", printed) == ["{…}"]
    assert missing_lines('{"seq":2,…}', printed) == ['{"seq":2,…}']
