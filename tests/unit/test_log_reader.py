"""Following the log: hints are only the fast way, and freshness is only what was really read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from domain.log import Head, StoredEvent
from realtime.log import LogReader, LogTiming
from realtime.ring import Ring
from tests.support.fakes import Background, Counted, FakeLog, FakeSource, conversation, passes, turns
from tests.support.simulated import SimulatedLoop, simulated

TOPIC = conversation()


class Reading:
    """A reader under test, and what it told the hub."""

    def __init__(self, log: FakeLog, *, ring_events: int = 10_000, timing: LogTiming | None = None) -> None:
        self.log = log
        self.source = FakeSource(log)
        self.counted = Counted()
        self.background = Background()
        self.loop = asyncio.get_running_loop()
        ring = Ring(max_events=ring_events, max_bytes=1 << 30)
        self.reader = LogReader(self.source, ring, self.counted, self.loop.time, timing)
        self.reader.applied = self._applied
        self.reader.lost = self._lost
        self.reader.became_fresh = self._became_fresh
        self.seen: list[int] = []
        self.losses: list[int] = []
        self.freshenings: list[float] = []

    def freeze(self, seconds: float) -> None:
        assert isinstance(self.loop, SimulatedLoop)
        self.loop.freeze(seconds)

    def _applied(self) -> None:
        after = self.seen[-1] if self.seen else self.reader.ring.floor
        self.seen += [
            event.position for event in self.reader.ring.slice(max(after, self.reader.ring.floor), 100_000)
        ]

    def _lost(self) -> None:
        self.losses.append(self.reader.position)
        self.seen.append(self.reader.position)

    def _became_fresh(self) -> None:
        assert self.reader.fresh
        self.freshenings.append(self.loop.time())

    def fresh(self) -> bool:
        return self.reader.fresh

    def commit(self, count: int = 1) -> list[StoredEvent]:
        """Events that no hint tells of."""
        return [self.log.append(TOPIC) for _ in range(count)]


@asynccontextmanager
async def reading(
    log: FakeLog | None = None,
    *,
    warm: int = 0,
    ring_events: int = 10_000,
    timing: LogTiming | None = None,
) -> AsyncIterator[Reading]:
    it = Reading(log or FakeLog(), ring_events=ring_events, timing=timing)
    await it.reader.start(warm)
    it.background.spawn(it.reader.run())
    await turns()
    try:
        yield it
    finally:
        await it.background.stop()


# Hints.


@simulated
async def test_a_hint_in_order_is_applied_at_once_and_costs_no_query() -> None:
    async with reading() as it:
        before = dict(it.source.calls)
        it.reader.offer(it.commit(3))
        assert it.seen == [1, 2, 3]
        assert dict(it.source.calls) == before


@simulated
async def test_hints_that_arrive_out_of_order_wait_for_the_one_before_them() -> None:
    async with reading() as it:
        one, two, three = it.commit(3)
        it.reader.offer([three])
        it.reader.offer([two])
        assert it.seen == []
        it.reader.offer([one])
        assert it.seen == [1, 2, 3]
        await passes(0.1)
        assert it.source.calls["range"] == 0
        assert it.counted.healed == 0


@simulated
async def test_a_hint_that_overlaps_what_was_read_adds_only_what_is_new() -> None:
    async with reading() as it:
        batch = it.commit(4)
        it.reader.offer(batch[:2])
        it.reader.offer(batch[:2])
        it.reader.offer(batch[1:])
        it.reader.offer(batch)
        assert it.seen == [1, 2, 3, 4]


@simulated
async def test_a_lost_hint_is_read_from_the_log_as_soon_as_the_next_one_shows_the_hole() -> None:
    async with reading() as it:
        batch = it.commit(5)
        it.reader.offer(batch[4:])
        await passes(0.03)
        assert it.seen == [1, 2, 3, 4, 5]
        assert it.source.calls["range"] == 1
        assert it.counted.healed == 1


@simulated
async def test_a_hole_that_cannot_be_read_is_tried_again_until_it_can() -> None:
    async with reading(timing=LogTiming(poll=0.4)) as it:
        it.source.away = True
        it.reader.offer(it.commit(2)[1:])
        await passes(2)
        assert it.seen == []
        it.source.away = False
        await passes(0.5)
        assert it.seen == [1, 2]


@simulated
async def test_without_any_hint_the_log_is_read_within_a_poll() -> None:
    async with reading() as it:
        for count in (1, 3000, 2):
            it.commit(count)
            await passes(it.reader._timing.poll + it.reader._timing.gap + 0.001)
            assert it.seen == list(range(1, it.log.head + 1))


@simulated
async def test_a_poke_has_the_log_read_at_once() -> None:
    async with reading(timing=LogTiming(poll=1000.0)) as it:
        it.commit()
        it.reader.poke()
        await passes(0.02)
        assert it.seen == [1]


@pytest.mark.timeout(5)
@simulated
async def test_a_hint_of_positions_that_do_not_exist_is_dropped() -> None:
    """From an instance on another log, or on this one before it was restored. It must neither move the reader to where
    there is nothing, nor keep it busy."""
    elsewhere = FakeLog()
    events = [elsewhere.append(TOPIC) for _ in range(9)]
    async with reading() as it:
        it.reader.offer(events[8:])
        await passes(1)
        assert it.reader.position == 0
        assert it.losses == []
        it.reader.offer(it.commit(2))
        await passes(1)
        assert it.seen == [1, 2]


@simulated
async def test_what_waits_for_a_hole_is_bounded_in_events() -> None:
    async with reading(ring_events=100_000, timing=LogTiming(poll=1000.0)) as it:
        it.source.away = True
        it.commit()
        for _ in range(100):
            it.reader.offer(it.commit(500))
        assert sum(len(events) for _, _, events in it.reader._early) <= 25_000
        it.source.away = False
        it.reader.poke()
        await passes(1)
        assert it.seen == list(range(1, it.log.head + 1))


# Freshness.


@simulated
async def test_it_is_fresh_while_the_head_is_read_and_no_longer() -> None:
    async with reading() as it:
        for _ in range(20):
            await passes(0.17)
            assert it.fresh()
        it.source.away = True
        await passes(0.79)
        assert it.fresh()
        await passes(0.22)
        assert not it.fresh()
        it.reader.offer(it.commit())
        assert it.seen == [1]
        assert not it.fresh(), "hearing something is not having read all"
        it.source.away = False
        await passes(0.25)
        assert it.fresh()
        assert len(it.freshenings) == 1


@simulated
async def test_a_process_that_was_stopped_is_not_fresh_until_it_has_read_again() -> None:
    async with reading() as it:
        it.source.latency = 0.1
        await passes(1)
        it.commit(3)
        it.freeze(20)
        assert not it.fresh()
        await passes(0.5)
        assert it.fresh()
        assert it.seen == [1, 2, 3]
        assert len(it.freshenings) == 1


@simulated
async def test_freshness_counts_from_when_the_reading_began() -> None:
    async with reading() as it:
        it.source.latency = 0.6
        await passes(3)
        readings = list(it.source.readings)
        it.source.away = True
        while it.reader.fresh:
            await passes(0.01)
        assert it.loop.time() <= readings[-1][0] + 0.61 + 1.01


@simulated
async def test_a_head_that_takes_too_long_makes_nobody_fresh() -> None:
    async with reading() as it:
        it.source.latency = 1.5
        await passes(10)
        assert not it.fresh()
        it.source.latency = 0.1
        await passes(2)
        assert it.fresh()


@simulated
async def test_a_source_that_never_answers_is_given_up_on() -> None:
    async with reading() as it:
        it.source.hangs = True
        await passes(30)
        assert not it.fresh()
        it.source.hangs = False
        it.commit()
        await passes(2.5)
        assert it.fresh()
        assert it.seen == [1]


@simulated
async def test_reading_the_head_but_not_what_lies_before_it_makes_nobody_fresh() -> None:
    async with reading() as it:
        it.commit(3)

        async def no_range(after: int, upto: int, limit: int) -> list[StoredEvent]:
            raise ConnectionError

        it.source.range = no_range  # type: ignore[method-assign]
        await passes(3)
        assert not it.fresh()


@simulated
async def test_a_start_that_took_long_to_read_is_not_fresh() -> None:
    log = FakeLog()
    for _ in range(100):
        log.append(TOPIC)
    it = Reading(log)
    it.source.latency = 3.0
    await it.reader.start(50)
    assert it.reader.position == 100
    assert not it.fresh()


@simulated
async def test_an_older_reading_that_ends_later_takes_no_freshness_away() -> None:
    async with reading(timing=LogTiming(poll=1000.0)) as it:
        it.source.latency = 0.9
        async with asyncio.TaskGroup() as group:
            group.create_task(it.reader.read_head())
            await passes(0.5)
            it.source.latency = 0.1
            await it.reader.read_head()
            newest = it.source.readings[-1][0]
        await passes(newest + 0.99 - it.loop.time())
        assert it.fresh()


# Start, retention, another log.


@simulated
async def test_it_starts_with_the_newest_in_memory() -> None:
    log = FakeLog()
    for _ in range(100):
        log.append(TOPIC)
    async with reading(log, warm=30) as it:
        assert (it.reader.ring.floor, it.reader.position) == (70, 100)


@simulated
async def test_it_starts_no_further_back_than_retention() -> None:
    log = FakeLog()
    for _ in range(100):
        log.append(TOPIC)
    log.drop(90)
    async with reading(log, warm=30) as it:
        assert (it.reader.ring.floor, it.reader.floor, it.reader.position) == (90, 90, 100)
        assert it.losses == []


@simulated
async def test_what_retention_took_while_it_was_away_is_told_as_lost_and_it_goes_on() -> None:
    for floor in (5, 20):
        async with reading() as it:
            it.source.away = True
            it.commit(20)
            it.log.drop(floor)
            it.source.away = False
            await passes(1)
            assert it.losses == [floor]
            assert it.seen[:1] == [floor]
            assert it.reader.position == 20
            it.reader.offer(it.commit())
            assert it.seen[-1] == 21
            await passes(1)


@pytest.mark.timeout(5)
@simulated
async def test_what_retention_took_between_two_hints_does_not_stop_the_loop() -> None:
    async with reading(timing=LogTiming(poll=1000.0)) as it:
        batch = it.commit(10)
        it.log.drop(9)
        it.reader.offer(batch[9:])
        await passes(1)
        assert it.reader.position == 10
        it.reader.offer(it.commit())
        assert it.reader.position == 11


@simulated
async def test_another_epoch_is_another_log() -> None:
    async with reading() as it:
        it.reader.offer(it.commit(10))
        it.log.restore(6)
        await passes(0.3)
        assert it.losses == [6]
        assert (it.reader.epoch, it.reader.position, it.reader.fresh) == (8, 6, True)
        it.reader.offer(it.commit())
        assert it.reader.ring.slice(6, 9)[0].cursor != ""
        assert it.seen[-1] == 7


@simulated
async def test_a_head_that_went_back_is_another_log_too() -> None:
    async with reading() as it:
        it.reader.offer(it.commit(10))
        del it.log.events[6:]
        await passes(0.3)
        assert it.losses == [6]
        assert it.reader.position == 6
        assert it.reader.epoch == it.log.epoch == 8, "what the same positions held before is of another epoch"
        await passes(1)
        assert it.source.calls["renew_epoch"] == 1


@simulated
async def test_instances_that_see_the_head_go_back_agree_on_one_new_epoch() -> None:
    log = FakeLog()
    async with reading(log) as one, reading(log) as other:
        batch = one.commit(10)
        one.reader.offer(batch)
        other.reader.offer(batch)
        one.source.latency, other.source.latency = 0.05, 0.07
        del log.events[6:]
        async with asyncio.TaskGroup() as group:
            for reader in (one.reader, one.reader, other.reader, other.reader):
                group.create_task(reader.read_head())
        await passes(0.5)
        assert log.epoch == one.reader.epoch == other.reader.epoch == 8
        assert one.losses == other.losses == [6]


@simulated
async def test_nothing_is_told_of_a_log_that_lost_its_end_until_it_has_another_epoch() -> None:
    async with reading() as it:
        it.reader.offer(it.commit(10))

        async def read_only(old: int) -> Head:
            raise ConnectionError

        renew, it.source.renew_epoch = it.source.renew_epoch, read_only  # type: ignore[method-assign]
        del it.log.events[6:]
        await passes(2)
        assert not it.fresh()
        assert it.losses == []
        it.source.renew_epoch = renew  # type: ignore[method-assign]
        await passes(0.5)
        assert it.fresh()
        assert (it.losses, it.reader.epoch) == ([6], 8)


@simulated
async def test_a_head_read_before_the_newest_hint_is_no_loss() -> None:
    async with reading() as it:
        for _ in range(20):
            it.source.during = lambda: it.reader.offer(it.commit(3))
            await passes(0.21)
        assert it.losses == []
        assert it.seen == list(range(1, it.log.head + 1))
        assert it.fresh()


@simulated
async def test_a_restore_in_the_middle_of_reading_leaves_no_hole() -> None:
    async with reading(timing=LogTiming(poll=1000.0)) as it:
        it.reader.offer(it.commit(10))
        it.commit(5)
        it.source.latency = 0.2
        async with asyncio.TaskGroup() as group:
            catching_up = group.create_task(it.reader._read_to(15))
            await passes(0.15)  # the page has been read, and is on its way
            it.log.restore(4)
            it.source.latency = 0.0
            await it.reader.read_head()
            assert it.reader.position == 4
            await asyncio.wait([catching_up])
            assert catching_up.exception() is None
        assert it.reader.position == 4, "what was on its way is of the log as it was"
        it.commit(3)
        await it.reader.read_head()
        assert [e.position for e in it.reader.ring.slice(4, 99)] == [5, 6, 7]


@simulated
async def test_a_head_that_could_not_be_reached_any_more_makes_nobody_fresh() -> None:
    """Restored between the reading of the head and that of what lies before it: what was lost may have said that a
    sign-in ended, so nothing goes out until the log is read as it is now."""
    async with reading(timing=LogTiming(poll=1000.0)) as it:
        it.reader.offer(it.commit(2))
        it.commit(2)
        it.freeze(5)
        epochs: list[int] = []
        it.reader.became_fresh = lambda: epochs.append(it.reader.epoch)
        it.source.during = lambda: it.log.restore(2)
        await it.reader.read_head()
        assert epochs == [it.log.epoch]
        assert it.losses == [2]


@simulated
async def test_it_ends_when_told_to_even_in_the_moment_in_which_it_is_poked() -> None:
    it = Reading(FakeLog())
    await it.reader.start(0)
    running = asyncio.get_running_loop().create_task(it.reader.run())
    await passes(0.05)
    it.reader.poke()
    await turns(1)
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=1.0)
    assert done
    for wait in range(6):
        running = asyncio.get_running_loop().create_task(it.reader.run())
        await passes(0.05)
        it.reader.poke()
        await turns(wait)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=1.0)
        assert done, f"still running; cancelled {wait} turns after a poke"


@simulated
async def test_a_reading_that_was_given_up_is_nobody_elses_answer() -> None:
    """A client goes away in the middle of it, and those who wait for the next reading have to make it themselves."""
    async with reading(timing=LogTiming(poll=1000.0, stale=1000.0)) as it:
        it.source.latency = 0.5
        first = it.loop.create_task(it.reader.read_head())
        await passes(0.4)
        it.commit()  # after the first has looked
        second = it.loop.create_task(it.reader.read_head())
        third = it.loop.create_task(it.reader.confirm(1))
        await first
        await passes(0.1)
        second.cancel()
        assert await third, "the position exists"
        assert it.reader.position == 1


@simulated
async def test_a_storm_of_readings_costs_two_and_a_failure_is_told_to_all() -> None:
    async with reading(timing=LogTiming(poll=1000.0)) as it:
        it.source.latency = 0.1
        before = it.source.calls["head"]
        readings = [it.loop.create_task(it.reader.read_head()) for _ in range(50)]
        await asyncio.wait(readings)
        assert it.source.calls["head"] == before + 2
        it.source.away = True
        readings = [it.loop.create_task(it.reader.read_head()) for _ in range(50)]
        await asyncio.wait(readings)
        assert all(r.exception() is not None for r in readings)
        assert it.source.calls["head"] == before + 4


@simulated
async def test_reached_waits_for_a_position_and_no_longer_than_asked() -> None:
    async with reading(timing=LogTiming(poll=1000.0)) as it:
        before = it.loop.time()
        assert not await it.reader.reached(1, 0.5)
        assert it.loop.time() == pytest.approx(before + 0.5)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(it.reader.reached(2, 5.0))
            await passes(0.1)
            it.reader.offer(it.commit())
            await passes(0.1)
            it.reader.offer(it.commit())
        assert waiting.result()
        assert await it.reader.confirm(2)
        assert not await it.reader.confirm(3)
        it.commit()
        assert await it.reader.confirm(3)


async def test_a_storm_of_questions_for_the_head_costs_two_readings() -> None:
    class Slow(FakeSource):
        heads = 0

        async def head(self) -> Head:
            self.heads += 1
            await asyncio.sleep(0)
            return await super().head()

    source = Slow(FakeLog())
    reader = LogReader(
        source, Ring(max_events=10, max_bytes=1 << 20), Counted(), asyncio.get_running_loop().time
    )
    await reader.start(0)
    source.heads = 0
    await asyncio.gather(*(reader.read_head() for _ in range(50)))
    assert source.heads <= 2
