"""F10: membership changes all the time, while messages flow: nobody sees what they may not, everybody what they may.

People are taken in, taken out, leave and come back, in groups of both kinds of history, large ones and small ones.
Senders go on sending where they are no members any more. Meanwhile members, former members and strangers read by REST;
receivers hang up and come back; and in the end others of their devices begin where the first ones stood before
it all, and are told the whole story again.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from faults.clients_http import Cut
from faults.clients_people import SignIn
from faults.clients_receiver import Device, Place
from faults.scale import Scale
from faults.stage import Broken, Stage
from faults.traffic import Traffic

LARGE = 24
"""Movers of a large group: with the senders in it, more members than are told of each other's receipts."""
SMALL = 8
GOING_SENDERS = 2
"""Senders of each group that are taken out and in, too."""


@dataclass(slots=True)
class _Group:
    """One of the groups. Who is neither a mover nor its owner stays in it."""

    conversation: str
    owner: SignIn
    movers: list[SignIn]
    inside: set[str]
    busy: set[str] = field(default_factory=set)
    """A change of one membership is over before the next begins."""


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Changes for half a minute, or a few seconds; then replays."""
    places = {device.sign_in.account.name: device.place for device in traffic.devices}
    groups = await _open(traffic, rng, scale)
    until = time.monotonic() + scale.of(40.0, short=4.0)
    changed = [0]
    async with asyncio.TaskGroup() as tasks:
        for _ in range(scale.of(8, short=3)):
            tasks.create_task(_change(traffic, groups, random.Random(rng.random()), until, changed))
        for _ in range(scale.of(4, short=1)):
            tasks.create_task(_read(traffic, groups, random.Random(rng.random()), until))
        tasks.create_task(_hop(traffic.devices, random.Random(rng.random()), until))
    again = _begin_again(traffic, groups, places, rng, scale)
    await traffic.until_ready()
    readings = traffic.record.readings
    refused = sum(reading.status == 404 for reading in readings)
    stage.tell(
        f"{changed[0]} changes in {len(groups)} groups; {len(readings)} pages read, {refused} refused; "
        f"{again} devices told everything again"
    )
    if not (changed[0] and again and 0 < refused < len(readings)):
        raise Broken("nothing was changed, read or refused: this proves nothing")


async def _open(traffic: Traffic, rng: random.Random, scale: Scale) -> list[_Group]:
    """Groups of both kinds, large and small, half of the movers in."""
    senders, receivers = traffic.people.senders, list(traffic.people.receivers)
    groups = []
    for n in range(scale.of(6, short=2)):
        history = "joined" if n % 2 else "all"
        large = n % 3 > 0
        owner, *others = rng.sample(senders, len(senders) if large else max(2, len(senders) // 5))
        many = min(LARGE if large else SMALL, len(receivers) - 2)
        *movers, stayer = rng.sample(receivers, many + 1)
        movers += others[:GOING_SENDERS]
        first = [mover for mover in movers if rng.random() < 0.5]
        members = [*others[GOING_SENDERS:], stayer, *first]
        conversation = await traffic.open_group(owner, members, history)
        for sender in others[:GOING_SENDERS]:
            traffic.sends_in(sender, conversation)  # whether it is in or not
        inside = {mover.account.name for mover in first}
        groups.append(_Group(conversation, owner, movers, inside))
    return groups


async def _change(
    traffic: Traffic, groups: list[_Group], rng: random.Random, until: float, changed: list[int]
) -> None:
    """One change after another: of somebody whom nobody else is changing."""
    while time.monotonic() < until:
        group = rng.choice(groups)
        free = [mover for mover in group.movers if mover.account.name not in group.busy]
        if free:
            mover = rng.choice(free)
            group.busy.add(mover.account.name)
            await _toggle(traffic, group, mover, rng)
            group.busy.discard(mover.account.name)
            changed[0] += 1
        # Some come back at once, some after a while.
        await asyncio.sleep(rng.choice((0.0, 0.05, 0.3)))


async def _toggle(traffic: Traffic, group: _Group, mover: SignIn, rng: random.Random) -> None:
    name = mover.account.name
    if name in group.inside:
        by = mover if rng.random() < 0.5 else group.owner
        await traffic.remove(by, group.conversation, mover)
        group.inside.discard(name)
    else:
        await traffic.add(group.owner, group.conversation, mover)
        group.inside.add(name)


async def _read(traffic: Traffic, groups: list[_Group], rng: random.Random, until: float) -> None:
    """Pages of anywhere, read by movers, in or out, and by people who never were in."""
    everyone = [*traffic.people.receivers, *traffic.people.senders]
    while time.monotonic() < until:
        group = rng.choice(groups)
        reader = rng.choice(group.movers if rng.random() < 0.9 else everyone)
        head = traffic.record.head.get(group.conversation, 0)
        try:
            await traffic.read(reader, group.conversation, rng.randint(0, head), rng.choice((5, 100)))
        except Cut:
            pass
        await asyncio.sleep(0.05)


async def _hop(devices: list[Device], rng: random.Random, until: float) -> None:
    """Some hang up and come back, so that what they are told is replayed as often as it is pushed."""
    while time.monotonic() < until:
        for device in rng.sample(devices, max(1, len(devices) // 20)):
            device.hop()
        await asyncio.sleep(rng.uniform(0.2, 0.6))


def _begin_again(
    traffic: Traffic, groups: list[_Group], places: dict[str, Place], rng: random.Random, scale: Scale
) -> int:
    """Second devices of movers, with the cursor the first ones had at the beginning; how many."""
    movers = {mover.account.name: mover for group in groups for mover in group.movers}
    known = sorted(name for name in movers if name in places)
    chosen = rng.sample(known, min(len(known), scale.of(45, short=6)))
    for name in chosen:
        traffic.device(f"{name}/again", movers[name], place=places[name])
    return len(chosen)
