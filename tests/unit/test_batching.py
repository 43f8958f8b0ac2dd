"""Many look-ups, few loads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import aiojobs
import pytest

from domain.errors import Unavailable
from services.batching import Batcher


@pytest.fixture
async def jobs() -> AsyncIterator[aiojobs.Scheduler]:
    async with aiojobs.Scheduler() as scheduler:
        yield scheduler


class Loader:
    """Answers each key with its double, odd ones with nothing; each load waits for a permit."""

    def __init__(self) -> None:
        self.loads: list[list[int]] = []
        self.started = asyncio.Queue[list[int]]()
        self.permits = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def __call__(self, keys: Sequence[int]) -> dict[int, int]:
        self.loads.append(list(keys))
        self.started.put_nowait(list(keys))
        await self.permits.acquire()
        if self.error is not None:
            raise self.error
        return {key: key * 2 for key in keys if key % 2 == 0}

    def let_all(self) -> None:
        for _ in range(1000):
            self.permits.release()


async def test_what_arrives_during_a_load_is_the_next_load(jobs: aiojobs.Scheduler) -> None:
    loader = Loader()
    batcher = Batcher(loader, jobs)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(batcher.get(2))
        assert await loader.started.get() == [2]
        later = [group.create_task(batcher.get(key)) for key in range(3, 503)]
        await asyncio.sleep(0)
        loader.let_all()
    assert first.result() == 4
    assert [task.result() for task in later] == [k * 2 if k % 2 == 0 else None for k in range(3, 503)]
    assert loader.loads == [[2], list(range(3, 503))]


async def test_one_key_is_loaded_once_for_all_who_wait(jobs: aiojobs.Scheduler) -> None:
    loader = Loader()
    batcher = Batcher(loader, jobs)
    loader.let_all()
    assert await asyncio.gather(*(batcher.get(8) for _ in range(50))) == [16] * 50
    assert loader.loads == [[8]]


async def test_a_load_that_began_before_the_question_does_not_answer_it(jobs: aiojobs.Scheduler) -> None:
    loader = Loader()
    batcher = Batcher(loader, jobs)
    async with asyncio.TaskGroup() as group:
        group.create_task(batcher.get(2))
        await loader.started.get()
        group.create_task(batcher.get(2))
        await asyncio.sleep(0)
        loader.let_all()
    assert loader.loads == [[2], [2]]


async def test_who_gives_up_does_not_disturb_the_others(jobs: aiojobs.Scheduler) -> None:
    loader = Loader()
    batcher = Batcher(loader, jobs)
    async with asyncio.TaskGroup() as group:
        impatient = group.create_task(batcher.get(4))
        patient = group.create_task(batcher.get(4))
        await loader.started.get()
        impatient.cancel()
        await asyncio.wait([impatient])
        loader.let_all()
    assert impatient.cancelled()
    assert patient.result() == 8


async def test_a_failed_load_fails_those_who_waited_and_nobody_else(jobs: aiojobs.Scheduler) -> None:
    loader = Loader()
    batcher = Batcher(loader, jobs)
    loader.let_all()
    loader.error = Unavailable("away")
    results = await asyncio.gather(batcher.get(2), batcher.get(4), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    loader.error = None
    assert await batcher.get(6) == 12


async def test_the_burst_does_not_wait(jobs: aiojobs.Scheduler) -> None:
    loader = Loader()
    loader.let_all()
    batcher = Batcher(loader, jobs, burst=5, interval=30)
    for key in range(5):
        await batcher.get(key)
    assert len(loader.loads) == 5


async def test_a_storm_that_arrives_one_by_one_costs_few_loads(jobs: aiojobs.Scheduler) -> None:
    loader = Loader()
    loader.let_all()
    batcher = Batcher(loader, jobs, burst=5, interval=0.1)
    clock = asyncio.get_running_loop().time
    started = clock()
    async with asyncio.TaskGroup() as group:
        for key in range(2000):
            group.create_task(batcher.get(key))
            await asyncio.sleep(0)
    assert sum(map(len, loader.loads)) == 2000
    assert len(loader.loads) <= 5 + (clock() - started) / 0.1 + 1


async def test_callers_one_after_another_wait_once_a_burst(jobs: aiojobs.Scheduler) -> None:
    loader = Loader()
    loader.let_all()
    batcher = Batcher(loader, jobs, burst=10, interval=0.1)
    clock = asyncio.get_running_loop().time
    started = clock()
    waits = 0
    for key in range(40):
        before = clock()
        await batcher.get(key)
        waits += clock() - before > 0.05
    assert waits <= 4 + (clock() - started) // 1  # and one more for each second that the machine stood still


async def test_a_large_batch_is_split(jobs: aiojobs.Scheduler) -> None:
    loader = Loader()
    loader.let_all()
    batcher = Batcher(loader, jobs, interval=0.001, max_batch=100)
    await asyncio.gather(*(batcher.get(key) for key in range(250)))
    assert [len(load) for load in loader.loads] == [100, 100, 50]


async def test_the_end_of_the_process_leaves_nobody_waiting() -> None:
    jobs = aiojobs.Scheduler(close_timeout=1)
    loader = Loader()
    batcher = Batcher(loader, jobs)
    waiting = asyncio.create_task(batcher.get(2))
    await loader.started.get()
    await jobs.close()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await batcher.get(4)
