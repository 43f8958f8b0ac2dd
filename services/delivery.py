"""What has arrived where: clients say so by acknowledging, reconnecting and polling; receipts take it in batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Protocol

import structlog

from domain.errors import Unavailable
from domain.ids import TenantId, UserId
from domain.waiting import within

logger = structlog.get_logger(__name__)

Reader = tuple[TenantId, UserId]


class Receipts(Protocol):
    """``services.receipts.Receipts`` is one."""

    async def delivered_up_to(self, marks: Mapping[Reader, int]) -> None:
        """Everything up to the position has been delivered to the user, in every conversation of theirs."""
        ...

    async def announce_owed(self) -> int:
        """Tells the receipts that were held back to one a second. How many it told."""
        ...


class DeliveryMarks:
    """Collects marks and stores them together: one write in flight, what arrives meanwhile is the next.

    A mark that nobody waits for may be lost where the process dies before it is stored, ``APART`` after it came: the
    client that comes back with its cursor makes it anew. A stop in order calls :meth:`flush`, which loses none.

    Writes that nobody waits for are a little apart, so that ten thousand cursors that come back one by one cost a few
    statements, not one each.
    """

    APART = 0.25  # seconds
    SWEEP = 0.25  # seconds between two looks for receipts that are owed
    LAST = 2.0  # seconds that a stop waits for the last write

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts
        self._waiting: dict[Reader, int] = {}
        self._storing: dict[Reader, int] = {}
        self._stored: asyncio.Future[None] | None = None
        self._arrived = asyncio.Event()
        self._hurry = asyncio.Event()

    def mark(self, tenant: TenantId, user: UserId, position: int) -> None:
        """Notes it, to be stored soon."""
        key = (tenant, user)
        if position > self._waiting.get(key, 0):
            self._waiting[key] = position
            self._arrived.set()

    async def mark_now(self, tenant: TenantId, user: UserId, position: int) -> None:
        """Notes it and returns once it is stored. Raises Unavailable."""
        if position <= 0:
            return  # before the first event there is nothing that could have arrived
        self.mark(tenant, user, position)
        if self._stored is None:
            self._stored = asyncio.get_running_loop().create_future()
        self._hurry.set()
        await asyncio.shield(self._stored)

    async def flush(self) -> None:
        """Returns when all that was noted is stored, or could not be, or after ``LAST`` seconds; never raises.

        For the end of an instance, while :meth:`run` runs and writes are still taken.
        """
        if self._stored is None:
            self._stored = asyncio.get_running_loop().create_future()
        self._arrived.set()  # without any mark too: whoever stores now comes here after it
        self._hurry.set()
        try:
            await within(self.LAST, asyncio.shield(self._stored))
        except (TimeoutError, Unavailable) as error:
            lost = len(self._waiting.keys() | self._storing.keys())
            logger.warning("delivery.unstored", marks=lost, error=type(error).__name__)

    async def run(self) -> None:
        """Stores marks, and tells the receipts that are owed, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._store_forever())
            tasks.create_task(self._sweep_forever())

    async def _store_forever(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            self._hurry.clear()
            marks = self._storing = self._waiting
            self._waiting = {}
            stored, self._stored = self._stored, None
            try:
                if marks:
                    await self._receipts.delivered_up_to(marks)
            except Exception as error:
                self._failed(marks, stored, error)
                await asyncio.sleep(self.SWEEP)
            else:
                self._storing = {}
                if stored is not None and not stored.done():
                    stored.set_result(None)
                with contextlib.suppress(TimeoutError):
                    await within(self.APART, self._hurry.wait())

    def _failed(
        self, marks: Mapping[Reader, int], stored: asyncio.Future[None] | None, error: Exception
    ) -> None:
        """Nothing is lost: the marks are tried again with the next ones."""
        logger.warning("delivery.unstored", marks=len(marks), error=type(error).__name__)
        for (tenant, user), position in marks.items():
            self.mark(tenant, user, position)
        if stored is not None and not stored.done():
            stored.set_exception(error if isinstance(error, Unavailable) else Unavailable())
            stored.exception()  # nobody may be waiting any more

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self.SWEEP)
            try:
                await self._receipts.announce_owed()
            except Exception as error:
                logger.warning("receipts.unannounced", error=type(error).__name__)
                await asyncio.sleep(1)
