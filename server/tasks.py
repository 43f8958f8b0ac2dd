"""Detached work: tasks that belong to the instance, not to a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

logger = structlog.get_logger(__name__)


class TaskSet:
    """Tasks that may be started from anywhere while :meth:`run` runs, and end with it. What one raises is logged."""

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Holds the tasks until cancelled; then cancels them and waits for them."""
        try:
            async with asyncio.TaskGroup() as self._group:
                await asyncio.Event().wait()
        finally:
            self._group = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts a task. While nothing runs (before the start, after the end) the work is dropped."""
        if self._group is None:
            work.close()
            return
        self._group.create_task(_logged(work))


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        logger.exception("task.failed")


async def forever(name: str, work: Callable[[], Awaitable[None]], pause: float = 0.5) -> None:
    """Runs a loop that should never end, again where it does: an instance with a dead part would be a zombie."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("loop.failed", loop=name)
        await asyncio.sleep(pause)
