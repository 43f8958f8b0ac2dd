"""People: each reads on one transport of one instance, goes on elsewhere when cut off, and sends until acknowledged."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import aiohttp

from demo.api import Account, Answer, Api
from demo.commands import Command
from demo.frames import CUTS, Frame
from demo.inbox import Inbox
from demo.instances import Fleet, Instance
from demo.ledger import Ledger
from demo.transports import Socket, Transport, wire

PATIENCE_SECONDS = 60.0
"""How long one thing is tried before the show gives up."""
ANSWER_SECONDS = 5.0
"""How long an answer may take before the same is asked again."""
BACKOFF_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Seat:
    """Where somebody reads."""

    transport: Transport
    instance: Instance

    def __str__(self) -> str:
        return f"{self.transport}·{self.instance.name}"


@dataclass(slots=True)
class Move:
    """A change of seats, with monotonic times; 0.0 for what has not happened yet.

    `why` is what ended the connection where that was not `wanted`; `refused` is what went wrong with the last attempt
    that failed before one succeeded. Caught up is when all is there that had been acknowledged to anyone before the
    new connection was open.
    """

    source: Seat
    target: Seat
    wanted: bool
    why: str
    left: float
    refused: str = ""
    opened: float = 0.0
    goal: int = 0
    behind: int = 0
    caught_up: float = 0.0


class Person:
    """One client. `run` reads until cancelled; everything else may be called meanwhile.

    `on_frame` is told of every frame, `on_moved` of every move that is over.
    """

    def __init__(
        self, name: str, seat: Seat, http: aiohttp.ClientSession, fleet: Fleet, ledger: Ledger
    ) -> None:
        self.name = name
        self.seat = seat
        self.moves: list[Move] = []
        self.inbox = Inbox()
        self.is_connected = False
        self.on_frame: Callable[[Person, Frame], None] | None = None
        self.on_moved: Callable[[Person, Move], None] | None = None
        self._http = http
        self._api = Api(http)
        self.fleet = fleet
        self.ledger = ledger
        self._account: Account | None = None
        self._conversation = ""
        self._cursor = ""
        self._socket: Socket | None = None
        self._reading: asyncio.Task[None] | None = None
        self._wanted: Seat | None = None
        self._read_seq = 0
        self._why = ""

    @property
    def account(self) -> Account:
        """Only after `enter`."""
        assert self._account is not None
        return self._account

    def enter(self, conversation: str, cursor: str, account: Account) -> None:
        """What to talk in, where to read from, and as whom."""
        self._conversation, self._cursor, self._account = conversation, cursor, account

    async def run(self) -> None:
        """Reads, from one seat after another, until cancelled."""
        failures = 0
        async with asyncio.TaskGroup() as tasks:
            while True:
                reading = self._reading = tasks.create_task(self._read())
                await asyncio.wait([reading])
                failures = 0 if self.is_connected else failures + 1
                self.is_connected, self._socket = False, None
                self._change_seat()
                if failures:
                    await asyncio.sleep(min(BACKOFF_SECONDS, 0.02 * 2**failures) * random.uniform(0.5, 1))
                if self._wanted is not None:
                    self._change_seat()  # told while it waited

    def move(self, seat: Seat) -> None:
        """Hangs up and goes on at another seat with the cursor at hand."""
        self._wanted = seat
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        made = wire(self.seat.transport, self._http, self.seat.instance.url, self.account.token)
        try:
            async with aclosing(made.frames(self._cursor)) as frames:
                async for frame in frames:
                    if not self.is_connected:
                        self._opened(made if isinstance(made, Socket) else None)
                    self._take(frame)
        except CUTS as cut:
            self._why = str(cut) or type(cut).__name__

    def _opened(self, socket: Socket | None) -> None:
        self.is_connected, self._socket = True, socket
        if self.moves and not self.moves[-1].opened:
            move = self.moves[-1]
            move.target, move.opened, move.goal = self.seat, time.monotonic(), self.ledger.head
            move.behind = move.goal - self.inbox.last_seq
            self._check_caught_up()

    def _take(self, frame: Frame) -> None:
        if self.inbox.take(frame):
            self.ledger.deliver(frame.data["client_id"], frame.data["seq"])
            self._check_caught_up()
        self._cursor = frame.cursor or self._cursor
        if self.on_frame is not None:
            self.on_frame(self, frame)

    def _check_caught_up(self) -> None:
        move = self.moves[-1] if self.moves else None
        if move is not None and move.opened and not move.caught_up and self.inbox.last_seq >= move.goal:
            move.caught_up = time.monotonic()
            if self.on_moved is not None:
                self.on_moved(self, move)

    def _change_seat(self) -> None:
        """To where it was told, else to the other instance and the next transport."""
        old, wanted = self.seat, self._wanted
        self._wanted = None
        self.seat = wanted or Seat(old.transport.next, self.fleet.after(old.instance))
        if self.moves and not self.moves[-1].opened:
            self.moves[-1].target, self.moves[-1].refused = self.seat, self._why
        else:
            self.moves.append(Move(old, self.seat, wanted is not None, self._why, time.monotonic()))

    async def say(self, body: str) -> int:
        """Sends until it is acknowledged, always with the same id; its `seq`."""
        client_id = str(uuid.uuid4())
        self.ledger.begin(client_id, self.name, str(self.seat))
        answer = await self.do("message.send", body=body, client_id=client_id)
        seq: int = answer.body["seq"]
        self.ledger.acknowledge(client_id, seq, replayed=answer.replayed)
        return seq

    async def do(self, op: str, seq: int = 0, body: str = "", client_id: str = "", emoji: str = "") -> Answer:
        """Tries until it is answered, wherever the seat is by then. Raises Refused, or TimeoutError after a minute."""
        command = Command(op, self._conversation, seq, body, client_id, emoji)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    return await self._try(command)
                except CUTS:
                    self.ledger.retries += 1
                    await asyncio.sleep(random.uniform(0.02, 0.1))

    async def _try(self, command: Command) -> Answer:
        if self._socket is not None:
            return Answer(await self._socket.command(command), replayed=False)
        method, path, body = command.request()
        return await self._api.call(
            self.seat.instance.url, method, path, self.account.token, body, ANSWER_SECONDS
        )

    async def keep_reading(self, pause: Callable[[], float]) -> None:
        """Marks what arrived as read, at its own pace. Runs until cancelled."""
        while True:
            await asyncio.sleep(pause())
            if self.is_connected and self.inbox.last_seq > self._read_seq:
                seq = self.inbox.last_seq
                await self.do("conversation.read", seq=seq)
                self._read_seq = seq
