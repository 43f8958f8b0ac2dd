"""Tends the log: partitions ahead of the head, and dropped once they are past retention."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import structlog

from domain.errors import Unavailable
from storage import log, retention
from storage.database import Connection, Database

logger = structlog.get_logger(__name__)

AHEAD = 2  # partitions that stand ready beyond the one in use


class Retention:
    """One instance at a time does the work; the others find the advisory lock taken and wait for their turn.

    ``every``: seconds between two rounds, longer than an instance may know the floor late. ``partition_events``: how
    many positions a new partition has; those that are there keep their size.
    """

    def __init__(
        self,
        database: Database,
        *,
        keep_hours: float,
        every: float = 10.0,
        partition_events: int = retention.PARTITION_EVENTS,
    ) -> None:
        self._database = database
        self._keep = timedelta(hours=keep_hours)
        self._every = every
        self._partition_events = partition_events
        self._floor = 0  # as it was the last time this instance tended the log

    async def run(self) -> None:
        """Works every few seconds until cancelled."""
        while True:
            try:
                await self.tend()
            except (Unavailable, asyncpg.PostgresError) as error:
                logger.warning("log.untended", error=type(error).__name__)
            await asyncio.sleep(self._every)

    async def tend(self) -> None:
        """Does the work once, if no other instance is at it. Safe to be cut off anywhere: the next run goes on."""
        async with self._database.connection() as connection:
            if not await retention.try_lead(connection):
                return
            try:
                await retention.mark(connection)
                await retention.raise_floor(connection, self._keep)
                await self._partitions(connection)
            finally:
                await retention.stop_leading(connection)

    async def _partitions(self, connection: Connection) -> None:
        head = await log.read_head(connection)
        # Readers know the floor a moment late. What fell below it only now, they would still read, and find a hole: it
        # is kept until the next time. Never beyond the floor of now: a restored log may have a lower one.
        known, self._floor = min(self._floor, head.floor), head.floor
        partitions = await retention.list_partitions(connection)
        end = partitions[-1].end if partitions else 0
        while end < head.position + AHEAD * self._partition_events:
            await retention.add_partition(connection, end, self._partition_events)
            end += self._partition_events
        for partition in sorted(partitions, key=lambda p: not p.detaching):
            if partition.detaching or partition.end - 1 <= known:
                await retention.detach_partition(connection, partition)
        for name in await retention.drop_detached(connection, head.floor):
            logger.info("log.partition_dropped", name=name)
