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

from faults.clients_events import FrameReader, Json
from faults.clients_http import Answer, Entrance, Rest
from faults.clients_people import Account, SignIn, register
from faults.clients_receiver import STREAMS, Device, Place, Policy, World
from faults.clients_record import Record
from faults.clients_sender import Sender
from faults.history import CaughtUp, Change, History, Membership, Reading, Revoked, Step, Stored, Transport

WATCH_SECONDS = 0.25
GROUP_RECEIVERS = 20
GROUP_SENDERS = 5
EVERYONE_WEIGHT, GROUP_WEIGHT, DIRECT_WEIGHT = 0.2, 0.4, 0.4
PAGE = 100
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


class Traffic:
    """Everyone who takes part in one fault, and what they noted down."""

    def __init__(self, people: People, record: Record, world: World, rng: random.Random) -> None:
        self.people = people
        self.record = record
        self.world = world
        self.rng = rng
        self.spawn: Callable[..., asyncio.Task[None]]
        self.senders: dict[str, Sender] = {}
        self.devices: list[Device] = []
        self.owners: dict[str, SignIn] = {}
        """By conversation, who made it, and stays in it."""
        self.places: dict[str, list[str]] = {}
        """By sender's name, where they send: one of these each time, all alike; see `everyone`."""
        self.everyone = ""
        """The group of all, in which a fifth of the messages is sent."""
        self.stopped_at = 0.0
        """When the senders were told to stop."""
        self._whole: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._caught_up: list[CaughtUp] = []
        self._stored: dict[str, list[Stored]] = {}
        self._ended = float("inf")
        self._joined_at: dict[tuple[str, str], int] = {}

    @property
    def rest(self) -> Rest:
        """Requests outside of what clients do by themselves."""
        return self.people.rest

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

    async def open_group(
        self, owner: SignIn, members: Sequence[SignIn], history: str = "joined", *, places: bool = True
    ) -> str:
        """A new group; its id. Senders among its members send there, if `places`."""
        body: Json = {
            "kind": "group",
            "title": "faults",
            "history": history,
            "members": [member.account.name for member in members],
        }
        made = await self._opened(owner, members, body, places=places)
        if history == "all":
            self._whole.add(made)
        return made

    async def open_direct(self, one: SignIn, other: SignIn) -> str:
        """The conversation of two, new or not; its id."""
        body: Json = {"kind": "direct", "members": [other.account.name]}
        return await self._opened(one, [other], body, places=True)

    async def _opened(self, owner: SignIn, members: Sequence[SignIn], body: Json, *, places: bool) -> str:
        began = time.monotonic()
        key = {"Idempotency-Key": f"{self.rng.getrandbits(64):x}"}
        answer = await self.ask(owner, "POST", "/conversations", body, headers=key)
        conversation: str = answer.json["id"]
        joined = Change(Step.JOINED, began, time.monotonic())
        self.owners[conversation] = owner
        for member in (owner, *members):
            name = member.account.name
            self.record.memberships[name, conversation] = Membership(name, conversation, (joined,))
            if places:
                self.sends_in(member, conversation)
        return conversation

    def sends_in(self, sender: SignIn, conversation: str) -> None:
        """From now on it is one of the places where this sender sends, member or not."""
        self.places.setdefault(sender.account.name, []).append(conversation)

    async def add(self, by: SignIn, conversation: str, who: SignIn) -> Answer:
        """Takes somebody in. A first try that comes in late finds itself answered: it adds nobody a second time."""
        began = time.monotonic()
        path, body = f"/conversations/{conversation}/members", {"members": [who.account.name]}
        key = {"Idempotency-Key": f"{self.rng.getrandbits(64):x}"}
        try:
            answer = await self.ask(by, "POST", path, body, headers=key)
        except BaseException:
            self._changed(who, conversation, Change(Step.JOINED, began, None))
            raise
        self._changed(who, conversation, Change(Step.JOINED, began, time.monotonic()))
        self._joined_at[who.account.name, conversation] = answer.json["last_seq"]
        return answer

    async def remove(self, by: SignIn, conversation: str, who: SignIn) -> Answer:
        """Takes somebody out, or leaves. A repeat of what was done already is answered 404, which settles it too."""
        began = time.monotonic()
        path = f"/conversations/{conversation}/members/{who.account.name}"
        try:
            answer = await self.ask(by, "DELETE", path, fine=(204, 404))
        except BaseException:
            self._changed(who, conversation, Change(Step.LEFT, began, None))
            raise
        self._changed(who, conversation, Change(Step.LEFT, began, time.monotonic()))
        return answer

    async def read(self, by: SignIn, conversation: str, after: int, limit: int = PAGE) -> Reading:
        """Reads a page by REST, once, as somebody who may or may not do so. Raises Cut."""
        token, began = await by.token(), time.monotonic()
        path = f"/conversations/{conversation}/messages?after_seq={after}&limit={limit}"
        answer = await self.rest.call(self.people.entrance, "GET", path, token)
        seqs = tuple(item["seq"] for item in answer.json["items"]) if answer.status == 200 else ()
        user, ended = by.account.name, time.monotonic()
        reading = Reading(
            user, conversation, answer.instance, began, ended, answer.status, seqs, after, limit
        )
        self.record.readings.append(reading)
        return reading

    async def sign_in(self, name: str, password: str) -> SignIn:
        """Signs in an account that is there already."""
        return await SignIn.by_password(
            Account("", name, password), self.rest, self.people.entrance, self.rng
        )

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

    def _changed(self, who: SignIn, conversation: str, change: Change) -> None:
        key = who.account.name, conversation
        before = self.record.memberships.get(key)
        changes = (*before.changes, change) if before is not None else (change,)
        self.record.memberships[key] = Membership(*key, changes)

    async def ask(
        self,
        by: SignIn,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        fine: Sequence[int] = (200, 201, 204),
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """A request of one of the people, until it is answered. Raises WrongAnswer, Cut."""
        token = await by.token()
        return await self.rest.settle(
            self.people.entrance, self.rng, method, path, lambda: token, body, fine=fine, headers=headers
        )

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
        if self.everyone in places and (not others or rng.random() < EVERYONE_WEIGHT):
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
            if self.record.receivers[device.name].stays
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
                seq > self._joined_at.get((user, conversation), 0)
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

    # What there is in the end.

    async def read_stored(self, instances: Mapping[str, Entrance]) -> None:
        """Reads every conversation by REST, from each instance, as its owner."""
        for name, entrance in instances.items():
            stored = await asyncio.gather(
                *(self._read(entrance, conversation) for conversation in self.owners)
            )
            self._stored[name] = [message for messages in stored for message in messages]

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
            readable_from_the_start=frozenset(self._whole),
            ended=self._ended,
        )
