"""F2: SIGTERM of an instance, ten times: the rolling deploy. No request fails that was accepted.

A balancer stops routing to an instance that says it is leaving, and that instance answers all that reached it. So who
sends through the balancer sees no failure at all: every request is answered, by one or by the other.
"""

from __future__ import annotations

import asyncio
import random

from faults.history import History
from faults.scale import Scale
from faults.stage import Broken, Stage
from faults.traffic import Traffic


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Deploys each instance anew, one at a time, and waits until it takes connections before the next."""
    deploys = scale.of(10, short=2)
    for n in range(deploys):
        await asyncio.sleep(rng.uniform(*scale.of((0.2, 1.0), short=(0.1, 0.3))))
        leaving = stage.instances[n % 2]
        if (status := await leaving.leave()) != 0:
            raise Broken(f"{leaving.name} left with status {status}: {leaving.last_words()}")
        await stage.start(leaving)
    stage.tell(f"deployed {deploys} times")


def judge(history: History) -> list[str]:
    """Every try by REST that was not acknowledged. What a WebSocket's end leaves open is no request."""
    return [
        f"a request failed: {refusal.what} from {refusal.instance or 'nobody'}, message {send.number} of {send.sender}"
        for send in history.sends
        for refusal in send.refused
        if refusal.transport == "rest"
    ]
