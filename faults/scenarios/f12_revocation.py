"""F12: sign-ins end while messages flow: by logout, deletion from another device, suspension, the token's expiry.

Each has a WebSocket, an event stream and a row of polls open, on whichever instance the balancer chose, and the request
that ends it goes to either. All must be closed within a second of the answer, nothing may be delivered after it, and
the dead token, with which the devices go on knocking, opens nothing. Then all of it once more without Redis, as
revocations travel in the log. Other sign-ins of the same accounts go on and miss nothing; some of them with tokens
that would expire too, were they not refreshed in time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from faults.clients_http import Answer, Entrance
from faults.clients_people import SignIn, register
from faults.clients_receiver import STREAMS, Device
from faults.history import Revoked
from faults.scale import Scale
from faults.stage import Broken, Stage, whole
from faults.traffic import Traffic

WAYS = ("logout", "deletion", "suspension", "expiry")
LIFE_SECONDS = 12
"""Of the tokens that are to expire: enough to connect with them on a busy machine."""
KNOCKING_SECONDS = 3.0
PASSWORD = "the faults harness's own"  # noqa: S105  (of a database that lives for minutes)


@dataclass(frozen=True, slots=True)
class _Victim:
    """An account with a sign-in that is to end, and one beside it that ends only with the account."""

    way: str
    ending: SignIn
    other: SignIn
    devices: Sequence[Device]

    @property
    def sign_ins(self) -> list[SignIn]:
        return [self.ending, self.other] if self.way == "suspension" else [self.ending]


async def run(stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale) -> None:
    """Two rounds, the second without Redis."""
    admin = await _admin(stage, traffic, rng)
    async with _minter(stage, scale) as minter:
        elsewhere = await _round(traffic, rng, scale, admin, minter)
        await whole(stage.redis.kill)
        try:
            elsewhere += await _round(traffic, rng, scale, admin, minter)
        finally:
            await whole(stage.redis.start)
    ends = [end for revoked in traffic.record.revocations for end in _ends(traffic, revoked)]
    stage.tell(
        f"{len(traffic.record.revocations)} sign-ins ended with {len(ends)} connections, {elsewhere} of them at the "
        f"other instance; the last was closed {max(ends, default=0.0):.2f} s after the answer"
    )
    if len(ends) < len(traffic.record.revocations) or not elsewhere:
        raise Broken("too few connections were open at both instances: this proves nothing")
    _check_renewed(traffic)


@asynccontextmanager
async def _minter(stage: Stage, scale: Scale) -> AsyncIterator[Entrance | None]:
    """An instance whose tokens have a short life. In a short run there is none: starting it takes longer than that."""
    if not scale.full:
        yield None
        return
    instance = stage.instances[0].beside("minter", PARLEY_ACCESS_TOKEN_SECONDS=str(LIFE_SECONDS))
    try:
        await instance.start()
        yield Entrance.to(instance.url, "minter")
    finally:
        if instance.is_running:
            await instance.kill()


async def _round(
    traffic: Traffic, rng: random.Random, scale: Scale, admin: SignIn, minter: Entrance | None
) -> int:
    """New victims are in the middle of it all when their sign-ins end, all at about the same time.

    How many connections were at another instance than the one that was asked.
    """
    each = scale.of(5, short=1)
    names = [f"v{rng.getrandbits(32):08x}.{n}" for n in range(each * len(WAYS))]
    accounts = await register(
        traffic.rest, traffic.entrance, rng, names[: each * 3 if minter is None else None]
    )
    senders = traffic.people.senders
    await traffic.open_group(senders[0], [*senders[1:], *accounts])
    victims = [
        await _victim(traffic, rng, WAYS[n // each], account, minter) for n, account in enumerate(accounts)
    ]
    await traffic.until_ready()
    await asyncio.sleep(scale.of(2.0, short=0.5))
    async with asyncio.TaskGroup() as tasks:
        ending = [
            tasks.create_task(_end(traffic, victim, admin, random.Random(rng.random()))) for victim in victims
        ]
    await asyncio.sleep(scale.of(KNOCKING_SECONDS, short=1.5))
    return sum(task.result() for task in ending)


async def _victim(
    traffic: Traffic, rng: random.Random, way: str, first: SignIn, minter: Entrance | None
) -> _Victim:
    """A second sign-in with all transports; the first one has a device that goes on."""
    expires = minter is not None and way == "expiry"
    at = minter if minter is not None and expires else traffic.entrance
    second = await SignIn.by_password(first.account, traffic.rest, at, rng, number=2)
    if expires:
        second.over = True  # nobody refreshes it
        renewed = await SignIn.by_password(first.account, traffic.rest, at, rng, number=3)
        renewed.entrance = traffic.entrance
        traffic.device(f"{renewed.name}/renewed", renewed, transport="ws")
    devices = [
        traffic.device(f"{second.name}/{transport}", second, transport=transport) for transport in STREAMS
    ]
    traffic.device(f"{first.name}/other", first)
    return _Victim(way, second, first, devices)


async def _end(traffic: Traffic, victim: _Victim, admin: SignIn, rng: random.Random) -> int:
    """Ends it; how many of its connections were at another instance than the one that was asked to."""
    await asyncio.sleep(rng.uniform(0.0, 1.0))
    at = [device.wire.instance for device in victim.devices if device.wire is not None]
    if victim.way == "expiry":
        await asyncio.sleep(victim.ending.expired_by - time.monotonic())
        for device in victim.devices:
            device.goes()
        traffic.record.revocations.append(
            Revoked(frozenset({victim.ending.name}), victim.ending.expired_by, victim.way)
        )
        return 0
    answer = await traffic.revoke(victim.sign_ins, victim.way, _ask(traffic, victim, admin))
    return sum(instance != answer.instance for instance in at)


async def _ask(traffic: Traffic, victim: _Victim, admin: SignIn) -> Answer:
    """Asks once more where the first answer was lost: then it is over already."""
    over = (204, 401, 404)
    if victim.way == "logout":
        return await traffic.ask(victim.ending, "POST", "/auth/logout", fine=over)
    if victim.way == "suspension":
        return await traffic.ask(admin, "POST", f"/admin/users/{victim.other.account.name}/suspend")
    sessions = await traffic.ask(victim.other, "GET", "/auth/sessions")
    doomed = next(each["id"] for each in sessions.json["items"] if not each["current"])
    return await traffic.ask(victim.other, "DELETE", f"/auth/sessions/{doomed}", fine=over)


async def _admin(stage: Stage, traffic: Traffic, rng: random.Random) -> SignIn:
    name = f"admin{rng.getrandbits(32):08x}"
    await stage.instances[0].command(
        "create-admin", "--username", name, "--email", f"{name}@faults.example", "--password", PASSWORD
    )
    return await traffic.sign_in(name, PASSWORD)


def _ends(traffic: Traffic, revoked: Revoked) -> list[float]:
    """How long after the answer each connection of these sign-ins was closed that was open then."""
    return [
        connection.closed_at - revoked.acked_at
        for connection in traffic.record.connections
        if connection.sign_in in revoked.sign_ins and connection.closed_at is not None
    ]


def _check_renewed(traffic: Traffic) -> None:
    """A WebSocket that is given new tokens in time outlives the one it was opened with. Raises Broken."""
    for connection in traffic.record.connections:
        if connection.receiver.endswith("/renewed") and connection.reason == "4401":
            raise Broken(f"{connection.receiver} was closed though it had renewed its token")
