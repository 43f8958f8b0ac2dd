"""What a PostgreSQL was asked while something was measured: counted by itself, statement by statement, in its log."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from pathlib import Path

import asyncpg

_SETTLE_SECONDS = 0.5  # until the setting has reached every backend, and the last line the file
_STATEMENT = re.compile(
    r"^\S+ \S+ UTC \[\d+\] LOG:  (?:statement|execute [^:]*): (.*(?:\n\t.*)*)", re.MULTILINE
)


class Statements:
    """Has the embedded PostgreSQL of `data_dir` write down every statement while the block runs.

    `made` holds afterwards how often each was made: its text, in one line.
    """

    def __init__(self, url: str, data_dir: Path) -> None:
        self._url = url
        self._folder = data_dir / "postgres" / "log"
        self._sizes: dict[Path, int] = {}
        self.made: Counter[str] = Counter()

    def __enter__(self) -> Statements:
        asyncio.run(self._log("all"))
        time.sleep(_SETTLE_SECONDS)
        self._sizes = {path: path.stat().st_size for path in self._folder.glob("*.log")}
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(_SETTLE_SECONDS)
        written = ""
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as log:
                log.seek(self._sizes.get(path, 0))
                written += log.read().decode(errors="replace")
        asyncio.run(self._log("none"))
        self.made = statements_in(written)

    async def _log(self, which: str) -> None:
        connection = await asyncpg.connect(self._url, timeout=10, command_timeout=10)
        try:
            await connection.execute(f"ALTER SYSTEM SET log_statement = '{which}'")
            await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close(timeout=10)


def statements_in(log: str) -> Counter[str]:
    """The statements a PostgreSQL log tells of."""
    return Counter(" ".join(found[1].split()) for found in _STATEMENT.finditer(log))
