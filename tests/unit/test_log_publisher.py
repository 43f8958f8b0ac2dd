"""Telling of a commit: whatever goes wrong with it, the commit stands, and the log says the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from redis.asyncio import Redis

from domain.log import StoredEvent
from realtime.bus import Bus
from realtime.events import Event
from realtime.log import LogReader, LogTiming
from realtime.publisher import LogPublisher
from realtime.ring import Ring
from tests.support.fakes import Background, Counted, FakeLog, FakeSource, conversation, passes
from tests.support.simulated import simulated

TOPIC = conversation()


async def _publisher(log: FakeLog, source: FakeSource) -> tuple[LogReader, Bus, LogPublisher, Counted]:
    loop = asyncio.get_running_loop()
    ring = Ring(max_events=100, max_bytes=1 << 20)
    counted = Counted()
    reader = LogReader(source, ring, counted, loop.time, LogTiming(poll=1000.0))
    await reader.start(0)
    bus = Bus(Redis(), "test", "a;", gap=reader.poke)
    return reader, bus, LogPublisher(reader, bus, counted), counted


@simulated
async def test_a_commit_is_known_here_at_once_and_told_to_the_others() -> None:
    log = FakeLog()
    reader, bus, publisher, _ = await _publisher(log, FakeSource(log))
    publisher.committed([log.append(TOPIC), log.append(TOPIC)])
    assert reader.position == 2
    ((_, message),) = bus._waiting
    other, _, its, counted = await _publisher(log, FakeSource(FakeLog()))
    its._hinted(message.removeprefix(b"a;"))
    assert other.position == 2
    assert counted.hints == 1


@simulated
async def test_telling_of_a_commit_never_raises() -> None:
    """It would say of a commit that it failed, and its messages would be stored again."""
    log = FakeLog()
    reader, _, publisher, _ = await _publisher(log, FakeSource(log))
    background = Background()
    background.spawn(reader.run())
    await passes(0.1)
    batch = [log.append(TOPIC) for _ in range(3)]
    bad: list[Sequence[StoredEvent]] = [
        [replace(batch[0], data=b"\xff")],
        [batch[0], batch[2]],
        [replace(batch[0], at=None)],  # type: ignore[arg-type]
    ]
    for events in bad:
        publisher.committed(events)
    await passes(1)
    assert reader.position == 3, "read from the log"
    assert [e.position for e in reader.ring.slice(0, 9)] == [1, 2, 3]
    await background.stop()


@simulated
async def test_a_hint_that_cannot_be_read_has_the_log_read() -> None:
    log = FakeLog()
    reader, _, publisher, _ = await _publisher(log, FakeSource(log))
    background = Background()
    background.spawn(reader.run())
    await passes(0.1)
    log.append(TOPIC)
    publisher._hinted(b'{"of": "a newer version"}')
    await passes(0.1)
    assert reader.position == 1
    await background.stop()


@simulated
async def test_a_hint_of_another_log_is_not_taken_for_one_of_this() -> None:
    """An instance that stood still while the log was restored tells of positions that mean something else now."""
    old, log = FakeLog(), FakeLog()
    log.epoch = old.epoch + 1
    _, bus, publisher, _ = await _publisher(old, FakeSource(old))
    publisher.committed([old.append(TOPIC)])
    ((_, message),) = bus._waiting
    reader, _, its, _ = await _publisher(log, FakeSource(log))
    background = Background()
    background.spawn(reader.run())
    await passes(0.1)
    its._hinted(message.removeprefix(b"a;"))
    assert reader.position == 0
    stored = log.append(TOPIC)
    its._hinted(message.removeprefix(b"a;"))
    await passes(0.1)
    assert [e.envelope for e in reader.ring.slice(0, 9)] == [Event(stored, log.epoch).envelope], (
        "read from the log"
    )
    await background.stop()
