"""F9: one in ten of what is published over Redis does not arrive. It carries hints: this costs moments, no data."""

from __future__ import annotations

import asyncio
import random

from faults.scale import Scale
from faults.stage import Broken, Stage
from faults.traffic import Traffic

SHARE = 0.1


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Drops at random what Redis tells each instance."""
    before = {name: proxy.dropped for name, proxy in stage.hints.items()}
    for proxy in stage.hints.values():
        proxy.drop = SHARE
    try:
        await asyncio.sleep(scale.of(30.0, short=1.5))
    finally:
        for proxy in stage.hints.values():
            proxy.drop = 0.0
    for name, proxy in stage.hints.items():
        if proxy.dropped == before[name]:
            raise Broken(f"nothing that was published for {name} was dropped: this proves nothing")
    stage.tell(f"dropped {sum(proxy.dropped - before[name] for name, proxy in stage.hints.items())} hints")
