"""S1's load on Synapse: PUT to send, /sync to receive, by the client API it offers to everybody."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import aiohttp
import orjson
import uvloop

from bench.chat import ChatResult
from bench.checker import WrongError
from bench.dialects import body
from bench.load import Meter, settle_memory
from bench.synapse import Pairs

_TIMEOUT = aiohttp.ClientTimeout(total=120)
_LAST_SECONDS = 60.0
_ACKNOWLEDGED, _DELIVERED = 1, 2


@dataclass(frozen=True, slots=True)
class SynapseSpec:
    """`in_flight` messages of each user under way; the next is sent when one is acknowledged and delivered."""

    port: int
    pids: tuple[int, ...]
    helpers: tuple[int, ...]
    pairs: Pairs = field(repr=False)
    seconds: float
    warmup_seconds: float
    in_flight: int


@dataclass(slots=True)
class _Message:
    sender: int
    sent_at: float
    acknowledged_at: float = 0.0
    delivered_at: float = 0.0
    through: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self) -> None:
        if self.acknowledged_at and self.delivered_at:
            self.through.set()


class _Load:
    def __init__(self, spec: SynapseSpec, session: aiohttp.ClientSession) -> None:
        self._spec = spec
        self._session = session
        self.messages: list[_Message] = []
        self.finished = 0
        self.sending = True

    def _headers(self, user: int) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._spec.pairs.tokens[user]}"}

    async def _get(self, user: int, since: str) -> dict[str, object]:
        query = {"filter": self._spec.pairs.filters[user], "timeout": "30000" if since else "0"}
        if since:
            query["since"] = since
        async with self._session.get(
            "/_matrix/client/v3/sync", params=query, headers=self._headers(user)
        ) as answer:
            if answer.status != 200:
                raise WrongError(f"Synapse answered a sync with {answer.status}: {await answer.text()}")
            found: dict[str, object] = orjson.loads(await answer.read())
            return found

    async def first_sync(self, user: int) -> str:
        return str((await self._get(user, ""))["next_batch"])

    async def receive(self, user: int, since: str) -> None:
        """Reads what comes for `user` until cancelled."""
        room = self._spec.pairs.rooms[user // 2]
        while True:
            answer = await self._get(user, since)
            now, since = time.perf_counter(), str(answer["next_batch"])
            joined = answer.get("rooms", {}).get("join", {})  # type: ignore[attr-defined]
            timeline = joined.get(room, {}).get("timeline", {})
            if timeline.get("limited"):
                raise WrongError(f"user {user}: Synapse left out messages of a sync")
            for event in timeline.get("events", ()):
                self._delivered(user, int(event["content"]["body"][:12]), now)

    def _delivered(self, user: int, number: int, now: float) -> None:
        message = self.messages[number]
        if message.sender == user:
            return
        if message.delivered_at or message.sender != user ^ 1:
            raise WrongError(f"user {user}: message {number} came twice, or to the wrong user")
        message.delivered_at = now
        message.note()

    async def send(self, user: int) -> None:
        """Sends one message after the other."""
        room = self._spec.pairs.rooms[user // 2]
        while self.sending:
            number, message = len(self.messages), _Message(user, time.perf_counter())
            self.messages.append(message)
            content = orjson.dumps({"msgtype": "m.text", "body": body(number).decode()})
            path = f"/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}"
            async with self._session.put(path, data=content, headers=self._headers(user)) as answer:
                if answer.status != 200:
                    raise WrongError(f"Synapse refused a send with {answer.status}: {await answer.text()}")
                await answer.read()
            message.acknowledged_at = time.perf_counter()
            message.note()
            await message.through.wait()
            self.finished += 1


def run_synapse(spec: SynapseSpec) -> ChatResult:
    """Raises WrongError when a message is lost, doubled or refused."""
    return uvloop.run(_run(spec))


async def _run(spec: SynapseSpec) -> ChatResult:
    connector = aiohttp.TCPConnector(limit=0)
    base = f"http://127.0.0.1:{spec.port}"
    async with aiohttp.ClientSession(base, connector=connector, timeout=_TIMEOUT) as session:
        load, users = _Load(spec, session), range(len(spec.pairs.users))
        places = [await load.first_sync(user) for user in users]
        settle_memory()
        async with asyncio.TaskGroup() as group:
            receiving = [group.create_task(load.receive(user, places[user])) for user in users]
            sending = [group.create_task(load.send(user)) for user in users for _ in range(spec.in_flight)]
            await asyncio.sleep(spec.warmup_seconds)
            first, before, meter = len(load.messages), load.finished, Meter(spec.pids, spec.helpers)
            await asyncio.sleep(spec.seconds)
            cost, count, last = meter.stop(), load.finished - before, len(load.messages)
            load.sending = False
            _, late = await asyncio.wait(sending, timeout=_LAST_SECONDS)
            for task in (*receiving, *late):
                task.cancel()
        if late:
            raise WrongError(f"{len(late)} messages not acknowledged and delivered by Synapse")
    counted = load.messages[first:last]
    return ChatResult(
        messages=count,
        acknowledged=[each.acknowledged_at - each.sent_at for each in counted],
        delivered=[each.delivered_at - each.sent_at for each in counted],
        late=[],
        cost=cost,
    )
