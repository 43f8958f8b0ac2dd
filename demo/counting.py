"""Act three: everybody counts as fast as answers come, while things are killed and emptied under them."""

from __future__ import annotations

import asyncio
import random
import time

from demo.people import Person, Seat
from demo.stage import Stage, Tone, span

COUNT_EVERY = 0.14
"""Seconds between an acknowledgement and the next number, about."""
WORST_MOMENT_LOOKS = 1000
"""How often, a millisecond apart, to look for a moment at which somebody is sending."""


async def count(stage: Stage) -> None:
    """Returns when the last number is acknowledged."""
    stage.act = "everybody counts"
    stage.counting_from = stage.ledger.head + 1
    done = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        reading = [
            tasks.create_task(person.keep_reading(lambda: random.uniform(0.8, 1.5)))
            for person in stage.people.values()
        ]
        counting = [tasks.create_task(_count(person, done)) for person in stage.people.values()]
        await stage.pause(3.0)
        await _kill_instance(stage)
        await stage.pause(4.0)
        await _flush_redis(stage)
        await stage.pause(2.5)
        await _bring_back(stage)
        await stage.pause(3.0)
        await _kill_redis(stage)
        await stage.pause(3.0)
        done.set()
        await asyncio.wait(counting)
        for task in reading:
            task.cancel()


async def _count(person: Person, done: asyncio.Event) -> None:
    number = 0
    while not done.is_set():
        number += 1
        await person.say(str(number))
        await asyncio.sleep(COUNT_EVERY * random.uniform(0.6, 1.4))


async def _kill_instance(stage: Stage) -> None:
    """At a moment when somebody there has sent and was not answered."""
    victim = stage.viewer.seat.instance
    there = {person.name for person in stage.people.values() if person.seat.instance is victim}
    for _ in range(WORST_MOMENT_LOOKS):
        if there.intersection(stage.ledger.sending):
            break
        await asyncio.sleep(0.001)
    waiting = len(there.intersection(stage.ledger.sending))
    stage.act = f"kill -9 {victim.name}"
    stage.tell(f"kill -9 {victim.name}: {len(there)} people, {waiting} mid-send", Tone.FAULT)
    stage.victim, stage.killed_at = victim, time.monotonic()
    await stage.fleet.kill(victim)


async def _flush_redis(stage: Stage) -> None:
    stage.act = "Redis forgets everything"
    keys = await stage.redis.flush()
    stage.tell(f"FLUSHALL: Redis forgot {keys} keys", Tone.FAULT)


async def _bring_back(stage: Stage) -> None:
    """Starts what was killed again; whoever was on it goes back, on the transport they have not had yet."""
    gone = stage.victim
    assert gone is not None
    stage.act = f"{gone.name} comes back"
    seconds = await stage.fleet.start(gone)
    stage.tell(f"{gone.name} is back after {span(seconds)}", Tone.GOOD)
    await stage.pause(0.8)
    for person in stage.people.values():
        if person.moves:
            person.move(Seat(person.seat.transport.next, gone))
            await stage.pause(0.4)


async def _kill_redis(stage: Stage) -> None:
    stage.act = "Redis is killed too"
    stage.tell("kill -9 Redis", Tone.FAULT)
    killed = await stage.redis.kill()
    back = await stage.redis.until_back()
    delays = stage.ledger.delays(killed, back)
    stage.tell(f"Redis is back after {span(back - killed)}, empty", Tone.GOOD)
    stage.tell(f"Redis away: {delays.count} copies, half in {span(delays.median)}", Tone.GOOD)
