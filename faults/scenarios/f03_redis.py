"""F3: `kill -9` of Redis, FLUSHALL, and Redis away for half a minute.

Redis carries hints and nothing else: what is sent meanwhile is acknowledged and delivered as always, a little later.
"""

from __future__ import annotations

import asyncio
import random

from faults.outages import Outage
from faults.scale import Scale
from faults.stage import Broken, Stage, whole
from faults.traffic import Traffic

LATEST_SECONDS = 10.0
"""A delivery that takes longer while Redis is away is not a little late; the head is read five times a second."""

READY_SECONDS = 5.0


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Everything that can befall Redis; then all must have gone on without it."""
    for _ in range(scale.of(3, short=1)):
        await asyncio.sleep(rng.uniform(*scale.of((1.0, 2.0), short=(0.2, 0.4))))
        await whole(stage.redis.kill)
        await asyncio.sleep(rng.uniform(0.0, scale.of(2.0, short=0.3)))
        await whole(stage.redis.start)
    for _ in range(scale.of(20, short=4)):
        await asyncio.sleep(rng.uniform(0.05, scale.of(0.5, short=0.15)))
        await whole(stage.redis.flush)
    outage = Outage("Redis being away", traffic)
    await whole(stage.redis.stop)
    outage.begin()
    await asyncio.sleep(scale.of(30.0, short=1.5))
    unready = await _unready(stage)
    outage.end()
    await whole(stage.redis.start)
    await outage.until_recovered()
    if unready:
        raise Broken(f"without Redis, {unready} was not ready any more")
    refused = [
        f"{refusal.what} to message {send.number} of {send.sender}" for send, refusal in outage.refusals()
    ]
    if refused:
        raise Broken(f"without Redis, sends were refused: {refused[0]} and {len(refused) - 1} more")
    median, worst = outage.delays()
    if worst > LATEST_SECONDS:
        raise Broken(f"without Redis, a delivery took {worst:.1f} s")
    stage.tell(
        f"without Redis, {outage.acknowledged()} messages were acknowledged, and delivered "
        f"{median * 1000:.0f} ms later at the median, {worst * 1000:.0f} ms at most"
    )


async def _unready(stage: Stage) -> str:
    """An instance that does not say it is ready. One that was too busy to answer once in time is asked again."""
    for name in stage.proxy.backends:
        try:
            await stage.proxy.until_ready(name, READY_SECONDS)
        except TimeoutError:
            return name
    return ""
