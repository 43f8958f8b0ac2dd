"""Act two: a conversation, with everything that people do in one."""

from __future__ import annotations

import asyncio
import random

from demo.script import DIALOGUE, Delete, Edit, React, Say, Step
from demo.stage import Stage

KEY_SECONDS = 0.024
"""For each letter that is typed."""


async def talk(stage: Stage) -> None:
    """Plays the script. Everybody reads along and says so."""
    stage.act = "six people talk"
    places: dict[str, int] = {}
    async with asyncio.TaskGroup() as tasks:
        reading = [
            tasks.create_task(person.keep_reading(lambda: random.uniform(0.4, 1.3)))
            for person in stage.people.values()
        ]
        for step in DIALOGUE:
            await _perform(stage, step, places)
        await stage.pause(1.5)
        for task in reading:
            task.cancel()


async def _perform(stage: Stage, step: Step, places: dict[str, int]) -> None:
    """`places` keeps the `seq` of what has a label."""
    person = stage.people[step.who]
    match step:
        case Say():
            await person.do("typing.start")
            await stage.pause(0.4 + KEY_SECONDS * len(step.text))
            seq = await person.say(step.text)
            if step.label:
                places[step.label] = seq
            await stage.pause(0.7)
        case Edit():
            await stage.pause(0.5)
            await person.do("message.edit", seq=places[step.label], body=step.text)
            await stage.pause(1.0)
        case React():
            await person.do("reaction.add", seq=places[step.label], emoji=step.emoji)
            await stage.pause(0.9)
        case Delete():
            await stage.pause(0.6)
            await person.do("message.delete", seq=places[step.label])
            await stage.pause(1.2)
