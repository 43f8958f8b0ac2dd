"""Marks of what has arrived, collected for one write at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from structlog.testing import capture_logs

from domain.errors import Unavailable
from domain.ids import DEFAULT_TENANT, UserId, new_id
from services.delivery import DeliveryMarks, Reader

ANN = UserId(new_id())


class Store:
    """Takes the place of the receipts; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.batches: list[dict[Reader, int]] = []
        self.failures = failures

    async def delivered_up_to(self, marks: Mapping[Reader, int]) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        self.batches.append(dict(marks))

    async def announce_owed(self) -> int:
        return 0


class Slow(Store):
    """Stores only once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    async def delivered_up_to(self, marks: Mapping[Reader, int]) -> None:
        self.asked.set()
        await self.may.wait()
        await super().delivered_up_to(marks)


async def test_a_mark_before_the_first_event_is_answered_at_once() -> None:
    await asyncio.wait_for(DeliveryMarks(Store()).mark_now(DEFAULT_TENANT, ANN, 0), 1)


async def test_marks_never_go_back_and_are_stored_together() -> None:
    store = Store()
    marks = DeliveryMarks(store)
    marks.mark(DEFAULT_TENANT, ANN, 7)
    marks.mark(DEFAULT_TENANT, ANN, 5)
    running = asyncio.create_task(marks.run())
    await asyncio.wait_for(marks.mark_now(DEFAULT_TENANT, ANN, 6), 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert store.batches == [{(DEFAULT_TENANT, ANN): 7}]


async def test_marks_nobody_waits_for_are_stored_with_the_next_that_somebody_does() -> None:
    store = Store()
    marks = DeliveryMarks(store)
    marks.APART = 60  # longer than any test
    running = asyncio.create_task(marks.run())
    bob, cy = UserId(new_id()), UserId(new_id())
    await asyncio.wait_for(marks.mark_now(DEFAULT_TENANT, ANN, 1), 1)
    marks.mark(DEFAULT_TENANT, bob, 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(store.batches) == 1
    await asyncio.wait_for(marks.mark_now(DEFAULT_TENANT, cy, 3), 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert store.batches[1:] == [{(DEFAULT_TENANT, bob): 2, (DEFAULT_TENANT, cy): 3}]


async def test_what_could_not_be_stored_is_told_and_tried_again() -> None:
    store = Store(failures=1)
    marks = DeliveryMarks(store)
    running = asyncio.create_task(marks.run())
    with pytest.raises(Unavailable):
        await asyncio.wait_for(marks.mark_now(DEFAULT_TENANT, ANN, 3), 1)
    await asyncio.wait_for(marks.mark_now(DEFAULT_TENANT, ANN, 3), 2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert store.batches == [{(DEFAULT_TENANT, ANN): 3}]


async def test_a_stop_stores_what_waits_and_what_is_being_stored() -> None:
    store = Slow()
    marks = DeliveryMarks(store)
    marks.APART = 60  # longer than any test
    running = asyncio.create_task(marks.run())
    bob = UserId(new_id())
    marks.mark(DEFAULT_TENANT, ANN, 1)
    await asyncio.wait_for(store.asked.wait(), 1)
    marks.mark(DEFAULT_TENANT, bob, 2)
    flushing = asyncio.create_task(marks.flush())
    await asyncio.sleep(0)
    assert not flushing.done()
    store.may.set()
    await asyncio.wait_for(flushing, 1)
    assert store.batches == [{(DEFAULT_TENANT, ANN): 1}, {(DEFAULT_TENANT, bob): 2}]
    await asyncio.wait_for(marks.flush(), 1)
    assert len(store.batches) == 2, "nothing waits, so nothing is asked"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_stop_does_not_wait_for_a_database_that_is_away_or_silent() -> None:
    for store in (Store(failures=1), Slow()):
        marks = DeliveryMarks(store)
        marks.LAST = 0.05
        running = asyncio.create_task(marks.run())
        marks.mark(DEFAULT_TENANT, ANN, 1)
        with capture_logs() as lines:
            await asyncio.wait_for(marks.flush(), 1)
        assert (lines[-1]["event"], lines[-1]["marks"]) == ("delivery.unstored", 1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
