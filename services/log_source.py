"""The stored log, as the realtime core reads it."""

from __future__ import annotations

from collections.abc import Sequence

from domain.ids import TenantId, UserId
from domain.log import Head, StoredEvent, View, Window
from storage import log
from storage.database import Database


class StoredLog:
    """Implements :class:`realtime.log.LogSource`. Raises :class:`~domain.errors.Unavailable` where it is away."""

    def __init__(self, database: Database, vital: Database) -> None:
        """``vital`` is for reading the head: a connection that no other work can keep busy (I9)."""
        self._database = database
        self._vital = vital

    async def head(self) -> Head:
        async with self._vital.connection() as connection:
            return await log.read_head(connection)

    async def renew_epoch(self, old: int) -> Head:
        async with self._vital.connection() as connection:
            return await log.renew_epoch(connection, old)

    async def range(self, after: int, upto: int, limit: int) -> Sequence[StoredEvent]:
        async with self._database.connection() as connection:
            return await log.read_range(connection, after, upto, limit)

    async def windows(
        self, windows: Sequence[Window], after: int, upto: int, limit: int
    ) -> Sequence[StoredEvent]:
        async with self._database.connection() as connection:
            return await log.read_windows(connection, windows, after, upto, limit)

    async def views(self, users: Sequence[tuple[TenantId, UserId]]) -> dict[UserId, View]:
        async with self._database.connection() as connection:
            return await log.read_views(connection, users)
