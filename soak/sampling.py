"""What the parts hold at a moment: the instances by their own metrics and the kernel, PostgreSQL and Redis by both."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import asyncpg
from redis.asyncio import Redis

from bench.accounting import descendants, rss_bytes
from soak.stage import Stage

MIB = 1024 * 1024
_NAME = "soak"  # what PostgreSQL shows this program's own connection as
_TIMEOUT = 15.0
_SETTLED = 3  # readings in a row, a second apart
_LINE = re.compile(r"^(\w+)(?:\{(.*)\})? ([0-9.e+-]+)$", re.MULTILINE)

# The floor may be as old as the retention, the time between two rounds of the loop that raises it, and one round.
_STORED = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'parley') AS connections,
    h.position, h.floor, (SELECT count(*) FROM log_marks) AS marks,
    (SELECT count(*) FROM membership_windows) AS windows, (SELECT count(*) FROM events) AS rows
FROM log_heads h WHERE h.log = 0
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures by name, `at` seconds since the sampler began."""

    at: float
    figures: dict[str, float]


class Sampler:
    """Reads all figures; one at a time."""

    def __init__(
        self,
        stage: Stage,
        session: aiohttp.ClientSession,
        database: asyncpg.Connection[asyncpg.Record],
        redis: Redis,
    ) -> None:
        self._stage = stage
        self._session = session
        self._database = database
        self._redis = redis
        self._began = time.monotonic()
        self._heads: list[tuple[float, int]] = []

    async def sample(self) -> Sample:
        """Raises what reading raises: a part that does not answer is a failure of the run."""
        figures: dict[str, float] = {}
        for number, server in enumerate(self._stage.servers, 1):
            figures[f"memory, instance {number}"] = rss_bytes(server.pids) / MIB
            for name, value in (await self._scrape(server.port)).items():
                figures[f"{name}, instance {number}"] = value
        async with asyncio.timeout(_TIMEOUT):
            stored = await self._database.fetchrow(_STORED)
            memory = await self._redis.info("memory")
            clients = await self._redis.info("clients")
        assert stored is not None, "the log has a head"
        at = time.monotonic() - self._began
        figures |= {
            "PostgreSQL connections": stored["connections"],
            "PostgreSQL memory": await asyncio.to_thread(_own_bytes, self._stage.postmaster) / MIB,
            "Redis connections": clients["connected_clients"] - 1,
            "Redis memory": memory["used_memory"] / MIB,
            "log rows": stored["rows"],
            "log rows within retention": stored["position"] - stored["floor"],
            "log marks": stored["marks"],
            "membership windows": stored["windows"],
            "log rows past retention": self._kept_too_long(at, stored["position"], stored["floor"]),
        }
        files = sum(value for name, value in figures.items() if name.startswith("open files"))
        own = figures["PostgreSQL connections"] + figures["Redis connections"]
        figures["open files beside PostgreSQL's and Redis's"] = files - own
        return Sample(at, figures)

    async def at_rest(self, seconds: float = 45.0) -> Sample:
        """The figures once nobody is connected and nothing has changed for a while; after `seconds` as they are."""
        deadline = time.monotonic() + seconds
        before, same = await self.sample(), 0
        while same < _SETTLED and time.monotonic() < deadline:
            await asyncio.sleep(1.0)
            now = await self.sample()
            same = same + 1 if _is_quiet(now) and _counts(now) == _counts(before) else 0
            before = now
        return before

    async def _scrape(self, port: int) -> dict[str, float]:
        async with self._session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            answer.raise_for_status()
            text = await answer.text()
        found: dict[str, float] = {"connections": 0.0}
        for name, labels, value in _LINE.findall(text):
            match name:
                case "parley_tasks":
                    found["tasks"] = float(value)
                case "process_open_fds":
                    found["open files"] = float(value)
                case "parley_connections":
                    found["connections"] += float(value)
                case "parley_queue_depth" if "sessions" in labels:
                    found["sessions"] = float(value)
                case "parley_cache_entries":
                    found["cached " + labels.split('"')[1]] = float(value)
        return found

    def _kept_too_long(self, at: float, head: int, floor: int) -> float:
        """How many rows below the head of retention ago, and a while, can still be read."""
        self._heads.append((at, head))
        overdue = at - self._stage.retention_seconds - self._stage.retention_slack
        past = [position for then, position in self._heads if then <= overdue]
        return max(0.0, past[-1] - floor) if past else 0.0


def _is_quiet(sample: Sample) -> bool:
    return not any(
        value for name, value in sample.figures.items() if name.startswith(("sessions", "connections"))
    )


def _counts(sample: Sample) -> list[float]:
    return [value for name, value in sample.figures.items() if name.startswith(("tasks", "open files"))]


def _own_bytes(root: int) -> int:
    """What a tree of processes has for itself; shared memory is left out, which PostgreSQL fills up to its setting."""
    total = 0
    for pid in descendants(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:  # it ended between two looks
            continue
        found = re.search(r"^Pss_Anon:\s+(\d+) kB", text, re.MULTILINE)
        total += int(found[1]) * 1024 if found else 0
    return total


@asynccontextmanager
async def sampler(stage: Stage) -> AsyncIterator[Sampler]:
    """With connections of its own, which are not counted."""
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
    database = await asyncpg.connect(
        stage.database_url, server_settings={"application_name": _NAME}, timeout=_TIMEOUT
    )
    redis = Redis.from_url(stage.redis_url, socket_timeout=_TIMEOUT, single_connection_client=True)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield Sampler(stage, session, database, redis)
    finally:
        await redis.aclose()
        await database.close(timeout=_TIMEOUT)


def series(samples: Sequence[Sample], figure: str) -> tuple[list[float], list[float]]:
    """(times, values) of one figure."""
    return [sample.at for sample in samples], [sample.figures[figure] for sample in samples]
