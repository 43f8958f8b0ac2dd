"""F6: two hundred receivers stop reading for a minute, and stay connected.

They are in a group with long messages, and more is said in it than a kernel buffers for them. What the servers keep for
them must stay small, nobody else may notice, and when they read again they must get everything. They are connected
past the balancer and with small buffers of their own, so that what is measured is what the servers keep; and they go
on to show signs of life where the transport has any, so that they are not taken for dead.
"""

from __future__ import annotations

import asyncio
import random
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psutil

from faults.clients_events import Frame
from faults.clients_http import Entrance
from faults.clients_people import register
from faults.clients_receiver import Device
from faults.scale import Scale
from faults.stage import Broken, Stage
from faults.traffic import Traffic

LONG = "é" * 3900  # 7.8 kB
LOUD_SENDERS = 16
LISTENERS = 10
"""Receivers that are in the loud group too, and go on reading."""
RECEIVE_BUFFER = 64 * 1024
ENOUGH = 8 * 2**20
"""Bytes that must be said meanwhile: Linux takes 4 MiB for each connection before a server notices anything."""
PATIENCE_SECONDS = 60.0
"""How much longer than planned it may take to say them."""
KEPT_EACH = 512 * 1024
"""Bytes an instance may keep for one that stopped: a queue of 256 KiB, and what is on its way into the kernel."""
KEPT_BESIDES = 64 * 2**20
"""Bytes it may need besides: the newest events, which it keeps for everybody, have that ceiling."""
FALLEN_BEHIND = "parley_sessions_fallen_behind_total"
RESUMED_AT_ONCE = 16
RESUME_SECONDS = 75.0
"""How long the scenario waits for them: they have 1.6 GB to get."""
RESUME_LOOK_SECONDS = 0.05
SAMPLE_SECONDS = 0.25
SLOWER = 2.0
"""The target: how many times as large the 99th percentile of others' deliveries may be."""
NOISE_SECONDS = 0.05
"""A 99th percentile below this is taken for this: what a machine does besides is as large."""


@dataclass(slots=True)
class _Stretch:
    """A while of the run: from when to when, and the most memory each instance had resident, in bytes."""

    began: float = field(default_factory=time.monotonic)
    ended: float = float("inf")
    most: dict[str, int] = field(default_factory=dict)

    def holds(self, began: float) -> bool:
        return self.began < began < self.ended


@dataclass(slots=True)
class _Delays:
    """How long others waited for messages: pairs of when one began and how long it took, by push and by poll."""

    begun: Mapping[str, float]
    pushed: list[tuple[float, float]] = field(default_factory=list)
    polled: list[tuple[float, float]] = field(default_factory=list)

    def note(self, device: Device, frame: Frame) -> None:
        event, wire = frame.event, device.wire
        if event is not None and wire is not None and event.type == "message.created":
            began = self.begun.get(event.client_id or "")
            if began is not None:
                (self.polled if wire.kind == "poll" else self.pushed).append((began, wire.heard - began))


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Before, meanwhile, and after."""
    delays = _Delays(traffic.record.begun)
    for device in traffic.devices:
        device.on_event = delays.note
    deaf, group = await _open(stage, traffic, rng, scale)
    before = await _stretch(stage, traffic, [], scale.of(12.0, short=1.5), 0)
    behind = await _fallen_behind(stage)
    for device in deaf:
        device.stop_reading()
    meanwhile = await _stretch(stage, traffic, deaf, scale.of(60.0, short=3.0), scale.of(ENOUGH, short=0))
    behind = await _fallen_behind(stage) - behind
    left = sum(device.wire is not None for device in deaf)
    stage.tell(
        f"{len(deaf)} receivers read nothing for {meanwhile.ended - meanwhile.began:.0f} s, in which "
        f"{_said(traffic, meanwhile) / 2**20:.1f} MiB were said; {behind} fell behind, {left} were not sent away"
    )
    _weigh(stage, before, meanwhile, len(deaf))
    await _resume(stage, traffic, deaf, group)
    slower = [
        _compare(stage, how, found, before, meanwhile)
        for how, found in (("push", delays.pushed), ("poll", delays.polled))
    ]
    # A second or two of a short run say little of how long things take, and fill no kernel's buffers.
    if scale.full and max(slower) > SLOWER:
        raise Broken(f"others waited {max(slower):.1f} times as long")
    if scale.full and behind < len(deaf) // 2:
        raise Broken("too little was said for most of them to fall behind: this proves nothing")


async def _open(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> tuple[list[Device], str]:
    """The loud group's receivers, and the group; returns when all read."""
    rest, entrance = traffic.rest, traffic.people.entrance
    prefix = f"d{rng.getrandbits(32):08x}"
    names = [f"{prefix}.{n}" for n in range(scale.receivers + LOUD_SENDERS)]
    people = await register(rest, entrance, rng, names)
    talkers, members = people[:LOUD_SENDERS], people[LOUD_SENDERS:]
    listeners = traffic.people.receivers[:LISTENERS]
    group = await traffic.open_group(talkers[0], [*talkers[1:], *listeners, *members], places=False)
    straight = [Entrance.to(each.url, each.name) for each in stage.instances]
    deaf = []
    for n, member in enumerate(members):
        device = traffic.device(f"{member.account.name}/deaf", member, receive_buffer=RECEIVE_BUFFER)
        device.entrance = straight[n % len(straight)]
        deaf.append(device)
    await traffic.until_ready()
    for n, talker in enumerate(talkers):
        rate = scale.of(20.0, short=10.0) / len(talkers)
        sender = traffic.sender(talker, rate, rest=bool(n % 2), choose=lambda _: group)
        sender.filler = LONG
    return deaf, group


async def _resume(stage: Stage, traffic: Traffic, deaf: Sequence[Device], group: str) -> None:
    """Lets them read again, and waits until they have what they have missed, while the others go on.

    Some at a time, or the harness would hear nobody else until it has read it all. Who never gets it is found out in
    the end.
    """
    began, goal = time.monotonic(), traffic.record.head.get(group, 0)
    left, reading = list(deaf), list[Device]()
    while left or reading:
        is_late = time.monotonic() - began > RESUME_SECONDS
        if is_late and not left:
            break
        while left and (is_late or len(reading) < RESUMED_AT_ONCE):
            device = left.pop()
            device.entrance, device.receive_buffer = traffic.entrance, None
            device.resume_reading()
            reading.append(device)
        await asyncio.sleep(RESUME_LOOK_SECONDS)
        reading = [device for device in reading if device.last.get(group, 0) < goal]
    stage.tell(
        f"{time.monotonic() - began:.1f} s after the first began to read again, "
        f"{len(deaf) - len(reading)} of {len(deaf)} had everything"
    )


async def _stretch(
    stage: Stage, traffic: Traffic, deaf: Sequence[Device], seconds: float, enough: int
) -> _Stretch:
    """Lets so much time go by, and more where not enough was said, while some seem to be alive."""
    stretch = _Stretch()
    processes = {each.name: psutil.Process(each.pid) for each in stage.instances}
    while (past := time.monotonic() - stretch.began) < seconds + PATIENCE_SECONDS:
        if past >= seconds and _said(traffic, stretch) >= enough:
            break
        for name, process in processes.items():
            stretch.most[name] = max(stretch.most.get(name, 0), process.memory_info().rss)
        for device in deaf:
            if device.wire is not None:
                device.wire.seem_alive()
        await asyncio.sleep(SAMPLE_SECONDS)
    stretch.ended = time.monotonic()
    return stretch


def _said(traffic: Traffic, stretch: _Stretch) -> int:
    """Bytes of the loud messages."""
    return sum(
        len(send.body.encode())
        for send in traffic.record.sends
        if stretch.holds(send.began) and send.body.endswith(LONG)
    )


async def _fallen_behind(stage: Stage) -> int:
    """How many connections the servers have found to be slow, so far, by their own metrics."""
    return sum([await asyncio.to_thread(_count, each.url, FALLEN_BEHIND) for each in stage.instances])


def _count(url: str, name: str) -> int:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310  (our own instance)
        lines: list[str] = answer.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(name))


def _weigh(stage: Stage, before: _Stretch, meanwhile: _Stretch, deaf: int) -> None:
    """Memory has a ceiling. Raises Broken."""
    ceiling = KEPT_BESIDES + KEPT_EACH * deaf // len(stage.instances)
    grown = {name: most - before.most[name] for name, most in meanwhile.most.items()}
    stage.tell(
        f"memory grew by {' and '.join(f'{size / 2**20:.0f}' for size in grown.values())} MiB "
        f"of {ceiling / 2**20:.0f}, to {max(meanwhile.most.values()) / 2**20:.0f}"
    )
    if too_much := [name for name in grown if grown[name] > ceiling]:
        raise Broken(f"{too_much[0]} grew by {grown[too_much[0]] / 2**20:.0f} MiB")


def _compare(
    stage: Stage, how: str, delays: Sequence[tuple[float, float]], before: _Stretch, meanwhile: _Stretch
) -> float:
    """How many times as large the 99th percentile of others' deliveries was."""
    first, then = (
        _percentile([delay for began, delay in delays if stretch.holds(began)])
        for stretch in (before, meanwhile)
    )
    stage.tell(
        f"by {how}, 99 in 100 deliveries to others took {first * 1000:.0f} ms at most before, "
        f"{then * 1000:.0f} ms meanwhile"
    )
    return then / max(first, NOISE_SECONDS)


def _percentile(found: list[float]) -> float:
    if not found:
        raise Broken("others were given nothing: this proves nothing")
    return sorted(found)[int(len(found) * 0.99)]
