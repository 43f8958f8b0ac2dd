"""F11: the disk is full, first for PostgreSQL's tables, then for its write-ahead log.

The first is an error: what needs room is refused, the rest goes on. The second is PostgreSQL's end: it panics, cannot
recover either, and somebody has to start it again when there is room; here the harness does, as systemd would. Nothing
that was acknowledged is lost, and the service returns by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faults.disks import NoMountError, SmallDisk, size_of
from faults.outages import Outage
from faults.scale import Scale
from faults.services import Postgres, ServiceError
from faults.stage import Broken, NotRun, Stage, whole
from faults.traffic import Traffic

ROOM_MEGABYTES = 160
"""For what is written before the disk is filled, and while PostgreSQL recovers."""
REFILL_SECONDS = 0.2
RESTART_SECONDS = 1.0
_EAT = "SELECT pg_logical_emit_message(false, 'ballast', repeat('x', 900000))"
_MEALS = 200  # more than the write-ahead log keeps room for


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Moves PostgreSQL to a small disk, fills it, and frees it again."""
    postgres = stage.postgres
    disk = SmallDisk(postgres.directory, (size_of(postgres.directory) >> 20) + ROOM_MEGABYTES)
    try:
        await whole(disk.mount)
    except NoMountError as error:
        raise NotRun(f"needs a mount, and the machine permits none: {error}") from error
    try:
        await whole(lambda: postgres.move_to(disk))
        stage.tell(f"PostgreSQL is on {disk.kind}")
        try:
            await asyncio.sleep(scale.of(rng.uniform(3.0, 5.0), short=0.5))
            await _fill_and_free(stage, traffic, disk, scale)
            await asyncio.sleep(scale.of(3.0, short=0.3))
        finally:
            await whole(postgres.move_back)
    finally:
        if postgres.is_on(disk):
            await whole(postgres.close)
        await whole(disk.unmount)


async def _fill_and_free(stage: Stage, traffic: Traffic, disk: SmallDisk, scale: Scale) -> None:
    outage = Outage("the disk being full", traffic)
    starts = len(stage.postgres.logs)
    async with _supervised(stage.postgres):
        try:
            async with _kept_full(disk):
                outage.begin()
                await asyncio.sleep(scale.of(8.0, short=1.0))
                await asyncio.to_thread(_eat_the_log, stage.postgres)
                await asyncio.sleep(scale.of(10.0, short=2.0))
                outage.end()
        finally:
            await whole(disk.free)
        seconds = await outage.until_recovered()
    said = "".join(log.read_text(errors="replace") for log in stage.postgres.logs[starts - 1 :])
    for word in ("No space left on device", "PANIC"):
        if word not in said:
            raise Broken(f"PostgreSQL never said {word}: this proves nothing")
    told, kept = outage.must_refuse_in_words(), outage.must_keep_sockets()
    stage.tell(
        f"full for {outage.ended - outage.began:.0f} s: 503 to {told} tries, {kept} streams stayed open, "
        f"{outage.acknowledged()} messages acknowledged; sends go on {seconds:.1f} s after there is room"
    )


def _eat_the_log(postgres: Postgres) -> None:
    """Writes to the write-ahead log until it has no room left, which is PostgreSQL's end."""
    for _ in range(_MEALS):
        try:
            postgres.run_sql(_EAT)
        except ServiceError:
            if not postgres.is_running or "PANIC" in postgres.log.read_text(errors="replace"):
                return
    raise Broken(f"PostgreSQL took {_MEALS} MB more on a full disk")


@asynccontextmanager
async def _kept_full(disk: SmallDisk) -> AsyncIterator[None]:
    """Full on entering, and whatever becomes free is taken too."""

    async def refill() -> None:
        while True:
            await asyncio.sleep(REFILL_SECONDS)
            await whole(disk.fill)

    await whole(disk.fill)
    async with asyncio.TaskGroup() as tasks:
        filling = tasks.create_task(refill())
        try:
            yield
        finally:
            filling.cancel()


@asynccontextmanager
async def _supervised(postgres: Postgres) -> AsyncIterator[None]:
    """PostgreSQL is started again each time it has ended, which may fail any number of times."""

    async def restart() -> None:
        while True:
            await asyncio.sleep(RESTART_SECONDS)
            if not postgres.is_running:
                try:
                    await whole(postgres.start)
                except ServiceError:
                    continue  # no room yet

    async with asyncio.TaskGroup() as tasks:
        supervising = tasks.create_task(restart())
        try:
            yield
        finally:
            supervising.cancel()
