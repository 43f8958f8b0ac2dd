"""Act four: when all is quiet, everybody's inbox is held against what REST and the log say."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from demo.inbox import Copy
from demo.instances import Instance
from demo.people import Person
from demo.proof import Given, Proof, Sent, prove
from demo.stage import Stage

QUIET_SECONDS = 1.3
"""Receipts are told at most once a second, so this long after the last event there is none to come."""
SETTLE_SECONDS = 30.0
"""How long after the last acknowledgement everybody may take to have everything."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`caught_up` is in seconds since the kill, by name, of those who sat at the killed instance."""

    proof: Proof
    caught_up: dict[str, float]


async def judge(stage: Stage) -> Verdict:
    """Waits for quiet, reads history and log again, and compares; what is missing then has 30 s to come."""
    stage.act = "does everybody have everything?"
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        await _quiet(stage, deadline)
        proof = await _compare(stage)
        if not proof.is_waiting or time.monotonic() > deadline:
            break
    times = {person.name: _caught_up(person, stage.killed_at) for person in stage.people.values()}
    return Verdict(proof, {name: seconds for name, seconds in times.items() if seconds is not None})


async def _quiet(stage: Stage, deadline: float) -> None:
    """Until nothing has come to anybody for a while, but not past the deadline (monotonic)."""
    seen, since = -1, time.monotonic()
    while time.monotonic() < min(deadline, since + QUIET_SECONDS):
        await asyncio.sleep(0.05)
        events = sum(len(person.inbox.events) for person in stage.people.values())
        if events != seen:
            seen, since = events, time.monotonic()


async def _compare(stage: Stage) -> Proof:
    people = list(stage.people.values())
    histories = {
        instance.name: await _history(stage, instance, person)
        for instance, person in zip(stage.fleet.instances, people, strict=False)
    }
    given = {person.name: await _given(stage, person) for person in people}
    sent = [Sent(entry.client_id, entry.sender, entry.seq) for entry in stage.ledger.entries.values()]
    return prove(sent, histories, given)


async def _history(stage: Stage, instance: Instance, person: Person) -> list[Copy]:
    messages = await stage.api.history(instance.url, person.account, stage.conversation)
    return [Copy(message["seq"], message["client_id"]) for message in messages]


async def _given(stage: Stage, person: Person) -> Given:
    replay = await stage.api.replay(person.seat.instance.url, person.account, stage.start)
    inbox = person.inbox
    return Given(tuple(inbox.copies), tuple(inbox.events), tuple(replay), inbox.resyncs)


def _caught_up(person: Person, killed_at: float) -> float | None:
    """None for who was not cut off."""
    cuts = [at for at, move in enumerate(person.moves) if not move.wanted and move.left >= killed_at]
    later = person.moves[cuts[0] :] if cuts else []
    return next((move.caught_up - killed_at for move in later if move.caught_up), None)
