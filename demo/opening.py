"""Act one: two instances start, and six people come."""

from __future__ import annotations

import asyncio

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
    stage.act = f"{len(people)} people sign up"
    async with asyncio.TaskGroup() as signing_up:
        registering = [
            signing_up.create_task(stage.api.register(person.seat.instance.url, person.name))
            for person in people
        ]
    accounts = [made.result() for made in registering]
    stage.names.update({account.id: account.username for account in accounts})
    owner, *others = people
    url, account = owner.seat.instance.url, accounts[0]
    stage.conversation = await stage.api.make_group(url, account, TITLE, [each.name for each in others])
    stage.start = await stage.api.place(url, account)
    stage.viewer.on_frame = lambda _, frame: stage.transcript.apply(frame)
    for person, account in zip(people, accounts, strict=True):
        person.enter(stage.conversation, stage.start, account)
        person.on_moved = lambda who, move: _tell_of_move(stage, who, move)
    running = [tasks.create_task(person.run()) for person in people]
    async with asyncio.timeout(ENTER_SECONDS):
        while not all(person.is_connected for person in people):  # noqa: ASYNC110  (a look at six flags)
            await asyncio.sleep(0.02)
    stage.tell(f"{len(people)} people here, on three transports", Tone.GOOD)
    return running


def _tell_of_move(stage: Stage, who: Person, move: Move) -> None:
    surprise = stage.is_surprise(move)
    if surprise:
        stage.tell(f"{who.name} was cut off from {move.source}: {move.why}", Tone.FAULT)
    seconds = span(move.caught_up - (move.left if move.wanted or surprise else stage.killed_at))
    if move.refused:
        stage.tell(f"{who.name} was turned away first: {move.refused}", Tone.FAULT)
    caught = f"{move.behind} caught up" if move.behind else "up to date"
    stage.tell(f"{who.name} → {move.target}: {caught}, {seconds}", Tone.PLAIN if move.wanted else Tone.GOOD)
