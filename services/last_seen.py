"""When users were last seen, written to PostgreSQL some seconds late and many at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import islice

import structlog

from domain.errors import Unavailable
from domain.ids import UserId
from storage.database import Database
from storage.presence import store_seen

logger = structlog.get_logger(__name__)

BATCH = 1000


class LastSeen:
    """Collects until :meth:`store`. While PostgreSQL is away it waits, for ``capacity`` users at most."""

    GIVE_UP_SECONDS = (
        120.0  # after which a user whose row never could be had (deleted, always locked) is dropped
    )

    def __init__(
        self, database: Database, *, wall: Callable[[], float] = time.time, capacity: int = 100_000
    ) -> None:
        self._database = database
        self._wall = wall
        self._capacity = capacity
        self._seen: dict[UserId, float] = {}

    def note(self, seen: Mapping[UserId, float]) -> None:
        """Takes users and when they were seen (seconds since the epoch)."""
        for user, at in seen.items():
            known = self._seen.get(user)
            if known is not None or len(self._seen) < self._capacity:
                self._seen[user] = at if known is None else max(at, known)

    async def store(self) -> None:
        """Writes what was collected. What could not be written, or found, is tried again the next time."""
        seen, self._seen = self._seen, {}
        try:
            while seen:
                batch = dict(islice(seen.items(), BATCH))
                async with self._database.connection() as connection:
                    stored = await store_seen(connection, batch)
                oldest = self._wall() - self.GIVE_UP_SECONDS
                for user, at in batch.items():
                    del seen[user]
                    if user not in stored and at > oldest:
                        self.note({user: at})
        except Unavailable as error:
            logger.info("last_seen.not_stored", users=len(seen), reason=error.detail)
            self.note(seen)
