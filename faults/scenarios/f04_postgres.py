"""F4: PostgreSQL restarted, fast and immediate, frozen, and away for twenty seconds.

What is committed is there again afterwards. Meanwhile sends are told 503 and when to come again, and succeed when they
do; streams stay open, with heartbeats, and go on where they were.
"""

from __future__ import annotations

import asyncio
import random
from typing import Literal

from faults.outages import Outage
from faults.scale import Scale
from faults.stage import Stage, whole
from faults.traffic import Traffic

FROZEN_SECONDS = 12.0
"""Longer than a client waits for an answer, so that one that waits for ever shows."""


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Short outages first, then the long one; in each, what clients are told is looked at."""
    how: Literal["fast", "immediate"]
    for how in ("fast", "immediate"):
        await asyncio.sleep(scale.of(rng.uniform(2.0, 4.0), short=0.3))
        restart = Outage(f"the {how} restart of PostgreSQL", traffic)
        restart.begin()
        await whole(lambda: stage.postgres.stop(how))  # noqa: B023  (it is over before the next round)
        await whole(stage.postgres.start)
        restart.end()
        seconds = await restart.until_recovered()
        restart.must_keep_sockets()
        stage.tell(
            f"{how} restart: down for {restart.ended - restart.began:.1f} s, sends go on after {seconds:.1f} s"
        )
    if scale.full:  # finding out takes seconds, so this is of no use in little
        await asyncio.sleep(rng.uniform(2.0, 4.0))
        await _freeze(stage, traffic)
    await asyncio.sleep(scale.of(rng.uniform(2.0, 4.0), short=0.3))
    outage = Outage("PostgreSQL being away", traffic)
    await whole(stage.postgres.stop)
    outage.begin()
    await asyncio.sleep(scale.of(20.0, short=1.5))
    outage.end()
    await whole(stage.postgres.start)
    seconds = await outage.until_recovered()
    told, kept = outage.must_refuse_in_words(), outage.must_keep_sockets()
    stage.tell(f"away: 503 to {told} tries, {kept} streams stayed open; sends go on after {seconds:.1f} s")


async def _freeze(stage: Stage, traffic: Traffic) -> None:
    """It neither answers nor refuses; clients must be told in words before they stop waiting for an answer."""
    frozen = Outage("PostgreSQL being frozen", traffic)
    await whole(stage.postgres.freeze)
    try:
        frozen.begin()
        await asyncio.sleep(FROZEN_SECONDS)
        frozen.end()
    finally:
        await whole(stage.postgres.thaw)
    seconds = await frozen.until_recovered()
    told, kept = frozen.must_refuse_in_words(), frozen.must_keep_sockets()
    stage.tell(f"frozen: 503 to {told} tries, {kept} streams stayed open; sends go on after {seconds:.1f} s")
