"""Clears away sign-ins and tickets that are over."""

from __future__ import annotations

import asyncio
import random

import structlog

from domain.errors import Unavailable
from storage import auth_sessions, tickets
from storage.database import Database

log = structlog.get_logger(__name__)

KEEP_SECONDS = 30 * 86_400
EVERY_SECONDS = 3600.0
BATCH = 1000


class SignInUpkeep:
    """Deletes ended sign-ins after 30 days, with their refresh tokens, and tickets nobody used."""

    def __init__(self, database: Database, *, keep_seconds: float = KEEP_SECONDS) -> None:
        self._database = database
        self._keep_seconds = float(keep_seconds)

    async def run(self) -> None:
        """Works every hour, not at the same moment on all instances, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load, no secret
            try:
                await self.purge()
            except Unavailable as error:
                log.info("upkeep_put_off", reason=error.detail)

    async def purge(self) -> int:
        """Does the work once, in short transactions; how many sign-ins were deleted."""
        deleted = 0
        async with self._database.connection() as connection:
            await tickets.delete_expired(connection)
            while True:
                count = await auth_sessions.delete_dead(
                    connection, older_than_seconds=self._keep_seconds, limit=BATCH
                )
                deleted += count
                if count < BATCH:
                    return deleted
