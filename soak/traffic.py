"""The people, made and set loose: they come, do things, leave, change transport and instance, sign out and in again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from soak.connections import be_there, by_websocket
from soak.person import Chat, Person
from soak.tally import Tally

_GROUP = 12
_STAYING = 0.1  # the share of people whose connections last
_STAY_SECONDS = 40.0  # nearly as long as an access token
_TIMEOUT = aiohttp.ClientTimeout(total=30)


class Traffic:
    """`run` may be called again: the same people go on."""

    def __init__(self, people: list[Person], tally: Tally) -> None:
        self._people = people
        self.tally = tally

    async def run(self, seconds: float) -> None:
        """Everybody is busy for `seconds`, and gone at the end, kept connections too.

        Raises nothing that a server may do: see the tally.
        """
        async with _session() as session, asyncio.TaskGroup() as group:
            for person in self._people:
                person.session = session
            tasks = [
                group.create_task(self._live(person, number < _STAYING * len(self._people)))
                for number, person in enumerate(self._people)
            ]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()

    async def _live(self, person: Person, stays: bool) -> None:
        while True:
            if stays:
                await person.renew()
                await self._stay(person)
                continue
            await be_there(person, person.rng.uniform(0.3, 6.0))
            chance = person.rng.random()
            if chance < 0.15:
                await person.sign_out()
                await person.sign_in()
            elif chance < 0.2:
                await person.sign_in()  # a second sign-in beside the first
            else:
                await person.renew_in_time()

    @staticmethod
    async def _stay(person: Person) -> None:
        try:
            await by_websocket(person, _STAY_SECONDS)
        except (OSError, aiohttp.ClientError) as error:
            person.tally.refused[f"stay: {type(error).__name__}"] += 1


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3), timeout=_TIMEOUT
    )


@asynccontextmanager
async def traffic(ports: tuple[int, ...], count: int, seed: int) -> AsyncIterator[Traffic]:
    """`count` people with accounts, in groups of twelve and in pairs."""
    tally = Tally()
    async with _session() as session:
        people = [
            Person(f"soak{number:04d}", ports, random.Random(f"{seed}/{number}"), session, tally)
            for number in range(count)
        ]
        for person in people:
            await person.register()
        for start in range(0, count, _GROUP):
            await _gather(people[start : start + _GROUP], "group")
        for start in range(0, count - 1, 2):
            await _gather(people[start : start + 2], "direct")
        await _gather([*people[::3]], "group")  # across the others
        if tally.wrong or not all(person.chats for person in people):
            raise RuntimeError(f"the stage could not be set: {tally.told} {tally.refused}")
    tally.done.clear()
    yield Traffic(people, tally)


async def _gather(people: list[Person], kind: str) -> None:
    owner, *others = people
    if not others:
        return
    body: dict[str, object] = {"kind": kind, "members": [person.name for person in others]}
    made = await owner.call(
        "create", "POST", "/conversations", body | ({"title": "soak"} if kind == "group" else {})
    )
    if made is None:
        return
    for person in people:
        ids = [other.id for other in people if other is not person]
        person.chats.append(Chat(str(made["id"]), person is owner and kind == "group", ids))
