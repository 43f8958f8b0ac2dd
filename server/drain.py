"""Going away without a stampede (I10)."""

from __future__ import annotations

import asyncio
import random

import structlog

from realtime.hub import Hub

logger = structlog.get_logger(__name__)

BATCH = 200  # sessions sent away together
PAUSE = 0.1  # seconds between two batches
RETURNS_A_SECOND = 2000  # how fast clients are asked to come back, to the other instances


class Drain:
    """From SIGTERM to the last session: ``grace`` seconds not ready but serving, then sessions go in batches."""

    def __init__(self, hub: Hub, *, grace: float) -> None:
        self._hub = hub
        self._grace = grace
        self.begun = False

    async def announce(self) -> None:
        """Not ready from now on; returns when balancers have had the grace time to notice."""
        self.begun = True
        logger.info("drain.begun", sessions=len(self._hub), grace_seconds=self._grace)
        await asyncio.sleep(self._grace)

    async def send_away(self) -> None:
        """Ends every session, some at a time, each told when to come back. Call it when nothing new is accepted."""
        spread_ms = max(1000, len(self._hub) * 1000 // RETURNS_A_SECOND)
        await self._hub.drain(
            batch=BATCH,
            pause=PAUSE,
            reconnect_after_ms=lambda: random.randint(100, spread_ms),  # noqa: S311  # spreads load, no secret
        )
