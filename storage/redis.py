"""The Redis client of an instance."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str, *, seconds: float = 2.0) -> Redis:
    """A client that connects at its first command; close it with ``aclose``.

    A command fails after ``seconds``. One that finds its pooled connection cut is sent again once, at once: whoever can
    wait longer for Redis does so in their own loop, and whoever cannot goes on without it (I7).
    """
    return Redis.from_url(
        url,
        socket_connect_timeout=seconds,
        socket_timeout=seconds,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 1),
        # Without this each new connection reads the library's version from its metadata files, on the event loop.
        driver_info=None,
    )
