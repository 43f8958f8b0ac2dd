"""F4: PostgreSQL restarted, fast and immediate, and away for twenty seconds.

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
