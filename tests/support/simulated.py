"""An event loop whose time is simulated: it never waits, it moves its clock to the next timer instead."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class NothingLeft(Exception):
    """Everything waits, and no timer will ever end it: in real life this would hang."""


class Misuse(BaseException):
    """A test's own finding, made inside of the code under test, which catches what is an Exception."""


class _Clockwork:
    """Stands in for the selector: where the loop would sleep, time passes."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingLeft
        self._loop.now += timeout
        return []


class SimulatedLoop(asyncio.BaseEventLoop):
    """Deterministic, and without I/O. ``now`` is the time in seconds."""

    now = 1000.0

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Clockwork(self)
        self._raised: list[BaseException] = []
        self.set_exception_handler(self._keep)

    def time(self) -> float:
        return self.now

    def freeze(self, seconds: float) -> None:
        """The process is stopped for that long: time passes, and nothing runs."""
        self.now += seconds

    def run(self, work: Coroutine[Any, Any, T], within: float = 3600.0) -> T:
        """Runs ``work``; raises TimeoutError after so many simulated seconds, and what a callback raised."""

        async def limited() -> T:
            async with asyncio.timeout(within):
                return await work

        result = self.run_until_complete(limited())
        if self._raised:
            raise self._raised[0]
        return result

    def _keep(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            self._raised.append(error)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def simulated(story: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs an async test on a :class:`SimulatedLoop`: its sleeps take no time, and it is the same every time."""

    @functools.wraps(story)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        loop = SimulatedLoop()
        try:
            loop.run(story(*args, **kwargs))
        finally:
            loop.close()

    return run
