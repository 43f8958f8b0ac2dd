"""F6: two hundred receivers stop reading for a minute, and stay connected.

They are in a group with long messages, and more is said in it than a kernel buffers for them. What the servers keep for
them must stay small, nobody else may notice, and when they read again they must get everything. They are connected
past the balancer and with small buffers of their own, so that what is measured is what the servers keep.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psutil

from faults.clients_http import Entrance
from faults.clients_people import register
from faults.clients_receiver import Device
from faults.history import Transport
from faults.scale import Scale
from faults.stage import Broken, Stage
from faults.traffic import Traffic

LONG = "é" * 3900  # 7.8 kB
LOUD_SENDERS = 2
LISTENERS = 10
"""Receivers that are in the loud group too, and go on reading."""
RECEIVE_BUFFER = 64 * 1024
KEPT_EACH = 768 * 1024
"""Bytes an instance may keep for one that stopped: a queue of 256 KiB, and what is on its way into the kernel."""
KEPT_BESIDES = 64 * 2**20
"""Bytes it may need besides: the newest events, which it keeps for everybody, have that ceiling."""
SAMPLE_SECONDS = 0.25
NOISE_SECONDS = 0.025
"""A 99th percentile below this is that of an idle machine: two of them are not compared with each other."""


@dataclass(slots=True)
class _Memory:
    """Resident memory of the instances, by name, in bytes: what it was at most."""

    most: dict[str, int] = field(default_factory=dict)

    async def watch(self, stage: Stage, until: float) -> None:
        """Looks again and again."""
        processes = {each.name: psutil.Process(each.pid) for each in stage.instances}
        while time.monotonic() < until:
            for name, process in processes.items():
                self.most[name] = max(self.most.get(name, 0), process.memory_info().rss)
            await asyncio.sleep(SAMPLE_SECONDS)


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Before, meanwhile, and after."""
    others = list(traffic.devices)
    deaf = await _open(stage, traffic, rng, scale)
    before, meanwhile = _Memory(), _Memory()
    calm = await _stretch(stage, before, scale.of(12.0, short=1.5))
    for device in deaf:
        device.stop_reading()
    loud = await _stretch(stage, meanwhile, scale.of(60.0, short=3.0))
    held = [device for device in deaf if device.wire is not None and device.wire.is_deaf]
    for device in deaf:
        device.entrance, device.receive_buffer = traffic.people.entrance, None
        device.resume_reading()
    grown = {name: most - before.most[name] for name, most in meanwhile.most.items()}
    ceiling = KEPT_BESIDES + KEPT_EACH * len(deaf) // len(stage.instances)
    said = sum(len(send.body.encode()) for send in traffic.record.sends if loud[0] < send.began < loud[1])
    stage.tell(
        f"{len(held)} receivers read nothing for {loud[1] - loud[0]:.0f} s, in which {said / 2**20:.1f} MiB were said; "
        + ", ".join(f"{name} grew by {grown[name] / 2**20:.0f} MiB" for name in grown)
        + f" of {ceiling / 2**20:.0f}"
    )
    if len(held) < len(deaf):
        raise Broken(f"only {len(held)} of {len(deaf)} stopped reading: this proves nothing")
    if too_much := [name for name in grown if grown[name] > ceiling]:
        raise Broken(f"{too_much[0]} grew by {grown[too_much[0]] / 2**20:.0f} MiB")
    for transports in (("ws", "sse"), ("poll",)):
        _compare(stage, traffic, others, transports, calm, loud)


async def _open(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> list[Device]:
    """The loud group and who is in it; returns when all read."""
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
        rate = scale.of(15.0, short=10.0) / len(talkers)
        sender = traffic.sender(talker, rate, rest=bool(n % 2), choose=lambda _: group)
        sender.filler = LONG
    return deaf


async def _stretch(stage: Stage, memory: _Memory, seconds: float) -> tuple[float, float]:
    """Lets so much time go by; from when to when."""
    began = time.monotonic()
    await memory.watch(stage, began + seconds)
    return began, time.monotonic()


def _compare(
    stage: Stage,
    traffic: Traffic,
    others: Iterable[Device],
    transports: Sequence[Transport],
    calm: tuple[float, float],
    loud: tuple[float, float],
) -> None:
    """The 99th percentile of others' deliveries may double at most. Raises Broken."""
    delays = {stretch: list[float]() for stretch in (calm, loud)}
    began = {send.client_id: send.began for send in traffic.record.sends}
    for device in others:
        for receipt in traffic.record.receipts[device.name]:
            sent = began.get(receipt.client_id or "")
            if receipt.type != "message.created" or sent is None or receipt.transport not in transports:
                continue
            for stretch, found in delays.items():
                if stretch[0] < sent < stretch[1]:
                    found.append(receipt.at - sent)
    before, meanwhile = (_percentile(found) for found in (delays[calm], delays[loud]))
    names = " and ".join(transports)
    stage.tell(
        f"99 in 100 deliveries by {names} took {before * 1000:.0f} ms at most before, "
        f"{meanwhile * 1000:.0f} ms meanwhile ({len(delays[loud])} deliveries)"
    )
    if meanwhile > 2 * max(before, NOISE_SECONDS):
        raise Broken(f"by {names}, others waited {meanwhile / before:.1f} times as long")


def _percentile(found: list[float]) -> float:
    if not found:
        raise Broken("others were given nothing: this proves nothing")
    return sorted(found)[int(len(found) * 0.99)]
