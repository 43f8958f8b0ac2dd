"""Act three: everybody counts as fast as answers come, while things are killed and emptied under them."""

from __future__ import annotations

import asyncio
import random
import time

from demo.people import Person, Seat
from demo.stage import Stage, Tone, span

COUNT_EVERY = 0.14
"""Seconds between an acknowledgement and the next number, about."""


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
    victim = stage.viewer.seat.instance
    there = [person for person in stage.people.values() if person.seat.instance is victim]
    stage.act = f"kill -9 {victim.name}, in the middle of it"
    stage.tell(f"kill -9 {victim.name}, process {victim.pid}, with {len(there)} people on it", Tone.FAULT)
    stage.killed_at = time.monotonic()
    await stage.fleet.kill(victim)


async def _flush_redis(stage: Stage) -> None:
    stage.act = "Redis forgets everything"
    keys = await stage.redis.flush()
    stage.tell(f"FLUSHALL: Redis forgot {keys} keys", Tone.FAULT)


async def _bring_back(stage: Stage) -> None:
    """Starts what was killed again; whoever was on it goes back, on the transport they have not had yet."""
    gone = next(instance for instance in stage.fleet.instances if not instance.is_running)
    stage.act = f"{gone.name} comes back"
    seconds = await stage.fleet.start(gone)
    stage.tell(f"{gone.name} is back after {span(seconds)}, process {gone.pid}", Tone.GOOD)
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
    stage.tell(f"without it: {delays.count} copies arrived, half within {span(delays.median)}", Tone.GOOD)
