"""Instances of the realtime core on a fake log, started and stopped, for tests of the hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from domain.log import Control, StoredEvent, Topic
from realtime.hub import HubLimits
from realtime.log import LogTiming
from tests.support.fakes import FakeLog, FakeTransport, Instance, turns
from tests.support.simulated import SimulatedLoop

HUB_LIMITS = HubLimits(heartbeat=10.0)
NO_POLLS = LogTiming(poll=1e6, stale=1e6)
"""For tests that say themselves when the log is read."""


@asynccontextmanager
async def instance(
    log: FakeLog | None = None,
    limits: HubLimits = HUB_LIMITS,
    *,
    ring_events: int = 10_000,
    timing: LogTiming | None = None,
    hinted: bool = True,
) -> AsyncIterator[Instance]:
    it = await Instance(log or FakeLog(), limits, timing or LogTiming(), ring_events=ring_events).start()
    if hinted:
        it.log.committed = it.reader.offer
    await turns()
    try:
        yield it
    finally:
        await it.background.stop()


def freeze(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    loop.freeze(seconds)


def closed_with(transport: FakeTransport) -> int | None:
    return transport.closing.code if transport.closing else None


def draft(topic: Topic, control: Control | None = None) -> tuple[Topic, str, str, Control]:
    return (topic, "message.created", "text", control or Control())


def positions(events: Iterable[StoredEvent]) -> list[int]:
    return [e.position for e in events]
