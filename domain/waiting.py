"""Bounded waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(seconds: float | None, work: Awaitable[T]) -> T:
    """Awaits ``work`` for at most so many seconds; None for ever. Raises TimeoutError, after cancelling it.

    For use in place of ``asyncio.wait_for``, which on Python 3.11 loses a cancellation that arrives in the moment the
    work is done (python/cpython#86296): a loop around it then never ends, and neither does the instance.
    """
    async with asyncio.timeout(seconds):
        return await work
