"""A receiver: one device with one cursor, that reads to the end of the run, over whatever connections that takes."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import get_args

from faults.clients_events import Frame, FrameReader
from faults.clients_http import ANSWER_SECONDS, Cut, Entrance, WrongAnswer, backoff
from faults.clients_people import SignIn
from faults.clients_polls import PollWire
from faults.clients_record import Record
from faults.clients_streams import End, SocketWire, StreamWire, Wire
from faults.history import Receiver, Resync, Transport

STREAMS: tuple[Transport, ...] = tuple(t for t in get_args(Transport) if t != "rest")
_WIRES: dict[Transport, type[Wire]] = {"ws": SocketWire, "sse": StreamWire, "poll": PollWire}


class Policy(StrEnum):
    """How a receiver comes back. Which instance it comes to is the balancer's choice in any case."""

    STAY = "stay"  # the same transport
    ROAM = "roam"  # any transport


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor, and a moment at which it was already known: what was sent from then on lies behind it."""

    cursor: str
    at: float


@dataclass(frozen=True, slots=True)
class World:
    """What all clients of a run share."""

    entrance: Entrance
    record: Record
    reader: FrameReader


class Device:
    """One receiver. `run` reads until it is cancelled; everything else may be called meanwhile.

    It acts on whole frames only, and comes back with the cursor of the last one.
    """

    def __init__(
        self,
        name: str,
        sign_in: SignIn,
        transport: Transport,
        world: World,
        rng: random.Random,
        policy: Policy = Policy.STAY,
        receive_buffer: int | None = None,
        place: Place | None = None,
    ) -> None:
        self.name = name
        self.sign_in = sign_in
        self.transport = transport
        self.policy = policy
        self.entrance = world.entrance
        self.cursor = place.cursor if place is not None else ""
        self.began = place.at if place is not None else None
        self.ready = asyncio.Event()
        """Set once it has its first cursor."""
        self.last: dict[str, int] = {}
        """By conversation, the `seq` of the last message it was given."""
        self.ends: Counter[str] = Counter()
        """How its connections ended, and attempts at one, in words."""
        self.wire: Wire | None = None
        self.on_event: Callable[[Device, Frame], None] | None = None
        self._world = world
        self._rng = rng
        self.receive_buffer = receive_buffer
        self._listens = asyncio.Event()
        self._listens.set()
        self._number: int | None = None
        self._refused = ""

    # What its owner may do to it.

    @property
    def place(self) -> Place:
        """Where another device of this user could begin."""
        return Place(self.cursor, time.monotonic())

    def hop(self) -> None:
        """Hangs up, and comes back as its policy says."""
        if self.wire is not None:
            self.wire.end("hop")

    def cut(self) -> None:
        """Its connection is reset under it."""
        if self.wire is not None:
            self.wire.cut()

    def stop_reading(self) -> None:
        """Takes nothing more from its connection, and does not leave it. If it is sent away, it stays away."""
        self._listens.clear()
        if self.wire is not None:
            self.wire.stop_reading()

    def resume_reading(self) -> None:
        """Reads on: first what waited."""
        self._listens.set()
        if self.wire is not None:
            self.wire.resume_reading()

    def goes(self) -> None:
        """From now on nothing is owed to it."""
        record = self._world.record
        if self.name in record.receivers:
            record.receivers[self.name] = replace(record.receivers[self.name], stays=False)

    async def run(self) -> None:
        """Reads over one connection after another."""
        failures = 0
        try:
            while True:
                end = await self._read()
                self.ends[end.why] += 1
                failures = 0 if self.wire is not None and self.wire.was_open else failures + 1
                if end.unauthorised and self.wire is not None:
                    self._refused = self.wire.token
                self._close(end)
                if self.policy is Policy.ROAM:
                    self.transport = self._rng.choice(STREAMS)
                wait = end.retry_after
                await asyncio.sleep(backoff(self._rng, failures) if wait is None else wait)
        finally:
            if self.wire is not None:
                self.wire.end("done")
            self._close(End("done"))

    async def _read(self) -> End:
        """One connection, from asking for it to its end."""
        await self._listens.wait()
        try:
            token = await self.sign_in.token(but=self._refused)
        except (Cut, WrongAnswer) as error:
            return End(f"no token: {error}")
        make = _WIRES[self.transport]
        wire = self.wire = make(self, self._world.reader, self.entrance, token, self.cursor)
        await wire.connect(self.receive_buffer)
        if isinstance(wire, SocketWire):
            await keep_fresh(wire, self.sign_in, self.complain)
        return await wire.ended

    def _close(self, end: End) -> None:
        if self._number is not None:
            self._world.record.closed(self._number, time.monotonic(), end.why)
        self._number = None
        self.wire = None

    # What its connections tell it.

    def opened(self, wire: Wire) -> None:
        record = self._world.record
        if not self.ready.is_set():
            began = self.began if self.began is not None else time.monotonic()
            record.begins(Receiver(self.name, self.sign_in.account.name, began))
            self.ready.set()
        self._number = record.opened(self.name, self.sign_in.name, wire.kind, wire.instance, wire.began)

    def take(self, wire: Wire, frame: Frame) -> None:
        event = frame.event
        if event is None:
            self._steered(wire, frame)
            return
        self._world.record.receipts[self.name].add(wire.heard, event)
        if event.cursor is not None:
            self.cursor = event.cursor
        if event.type == "message.created" and event.conversation and event.seq:
            self.last[event.conversation] = event.seq
        if self.on_event is not None:
            self.on_event(self, frame)

    def _steered(self, wire: Wire, frame: Frame) -> None:
        if frame.type == "hello" and wire.cursor and frame.cursor != wire.cursor:
            self.complain(f"{self.name} presented {wire.cursor} and was greeted with {frame.cursor}")
        if frame.type == "hello":
            wire.listen_for(float(frame.value["heartbeat_seconds"]))
        if frame.type == "resync":
            assert self._number is not None
            resync = Resync(self.name, wire.heard, self._number, str(frame.value["reason"]))
            self._world.record.resyncs.append(resync)
        if frame.cursor is not None:
            self.cursor = frame.cursor

    def reached(self, wire: Wire, cursor: str) -> None:
        self.cursor = cursor

    def complain(self, what: str) -> None:
        self._world.record.complain(what)


async def keep_fresh(wire: SocketWire, sign_in: SignIn, complain: Callable[[str], None]) -> None:
    """Gives a connection new tokens in time. Returns when it has ended, or its sign-in is over."""
    while not wire.ended.done():
        await asyncio.wait([wire.ended], timeout=max(0.1, sign_in.due - time.monotonic()))
        if sign_in.over:
            return
        if wire.ended.done() or not wire.is_open:
            continue
        try:
            token = await sign_in.token()
            reply = await wire.command("auth.refresh", {"access_token": token}, ANSWER_SECONDS)
        except (Cut, WrongAnswer):
            continue
        if not reply["ok"] and reply["error"]["status"] not in (401, 503):
            complain(f"auth.refresh of {sign_in.name}: {reply}")
