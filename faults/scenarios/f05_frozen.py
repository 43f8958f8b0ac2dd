"""F5: a frozen instance, then a frozen Redis: connections stay, and nobody answers.

A frozen process holds its connections, and wakes without knowing that time has passed. Its clients find out by silence.
What it had accepted it may still do when it wakes, long after its clients have asked another.
"""

from __future__ import annotations

import asyncio
import random
import time

from faults.proxy import ANSWER_SECONDS, LOOK_SECONDS
from faults.scale import Scale
from faults.stage import Broken, Stage
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
        unready = await _never_ready(stage, scale.of(10.0, short=0.8))
    finally:
        stage.redis.thaw()
    stage.tell("Redis was frozen")
    if unready:
        raise Broken(f"while Redis was frozen, {' and '.join(unready)} said not to be ready")


async def _never_ready(stage: Stage, seconds: float) -> set[str]:
    """Waits; which instances the balancer took for dead all the while, after the time it takes to notice."""
    never = set(stage.proxy.backends)
    await asyncio.sleep(ANSWER_SECONDS)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        never -= {name for name, backend in stage.proxy.backends.items() if backend.ready}
        await asyncio.sleep(LOOK_SECONDS)
    return never
