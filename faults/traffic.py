"""The traffic a fault falls into: accounts, conversations of every size, senders, and receivers on three transports.

    people = await sign_up(entrance, rng, senders=50, receivers=200)          # once a stage
    async with people.traffic(rng, rate=50.0) as traffic:                     # once a fault: new conversations
        ...                                                                   # the fault
        await traffic.stop_sending()
        await traffic.until_caught_up(seconds=60.0)
    await traffic.read_stored({"one": Entrance.to(url, "one"), ...})
    history, wrong = traffic.history(), traffic.complaints

`traffic.complaints` are answers and frames that no server of the contract gives: each is a violation by itself.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from faults.clients_events import FrameReader
from faults.clients_http import Answer, Entrance, Rest
from faults.clients_people import Account, SignIn, register
from faults.clients_receiver import STREAMS, Device, Place, Policy, World
from faults.clients_record import Record
from faults.clients_rooms import PAGE, Rooms
from faults.clients_sender import Sender
from faults.history import CaughtUp, History, Revoked, Step, Stored, Transport

WATCH_SECONDS = 0.25
GROUP_RECEIVERS = 20
GROUP_SENDERS = 5
EVERYONE_SHARE = 0.2
"""Of the messages, sent in the group of all."""
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class People:
    """Accounts, each signed in once. Made by :func:`sign_up`."""

    entrance: Entrance
    rest: Rest
    senders: Sequence[SignIn]
    receivers: Sequence[SignIn]

    @asynccontextmanager
    async def traffic(self, rng: random.Random, rate: float, roaming: float = 0.5) -> AsyncIterator[Traffic]:
        """Traffic under way, all receivers with their first cursor. On leaving, every client hangs up.

        `rate`: messages a second, all senders together. `roaming`: the share of receivers that come back on any
        transport, not on the one they were on.
        """
        async with empty(self, rng) as made:
            await made.open_conversations()
            await made.start_receivers(roaming)
            made.start_senders(rate)
            yield made


async def sign_up(
    entrance: Entrance, rng: random.Random, senders: int, receivers: int, prefix: str = ""
) -> People:
    """New accounts. `prefix` tells those of one stage from another's in one database."""
    rest = Rest(_raise)
    prefix = prefix or f"u{rng.randrange(1 << 32):08x}"
    names = [f"{prefix}.s{n}" for n in range(senders)] + [f"{prefix}.r{n}" for n in range(receivers)]
    made = await register(rest, entrance, rng, names)
    return People(entrance, rest, made[:senders], made[senders:])


def _raise(what: str) -> None:
    raise AssertionError(what)


@asynccontextmanager
async def empty(people: People, rng: random.Random) -> AsyncIterator[Traffic]:
    """Traffic with no conversation, nobody sending and nobody receiving: for scenarios that set up their own."""
    record = Record()
    people.rest.complain = record.complain
    made = Traffic(people, record, World(people.entrance, record, FrameReader()), rng)
    async with asyncio.TaskGroup() as tasks:
        made.spawn = tasks.create_task
        watching = tasks.create_task(made.watch())
        try:
            yield made
        finally:
            watching.cancel()
            await made.close()


class Traffic(Rooms):
    """Everyone who takes part in one fault, and what they noted down."""

    def __init__(self, people: People, record: Record, world: World, rng: random.Random) -> None:
        super().__init__(people.entrance, people.rest, record, rng)
        self.people = people
        self.world = world
        self.spawn: Callable[..., asyncio.Task[None]]
        self.senders: dict[str, Sender] = {}
        self.devices: list[Device] = []
        self.everyone = ""
        """The group of all, in which a fifth of the messages is sent."""
        self.stopped_at = 0.0
        """When the senders were told to stop."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._caught_up: list[CaughtUp] = []
        self._stored: dict[str, list[Stored]] = {}
        self._ended = float("inf")

    @property
    def complaints(self) -> Sequence[str]:
        """What no server of the contract writes."""
        return self.record.complaints

    # Conversations and who is in them.

    async def open_conversations(self) -> None:
        """One group of all, groups of twenty receivers and five senders, and a direct one for each sender."""
        senders, receivers = self.people.senders, self.people.receivers
        if not senders or not receivers:
            return
        self.everyone = await self.open_group(senders[0], [*senders[1:], *receivers])
        groups = -(-len(receivers) // GROUP_RECEIVERS)
        async with asyncio.TaskGroup() as tasks:
            for n in range(groups):
                some = [
                    senders[(n * GROUP_SENDERS + k) % len(senders)]
                    for k in range(min(GROUP_SENDERS, len(senders)))
                ]
                tasks.create_task(self.open_group(some[0], [*some[1:], *receivers[n::groups]]))
            for n, sender in enumerate(senders):
                tasks.create_task(self.open_direct(sender, receivers[n % len(receivers)]))

    # Sign-ins.

    async def sign_in(self, name: str, password: str) -> SignIn:
        """Signs in an account that is there already."""
        return await SignIn.by_password(Account("", name, password), self.rest, self.entrance, self.rng)

    async def revoke(self, sign_ins: Sequence[SignIn], reason: str, end: Awaitable[Answer]) -> Answer:
        """Ends sign-ins by what `end` asks; from now on nothing is owed to their devices, which go on knocking."""
        for sign_in in sign_ins:
            sign_in.over = True
        for device in self.devices:
            if device.sign_in in sign_ins:
                device.goes()
        answer = await end
        names = frozenset(sign_in.name for sign_in in sign_ins)
        self.record.revocations.append(Revoked(names, time.monotonic(), reason))
        return answer

    # Clients.

    def device(
        self,
        name: str,
        sign_in: SignIn,
        policy: Policy = Policy.STAY,
        receive_buffer: int | None = None,
        place: Place | None = None,
        transport: Transport | None = None,
    ) -> Device:
        """One more receiver, reading from now on, or from `place`; transports come in turn."""
        transport = transport or STREAMS[len(self.devices) % len(STREAMS)]
        rng = random.Random(self.rng.getrandbits(64))
        made = Device(name, sign_in, transport, self.world, rng, policy, receive_buffer, place)
        self.devices.append(made)
        self._tasks[name] = self.spawn(made.run())
        return made

    async def start_receivers(self, roaming: float = 0.5) -> None:
        """A device for each receiver; returns when all have their first cursor."""
        for n, sign_in in enumerate(self.people.receivers):
            policy = Policy.ROAM if self.rng.random() < roaming else Policy.STAY
            self.device(f"{sign_in.account.name}/{n}", sign_in, policy)
        await self.until_ready()

    async def until_ready(self) -> None:
        """Returns when every device has its first cursor. Raises TimeoutError."""
        async with asyncio.timeout(START_SECONDS):
            for device in self.devices:
                await device.ready.wait()

    def start_senders(self, rate: float) -> None:
        """All senders, in turn on a WebSocket and by REST, each at its share of `rate`."""
        for n, sign_in in enumerate(self.people.senders):
            self.sender(sign_in, rate / len(self.people.senders), rest=bool(n % 2))

    def sender(
        self,
        sign_in: SignIn,
        rate: float,
        *,
        rest: bool,
        choose: Callable[[random.Random], str | None] | None = None,
    ) -> Sender:
        """One more sender; without `choose`, it sends where it is a member."""
        rng = random.Random(self.rng.getrandbits(64))
        name = sign_in.account.name
        made = Sender(
            sign_in,
            "rest" if rest else "ws",
            self.rest,
            self.world,
            rng,
            choose or (lambda r: self._place(name, r)),
        )
        self.senders[name] = made
        self._tasks[f"{name}!"] = self.spawn(made.run(rate))
        return made

    def _place(self, name: str, rng: random.Random) -> str | None:
        """Little in the group of all, so that there is both much fan-out and little."""
        places = self.places.get(name, [])
        others = [place for place in places if place != self.everyone]
        if self.everyone in places and (not others or rng.random() < EVERYONE_SHARE):
            return self.everyone
        return rng.choice(others) if others else None

    async def stop_sending(self, seconds: float = 60.0) -> None:
        """Tells the senders to stop, and returns when each message is acknowledged, or refused for good.

        What is still not acknowledged after `seconds` counts as given up.
        """
        self.stopped_at = time.monotonic()
        for sender in self.senders.values():
            sender.stop()
        await self._until_over([task for name, task in self._tasks.items() if name.endswith("!")], seconds)

    async def _until_over(self, tasks: Sequence[asyncio.Task[None]], seconds: float) -> None:
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def until_caught_up(self, seconds: float) -> float:
        """Returns when each receiver has everything acknowledged, or after `seconds`; how long that took.

        Counted from when the senders were told to stop. Who has not caught up by then has no `CaughtUp`.
        """
        deadline = time.monotonic() + seconds
        waiting = {
            device.name: (device, self._owed(device))
            for device in self.devices
            if device.name in self.record.receivers and self.record.receivers[device.name].stays
        }
        while waiting and time.monotonic() < deadline:
            for name, (device, owed) in list(waiting.items()):
                if all(device.last.get(conversation, 0) >= seq for conversation, seq in owed.items()):
                    del waiting[name]
                    self._caught_up.append(CaughtUp(name, time.monotonic()))
            await asyncio.sleep(0.02)
        return time.monotonic() - self.stopped_at

    def _owed(self, device: Device) -> dict[str, int]:
        """By conversation, the `seq` up to which a device must get to. Who joined after it is owed nothing there."""
        user = device.sign_in.account.name
        began = self.record.receivers[device.name].began
        owed = {}
        for conversation, seq in self.record.head.items():
            membership = self.record.memberships.get((user, conversation))
            if membership is None or membership.changes[-1].step is not Step.JOINED:
                continue
            if (
                seq > self.joined_at.get((user, conversation), 0)
                and self.record.head_began[conversation] > began
            ):
                owed[conversation] = seq
        return owed

    async def watch(self) -> None:
        """Finds connections that have fallen silent."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            for wire in (*(d.wire for d in self.devices), *(s.wire for s in self.senders.values())):
                if wire is not None:
                    wire.check(now)

    async def close(self) -> None:
        """Everyone hangs up."""
        self._ended = time.monotonic()
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        self.rest.close()

    # What there is in the end.

    async def read_stored(self, instances: Mapping[str, Entrance]) -> None:
        """Reads every conversation by REST, from each instance, as its owner."""
        for name, entrance in instances.items():
            stored = await asyncio.gather(
                *(self._read(entrance, conversation) for conversation in self.owners)
            )
            self._stored[name] = [message for messages in stored for message in messages]
        self.rest.close()

    async def _read(self, entrance: Entrance, conversation: str) -> list[Stored]:
        names = {sender.sign_in.account.id: name for name, sender in self.senders.items()}
        owner = self.owners[conversation]
        token = await owner.token()
        stored: list[Stored] = []
        after = 0
        while True:
            path = f"/conversations/{conversation}/messages?after_seq={after}&limit={PAGE}"
            answer = await self.rest.settle(entrance, self.rng, "GET", path, lambda: token)
            items = answer.json["items"]
            stored += [
                Stored(
                    conversation,
                    item["seq"],
                    item["client_id"],
                    names.get(item["sender_id"], item["sender_id"]),
                    item["body"],
                )
                for item in items
            ]
            if len(items) < PAGE:
                return stored
            after = items[-1]["seq"]

    def history(self) -> History:
        """What happened."""
        record = self.record
        return History(
            sends=record.sends,
            receivers=list(record.receivers.values()),
            connections=record.connections,
            receipts=record.receipts,
            stored=self._stored,
            memberships=list(record.memberships.values()),
            resyncs=record.resyncs,
            revocations=record.revocations,
            readings=record.readings,
            caught_up=self._caught_up,
            readable_from_the_start=frozenset(self.whole),
            ended=self._ended,
        )
