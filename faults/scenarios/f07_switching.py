"""F7: receivers that come back over another transport, to another instance, at random, all the time.

One cursor is good everywhere: whatever they switch between, they are given the same row of events.
"""

from __future__ import annotations

import asyncio
import random

from faults.clients_receiver import Policy
from faults.links import Kind
from faults.scale import Scale
from faults.stage import Stage
from faults.traffic import Traffic

SHARE = 0.1
"""Of the receivers, at a time: most of them hang up every few seconds."""


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Half of those that go hang up themselves, half are cut off."""
    many = max(2, round(SHARE * len(traffic.devices)))
    rounds, hops = scale.of(60, short=6), 0
    for device in traffic.devices:
        device.policy = Policy.ROAM
    for _ in range(rounds):
        chosen = rng.sample(traffic.devices, many)
        for device in chosen[: many // 2]:
            device.hop()
        hops += many
        stage.proxy.cut(stage.proxy.choose((Kind.WEBSOCKET, Kind.SSE, Kind.POLL))[: many // 2])
        await asyncio.sleep(rng.uniform(0.2, 0.8) if scale.full else 0.2)
    stage.tell(f"{len(traffic.devices)} receivers switched {hops} times")
