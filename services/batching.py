"""Many small look-ups made into few large ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

import aiojobs

from domain.errors import Unavailable

K = TypeVar("K")
V = TypeVar("V")


SMALL = 8
"""So few keys after a whole interval are no storm: callers that come one after another wait once a burst, not each."""


class Batcher(Generic[K, V]):
    """Answers ``get`` calls by loads of many keys: one load in flight, and what arrives meanwhile is the next.

    When idle nothing is delayed. Past ``burst`` loads close together the next ones start ``interval`` seconds apart,
    also where the keys arrive one by one, so a storm of any size costs at most ``burst + t / interval`` loads in ``t``
    seconds (and one for each ``max_batch`` keys). The allowance comes back at that pace, and at once where an interval
    brought no more than a few keys.

    ``load`` is given distinct keys and answers for those it found. What it raises, all who waited for it get; with the
    scheduler closed that is Unavailable.
    """

    def __init__(
        self,
        load: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        jobs: aiojobs.Scheduler,
        *,
        burst: int = 20,
        interval: float = 0.2,
        max_batch: int = 5000,
    ) -> None:
        self._load = load
        self._jobs = jobs
        self._burst = burst
        self._interval = interval
        self._max_batch = max_batch
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._draining = False
        self._paid_until = 0.0  # loop time at which the whole burst is free again

    async def get(self, key: K) -> V | None:
        """What the first load that starts after this call says of ``key``; None where it has nothing.

        Cancelling it does not disturb the others who wait for the same load.
        """
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            if not self._draining:
                await self._start()
        return await asyncio.shield(future)

    async def _start(self) -> None:
        self._draining = True
        drain = self._drain()
        try:
            await self._jobs.spawn(drain)
        except BaseException as error:
            drain.close()
            self._draining = False
            self._fail(self._take(len(self._waiting)), Unavailable("shutting down"))
            if isinstance(error, RuntimeError):  # closed
                raise Unavailable("this instance is going away") from error
            raise

    async def _drain(self) -> None:
        batch: dict[K, asyncio.Future[V | None]] = {}
        try:
            while self._waiting:
                await self._pace()
                batch = self._take(self._max_batch)
                await self._answer(batch)
        except BaseException:  # cancelled: the process ends
            self._fail(batch | self._take(len(self._waiting)), Unavailable("shutting down"))
            raise
        finally:
            self._draining = False

    async def _pace(self) -> None:
        clock = asyncio.get_running_loop().time
        wait = self._paid_until - clock() - self._interval * (self._burst - 1)
        if wait > 0:
            await asyncio.sleep(wait)
            if len(self._waiting) <= SMALL:
                self._paid_until = 0.0
        self._paid_until = max(self._paid_until, clock()) + self._interval

    async def _answer(self, batch: dict[K, asyncio.Future[V | None]]) -> None:
        try:
            found = await self._load(list(batch))
        except Exception as error:
            self._fail(batch, error)
            return
        for key, future in batch.items():
            if not future.done():
                future.set_result(found.get(key))

    def _take(self, count: int) -> dict[K, asyncio.Future[V | None]]:
        if count >= len(self._waiting):
            batch, self._waiting = self._waiting, {}
            return batch
        return {key: self._waiting.pop(key) for key in list(self._waiting)[:count]}

    @staticmethod
    def _fail(batch: Mapping[K, asyncio.Future[V | None]], error: Exception) -> None:
        for future in batch.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # those who waited may be gone: nobody has to look at it
