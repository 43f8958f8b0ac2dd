"""Two instances on a PostgreSQL and a Redis of their own, with limits so low that every one of them is reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.processes import Server, parleys
from server.embedded.postgres import EmbeddedPostgres
from server.embedded.redis import EmbeddedRedis

RETENTION_SECONDS = 60.0
_SLACK_SECONDS = 30.0  # the loop that raises the floor works every 10 s; two of its rounds and a starved one
RING_EVENTS = 4000

SETTINGS = {
    "PARLEY_ACCESS_TOKEN_SECONDS": "45",  # connections see their tokens end
    "PARLEY_HEARTBEAT_SECONDS": "5",
    "PARLEY_LOG_RETENTION_HOURS": str(RETENTION_SECONDS / 3600),
    "PARLEY_RING_EVENTS": str(RING_EVENTS),  # full within the warm-up, so that it is not taken for a leak
    "PARLEY_RING_BYTES": "8MiB",
    "PARLEY_DATABASE_POOL_SIZE": "4",  # so that every connection soon has every statement prepared
    "PARLEY_SESSION_QUEUE_EVENTS": "32",
    "PARLEY_SESSION_QUEUE_BYTES": "16KiB",
    "PARLEY_LOG_LEVEL": "warning",
    "PARLEY_LOG_FORMAT": "json",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """What is under load. `postmaster` is the first process of PostgreSQL."""

    servers: tuple[Server, ...]
    database_url: str
    redis_url: str
    postmaster: int
    retention_seconds: float
    retention_slack: float

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(server.port for server in self.servers)


@contextmanager
def stage(instances: int = 2) -> Iterator[Stage]:
    """Started, and empty. Raises StartError."""
    with parleys(instances, **SETTINGS) as servers:
        data = servers[0].data_dir
        pid_file = data / "postgres" / "postmaster.pid"
        yield Stage(
            servers,
            EmbeddedPostgres(data).ensure_running(),
            EmbeddedRedis(data).ensure_running(),
            int(pid_file.read_text().split("\n", 1)[0]),
            RETENTION_SECONDS,
            _SLACK_SECONDS,
        )
