"""F8: connections cut in the middle of a WebSocket frame, of an SSE block, of a poll's answer; every send repeated.

A client acts on what it has whole and resumes from the last cursor it has, so what was cut is given again, once. A
send is cut on its way there or its answer on the way back, and repeated with its `client_id` as is every other: each is
stored once, and answered the same.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping

from faults.links import Kind
from faults.scale import Scale
from faults.stage import Broken, Stage
from faults.traffic import Traffic

SHARE = 0.1
"""Of the open connections of each kind, cut at a time."""
LATEST_SECONDS = 20.0
"""By when one of each kind must have been cut: few receivers may all be on others for a while."""
CUT = (Kind.WEBSOCKET, Kind.SSE, Kind.POLL, Kind.SEND)


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Cuts some of each kind inside what they are told or tell next, and resets some others, again and again."""
    before = dict(stage.proxy.cut_short)
    for sender in traffic.senders.values():
        sender.twice = True
    rounds, latest = scale.of(30, short=5), time.monotonic() + LATEST_SECONDS
    while rounds > 0 or (not all(_cut(stage, before).values()) and time.monotonic() < latest):
        rounds -= 1
        for kind in CUT:
            links = stage.proxy.choose([kind])
            many = max(1, round(SHARE * len(links)))
            stage.proxy.cut_inside(links[:many])
            if kind in (Kind.WEBSOCKET, Kind.SEND):
                stage.proxy.cut_sending(links[many : 2 * many])
            stage.proxy.cut(links[-max(1, many // 4) :])
        await asyncio.sleep(rng.uniform(0.2, 1.0) if scale.full else rng.uniform(0.1, 0.3))
    counts = _cut(stage, before)
    stage.tell("cut in the middle: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    for kind, count in counts.items():
        if not count:
            raise Broken(f"no {kind} was cut in the middle: this proves nothing")


def _cut(stage: Stage, before: Mapping[Kind, int]) -> dict[Kind, int]:
    """How many of each kind were cut in the middle since then."""
    return {kind: stage.proxy.cut_short[kind] - before.get(kind, 0) for kind in CUT}
