"""A sender: numbered messages, each sent again with the same id until it is acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import Callable
from typing import Literal

from faults.clients_events import Frame, Json
from faults.clients_http import ANSWER_SECONDS, PASSING, Cut, Rest, WrongAnswer, backoff
from faults.clients_people import SignIn
from faults.clients_receiver import World, keep_fresh
from faults.clients_streams import End, SocketWire, Wire
from faults.history import Refusal, Send

OPEN_SECONDS = 2.0
"""How long a message waits for its sender's connection before it counts as a failed try."""

Way = Literal["ws", "rest"]


class Outcome:
    """What a try came to: a `seq`, or a refusal, final or not."""

    __slots__ = ("final", "refusal", "seq")

    def __init__(self, seq: int | None, refusal: Refusal | None = None, *, final: bool = False) -> None:
        self.seq = seq
        self.refusal = refusal
        self.final = final


class Sender:
    """One sender, on a WebSocket or by REST. Its connection takes no messages: topics that it does not have.

    `run` sends `rate` messages a second until `stop`; what is under way then is still brought to its end. `twice`:
    every try goes both ways at once, as an impatient client's does.
    """

    def __init__(
        self,
        sign_in: SignIn,
        way: Way,
        rest: Rest,
        world: World,
        rng: random.Random,
        choose: Callable[[random.Random], str | None],
    ) -> None:
        self.sign_in = sign_in
        self.name = sign_in.account.name
        self.way = way
        self.twice = False
        self.filler = ""
        """Appended to every body."""
        self.choose = choose
        self._rest = rest
        self._world = world
        self._rng = rng
        self._numbers = itertools.count(1)
        self._stopped = asyncio.Event()
        self._open = asyncio.Event()
        self.wire: SocketWire | None = None
        self._refused = ""

    def stop(self) -> None:
        """Begins no more messages."""
        self._stopped.set()

    async def run(self, rate: float) -> None:
        """Sends until it is told to stop, and then until what it began is answered."""
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(self._keep_open())
            due = time.monotonic() + self._rng.random() / rate
            while not await self._stops_by(due):
                conversation = self.choose(self._rng)
                if conversation is not None:
                    await self.send(conversation)
                # One that was held up does not make up for it.
                due = max(time.monotonic(), due + self._rng.uniform(0.5, 1.5) / rate)
            keeping.cancel()

    async def _stops_by(self, when: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, when - time.monotonic())):
                await self._stopped.wait()
        except TimeoutError:
            return False
        return True

    async def send(self, conversation: str) -> Send:
        """One message, brought to its end: acknowledged, or refused for good. Noted down also where it is cut short."""
        number = next(self._numbers)
        body = f"{self.name}:{number}{self.filler}"
        began = time.monotonic()
        client_id = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        self._world.record.begun[client_id] = began
        seq: int | None = None
        acked_at: float | None = None
        refused: list[Refusal] = []
        tries = 0
        try:
            while True:
                tries += 1
                outcome = await self._try(conversation, client_id, body)
                if outcome.seq is not None:
                    seq, acked_at = outcome.seq, time.monotonic()
                    break
                if outcome.refusal is not None:
                    refused.append(outcome.refusal)
                if outcome.final:
                    break
                wait = outcome.refusal.retry_after if outcome.refusal is not None else None
                await asyncio.sleep(backoff(self._rng, tries) if wait is None else wait)
        finally:
            send = Send(
                self.name, number, conversation, client_id, body, began, acked_at, seq, tuple(refused)
            )
            self._world.record.sent(send)
        return send

    async def _try(self, conversation: str, client_id: str, body: str) -> Outcome:
        if not self.twice:
            return await self._by(self.way, conversation, client_id, body)
        ways: tuple[Way, Way] = ("ws", "rest") if self.way == "ws" else ("rest", "rest")
        both = await asyncio.gather(*(self._by(way, conversation, client_id, body) for way in ways))
        acked = [outcome for outcome in both if outcome.seq is not None]
        if len({outcome.seq for outcome in acked}) > 1:
            self.complain(f"{client_id} was acknowledged as {[outcome.seq for outcome in acked]}")
        return acked[0] if acked else both[0]

    async def _by(self, way: Way, conversation: str, client_id: str, body: str) -> Outcome:
        data = {"client_id": client_id, "body": body}
        try:
            if way == "ws":
                return await self._by_socket(conversation, data)
            return await self._by_rest(conversation, data)
        except Cut as cut:
            return Outcome(None, Refusal(time.monotonic(), way, cut.instance, cut.why))
        except WrongAnswer:
            return Outcome(None)  # there was no token to be had

    async def _by_rest(self, conversation: str, data: Json) -> Outcome:
        token = await self.sign_in.token(but=self._refused)
        path = f"/conversations/{conversation}/messages"
        answer = await self._rest.call(self._world.entrance, "POST", path, token, data)
        if answer.status in (200, 201):
            return Outcome(self._seq(answer.json, conversation, data))
        if answer.status == 401:
            self._refused = token
        refusal = Refusal(time.monotonic(), "rest", answer.instance, answer.status, answer.retry_after)
        return Outcome(None, refusal, final=self._is_final(answer.status))

    async def _by_socket(self, conversation: str, data: Json) -> Outcome:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._open.wait()
        except TimeoutError:
            return Outcome(None)
        wire = self.wire
        if wire is None or not wire.is_open:
            return Outcome(None)  # nothing was tried
        reply = await wire.command("message.send", {"conversation_id": conversation, **data}, ANSWER_SECONDS)
        if reply["ok"]:
            return Outcome(self._seq(reply["data"], conversation, data))
        error = reply["error"]
        wait = error["retry_after_ms"] / 1000 if "retry_after_ms" in error else None
        refusal = Refusal(time.monotonic(), "ws", wire.instance, error["status"], wait)
        return Outcome(None, refusal, final=self._is_final(error["status"]))

    def _is_final(self, status: int) -> bool:
        """Whether the same will not be answered otherwise."""
        return self.sign_in.over if status == 401 else status not in PASSING

    def _seq(self, message: Json, conversation: str, data: Json) -> int:
        """The place of a message that was acknowledged; it must be the one that was sent."""
        sent = (conversation, data["client_id"], data["body"])
        told = (message["conversation_id"], message["client_id"], message["body"])
        if sent != told:
            self.complain(f"{sent} was acknowledged as {told}")
        seq: int = message["seq"]
        return seq

    async def _keep_open(self) -> None:
        """Has a WebSocket open, where it is this sender's way."""
        failures = 0
        try:
            while self.way == "ws":
                end = await self._hold()
                failures = 0 if self.wire is not None and self.wire.was_open else failures + 1
                wait = end.retry_after
                await asyncio.sleep(backoff(self._rng, failures) if wait is None else wait)
        finally:
            if self.wire is not None:
                self.wire.end("done")

    async def _hold(self) -> End:
        """One WebSocket, to its end."""
        try:
            token = await self.sign_in.token(but=self._refused)
        except (Cut, WrongAnswer) as error:
            return End(f"no token: {error}")
        world = self._world
        wire = self.wire = SocketWire(self, world.reader, world.entrance, token, "", topics="notifications")
        await wire.connect()
        await keep_fresh(wire, self.sign_in, self.complain)
        end = await wire.ended
        self._open.clear()
        if end.unauthorised:
            self._refused = token
        return end

    # What its connection tells it.

    def opened(self, wire: Wire) -> None:
        self._open.set()

    def take(self, wire: Wire, frame: Frame) -> None:
        if frame.type == "hello":
            wire.listen_for(float(frame.value["heartbeat_seconds"]))
        elif frame.event is not None and frame.type != "session.revoked":
            self.complain(f"{self.name} was told of a {frame.type} it had not asked for")

    def reached(self, wire: Wire, cursor: str) -> None:
        """It does not poll."""

    def complain(self, what: str) -> None:
        self._world.record.complain(what)
