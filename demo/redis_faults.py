"""The embedded Redis as the show treats it: looked at, emptied, killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from server.embedded.redis import EmbeddedRedis

LOOK_SECONDS = 0.1
ANSWER_SECONDS = 2.0
BACK_SECONDS = 30.0


class RedisFaults:
    """`is_up` and `pid` are kept by `watch`.

    Calls go through a thread: on Python 3.11 the client for asyncio can lose a cancellation, and then the show
    would never end.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._killed = 0
        self.is_up = False
        self.pid = 0

    async def watch(self) -> None:
        """Asks Redis ten times a second whether it is there. Runs until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def flush(self) -> int:
        """FLUSHALL; how many keys there were."""
        return await asyncio.to_thread(self._flush)

    async def kill(self) -> float:
        """`kill -9`; the monotonic time at which it was sent. An instance notices and starts it again."""
        await self._look()
        self._killed, self.is_up = self.pid, False
        at = time.monotonic()
        os.kill(self.pid, signal.SIGKILL)
        return at

    async def until_back(self) -> float:
        """Waits until another process than the killed one answers; the monotonic time. Raises TimeoutError."""
        async with asyncio.timeout(BACK_SECONDS):
            while not (self.is_up and self.pid != self._killed):
                await asyncio.sleep(LOOK_SECONDS / 5)
                await self._look()
        return time.monotonic()

    async def _look(self) -> None:
        pid = await asyncio.to_thread(self._process_id)
        self.is_up = pid not in (0, self._killed)
        self.pid = pid or self.pid

    def _process_id(self) -> int:
        """0 where nobody answers."""
        try:
            with self._client() as redis:
                return int(cast("dict[str, str]", redis.info("server"))["process_id"])
        except (RedisError, OSError):
            return 0

    def _flush(self) -> int:
        with self._client() as redis:
            keys = cast("int", redis.dbsize())
            redis.flushall()
        return keys

    def _client(self) -> Redis:
        return Redis.from_url(
            EmbeddedRedis(self._data_dir).url(),
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
        )
