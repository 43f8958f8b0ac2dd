"""F5: a frozen instance, then a frozen Redis: connections stay, and nobody answers.

A frozen process holds its connections, and wakes without knowing that time has passed. Its clients find out by silence.
What it had accepted it may still do when it wakes, long after its clients have asked another.
"""

from __future__ import annotations

import asyncio
import random

from faults.scale import Scale
from faults.stage import Stage
from faults.traffic import Traffic


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """SIGSTOP and SIGCONT of one of the two, and of Redis."""
    seconds = scale.of(20.0, short=1.2)
    await asyncio.sleep(scale.of(2.0, short=0.3))
    frozen = rng.choice(stage.instances)
    frozen.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        frozen.thaw()
    stage.tell(f"{frozen.name} was frozen for {seconds:g} s")
    await stage.until_well()
    await asyncio.sleep(scale.of(2.0, short=0.3))
    stage.redis.freeze()
    try:
        await asyncio.sleep(scale.of(10.0, short=1.0))
    finally:
        stage.redis.thaw()
    stage.tell("Redis was frozen")
    await stage.until_well()
