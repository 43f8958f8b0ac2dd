"""F1: `kill -9` of an instance, ten times."""

from __future__ import annotations

import asyncio
import random

from faults.scale import Scale
from faults.stage import Stage
from faults.traffic import Traffic


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Kills one instance after the other without a warning, and starts each again."""
    kills = scale.of(10, short=1)
    for n in range(kills):
        await asyncio.sleep(rng.uniform(*scale.of((0.5, 2.0), short=(0.2, 0.5))))
        victim = stage.instances[n % 2]
        await victim.kill()
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        await stage.start(victim)
    stage.tell(f"killed {kills} times; a start took {stage.instances[0].started_in:.1f} s")
