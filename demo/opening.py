"""Act one: two instances start, and six people come."""

from __future__ import annotations

import asyncio

from demo.frames import Frame
from demo.instances import Instance
from demo.people import Move, Person
from demo.script import TITLE
from demo.stage import Stage, Tone, span

ENTER_SECONDS = 30.0


async def start_instances(stage: Stage) -> None:
    """Both at once, on one data directory: they agree on who starts PostgreSQL and Redis. Raises StartError."""
    stage.act = "two instances start"

    async def start(instance: Instance) -> None:
        seconds = await stage.fleet.start(instance)
        stage.tell(f"{instance.name} is ready after {span(seconds)}", Tone.GOOD)

    async with asyncio.TaskGroup() as tasks:
        for instance in stage.fleet.instances:
            tasks.create_task(start(instance))


async def gather_people(stage: Stage, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
    """Signs everybody up, puts them in one group, and lets them read from one and the same cursor on.

    Returns once all are connected: the tasks that read for them, in `tasks`, which run until cancelled.
    """
    people = list(stage.people.values())
    async with asyncio.TaskGroup() as signing_up:
        for person in people:
            signing_up.create_task(person.register())
    owner, *others = people
    url, account = owner.seat.instance.url, owner.account
    stage.names.update({person.account.id: person.name for person in people})
    stage.conversation = await stage.api.make_group(url, account, TITLE, [each.name for each in others])
    stage.start = await stage.api.place(url, account)
    stage.viewer.on_frame = lambda _, frame: _look(stage, frame)
    for person in people:
        person.enter(stage.conversation, stage.start)
        person.on_moved = lambda who, move: _tell_of_move(stage, who, move)
    running = [tasks.create_task(person.run()) for person in people]
    async with asyncio.timeout(ENTER_SECONDS):
        while not all(person.is_connected for person in people):  # noqa: ASYNC110  (a look at six flags)
            await asyncio.sleep(0.02)
    stage.tell(f"{len(people)} people are here, on three transports", Tone.GOOD)
    return running


def _look(stage: Stage, frame: Frame) -> None:
    stage.transcript.apply(frame)


def _tell_of_move(stage: Stage, who: Person, move: Move) -> None:
    since = move.left if move.wanted else stage.killed_at or move.left
    caught = f"{move.behind} caught up" if move.behind else "nothing missed"
    text = f"{who.name}: {move.source} → {move.target}, {caught}, {span(move.caught_up - since)}"
    stage.tell(text, Tone.PLAIN if move.wanted else Tone.GOOD)
