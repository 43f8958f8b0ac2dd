"""Everything a fault can befall: PostgreSQL, Redis, two instances, and the proxies between all of them and the clients.

clients ── Proxy ──┬── instance one ──┬──────────────────── PostgreSQL
                   └── instance two ──┴── a RedisProxy each ── Redis
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.instances import Instance
from faults.proxy import Proxy, balancing
from faults.redis_proxy import RedisProxy, losing
from faults.services import Postgres, Redis

NAMES = ("one", "two")
SETTINGS = {
    "PARLEY_PORT": "0",
    "PARLEY_RATE_LIMITS": "off",  # all clients have one address
    "PARLEY_BCRYPT_ROUNDS": "4",  # signing 250 accounts up is not what is tried here
    "PARLEY_HEARTBEAT_SECONDS": "3",  # clients take two silent ones for the end of a connection
    "PARLEY_DRAIN_GRACE_SECONDS": "2",  # the balancer looks five times a second
    "NO_COLOR": "1",
}

Say = Callable[[str], None]


class Broken(Exception):
    """A promise was not kept that the histories cannot show; the message says which. Raised by scenarios."""


class NotRun(Exception):
    """The machine does not permit this fault; the message says what it would take. Raised by scenarios."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What scenarios act on. Made by :func:`set_up`. Each leaves it whole: all running, nothing dropped or held."""

    postgres: Postgres
    redis: Redis
    instances: tuple[Instance, ...]
    proxy: Proxy
    hints: Mapping[str, RedisProxy]
    """By instance: each reaches Redis through one of its own."""
    tell: Say
    """Tells whoever watches what happens, in a line."""

    def instance(self, name: str) -> Instance:
        return next(instance for instance in self.instances if instance.name == name)

    async def start(self, instance: Instance) -> None:
        """Starts it and returns once the balancer routes to it."""
        await instance.start()
        await self.proxy.until_ready(instance.name)

    async def until_well(self, seconds: float = 60.0) -> None:
        """Returns once every instance takes connections again. Raises TimeoutError."""
        for instance in self.instances:
            await self.proxy.until_ready(instance.name, seconds)


@asynccontextmanager
async def set_up(
    directory: Path, rng: random.Random, tell: Say, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Stage]:
    """The stage, all parts running. Leaving ends every process that was started, however it is left."""
    async with AsyncExitStack() as parts:
        began = time.monotonic()
        postgres, redis = Postgres(directory / "postgres"), Redis(directory / "redis")
        for service in (postgres, redis):
            parts.push_async_callback(whole, service.close)
            await whole(service.start)
        hints = {
            name: await parts.enter_async_context(losing(redis.port, random.Random(rng.random())))
            for name in NAMES
        }
        proxy = await parts.enter_async_context(balancing(NAMES, random.Random(rng.random())))
        shared = SETTINGS | {
            "DATABASE_URL": postgres.url,
            "PARLEY_DATA_DIR": str(directory / "data"),
            "PARLEY_SECRET_KEY": secrets.token_hex(32),
        }
        instances = tuple(
            Instance(
                proxy.backends[name],
                directory,
                shared | {"REDIS_URL": f"redis://127.0.0.1:{hints[name].port}/0"} | dict(settings or {}),
            )
            for name in NAMES
        )
        parts.push_async_callback(_close, instances)
        stage = Stage(postgres, redis, instances, proxy, hints, tell)
        await _each(instance.start() for instance in instances)
        await stage.until_well()
        tell(f"two instances up in {time.monotonic() - began:.1f} s")
        yield stage


async def whole(work: Callable[[], None]) -> None:
    """Does what blocks in a thread. Cancelled, it waits for its end, so whoever cleans up finds nothing half done."""
    doing = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise


async def _close(instances: tuple[Instance, ...]) -> None:
    await _each(instance.close() for instance in instances)


async def _each(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of them at once, to their ends; then raises what the first that failed did."""
    for ended in await asyncio.gather(*works, return_exceptions=True):
        if ended is not None:
            raise ended
