"""Runs the command line as an operator does: a process with an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "main.py"


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """This process's environment without any setting of Parley, plus `settings`."""
    ours = ("PARLEY_", "DATABASE_URL", "REDIS_URL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"PARLEY_DATA_DIR": str(data_dir), "PARLEY_BCRYPT_ROUNDS": "4", "NO_COLOR": "1"} | settings


def run(
    *arguments: str, data_dir: Path, cwd: Path | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python main.py …` to its end, in the data directory's parent unless told otherwise."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", str(MAIN), *arguments],
        cwd=cwd or data_dir.parent,
        env=environment(data_dir, **settings),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
