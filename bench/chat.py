"""S1 and S4: many users in pairs, each sending to the other, over picows in one load process.

A message counts when its sender has the acknowledgement and its receiver has the message. With a window (closed
loop) the next one is sent then; with a rate (open loop) messages go out when they are due, whatever came back.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.chat_dialects import ACKNOWLEDGED, DELIVERED, OTHER, ChatDialect, ParleyChat, SocketIOChat
from bench.checker import SequenceChecker, WrongError
from bench.load import Cost, Meter, settle_memory

_TIMEOUT = 30.0
_BOTH = ACKNOWLEDGED | DELIVERED


@dataclass(frozen=True, slots=True)
class ChatSpec:
    """`users` even; user 2k and 2k + 1 share `conversations[k]`. `tokens` are for Parley alone.

    With another instance in `other_ports`, users take turns over both: the two of a pair are never at the same.

    `rate` is messages a second over all users, or None: then each user keeps `in_flight` under way.
    """

    kind: str
    port: int
    pids: tuple[int, ...]
    conversations: tuple[str, ...]
    seconds: float
    warmup_seconds: float
    in_flight: int = 8
    rate: float | None = None
    helpers: tuple[int, ...] = ()
    tokens: tuple[str, ...] = field(default=(), repr=False)
    other_ports: tuple[int, ...] = ()

    def dialect(self) -> ChatDialect:
        run = random.getrandbits(32)
        if self.kind == "parley":
            return ParleyChat((self.port, *self.other_ports), self.tokens, self.conversations, run)
        return SocketIOChat(self.port, self.conversations, run)


@dataclass(frozen=True, slots=True)
class ChatResult:
    """Messages acknowledged and delivered within the measured stretch, and how long each of those sent in it took.

    `late` is how far behind its plan the generator itself sent (open loop only). Everything in seconds.
    """

    messages: int
    acknowledged: list[float]
    delivered: list[float]
    late: list[float]
    cost: Cost

    @property
    def per_second(self) -> float:
        return self.messages / self.cost.seconds

    @property
    def server_us(self) -> float:
        """Server CPU for one message, in µs."""
        return self.cost.server / self.messages * 1e6

    @property
    def helpers_us(self) -> float:
        """CPU of the processes beside the server (the database) for one message, in µs."""
        return self.cost.helpers / self.messages * 1e6

    @property
    def generator_us(self) -> float:
        """The generator's own CPU for one message, in µs."""
        return self.cost.generator / self.messages * 1e6


class _User(WSListener):
    """One user's connection."""

    def __init__(self, load: _Load, index: int) -> None:
        self._load = load
        self.index = index
        self.order = SequenceChecker(f"user {index}")
        self.ready = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            self._load.fail(
                WrongError(f"user {self.index}: the server closed: {frame.get_close_message()!r}")
            )
            return
        try:
            self._load.arrived(self, frame.get_payload_as_bytes())
        except (WrongError, ValueError) as error:
            self._load.fail(error)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._load.fail(WrongError(f"user {self.index}: the connection ended"))

    def send(self, payload: bytes) -> None:
        self.transport.send(WSMsgType.TEXT, payload)


class _Load:
    def __init__(self, spec: ChatSpec) -> None:
        self._spec = spec
        self._dialect = spec.dialect()
        self._users: list[_User] = []
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sending = False
        self.finished = 0
        self.sender: list[int] = []
        self._state = bytearray()
        self.sent_at: list[float] = []
        self.acknowledged_at: list[float] = []
        self.delivered_at: list[float] = []
        self.late: list[float] = []

    def fail(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    async def open(self) -> None:
        for index in range(2 * len(self._spec.conversations)):
            user = _User(self, index)
            self._users.append(user)
            await ws_connect(
                lambda user=user: user,
                self._dialect.url(index),
                extra_headers=self._dialect.headers(index),
                enable_auto_pong=True,
            )
            for payload in self._dialect.opening(index):
                user.send(payload)
            await self.waiting(user.ready.wait(), _TIMEOUT)

    async def waiting(self, waited: Coroutine[Any, Any, object], timeout: float) -> None:
        """Wait for `waited`, at most `timeout`, unless the load fails before. Raises what made it fail."""
        task = asyncio.ensure_future(waited)
        await asyncio.wait((task, self._failed), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            task.cancel()
            self._failed.result()
        if not task.done():
            task.cancel()
            raise WrongError(f"nothing came for {timeout:.0f} s")
        task.result()

    def start(self) -> None:
        """Fill every user's window; from now on each message that is through is followed by the next."""
        self._sending = True
        for _ in range(self._spec.in_flight):
            for user in self._users:
                self._send(user)

    async def run(self, seconds: float) -> None:
        """Let the load go on for `seconds`."""
        rate = self._spec.rate
        going_on = asyncio.sleep(seconds) if rate is None else self._pace(rate, seconds)
        await self.waiting(going_on, seconds * 2 + _TIMEOUT)

    async def _pace(self, rate: float, seconds: float) -> None:
        """Send `rate` messages a second, users in turn, each when it is due or as soon after as this loop turns."""
        began = time.perf_counter()
        total, sent, users = int(rate * seconds), 0, len(self._users)
        while sent < total:
            now = time.perf_counter() - began
            while sent < total and sent / rate <= now:
                self.late.append(now - sent / rate)
                self._send(self._users[(sent * 7) % users])
                sent += 1
            await asyncio.sleep(0.001)

    def _send(self, user: _User) -> None:
        number = len(self.sender)
        self.sender.append(user.index)
        self._state.append(0)
        self.acknowledged_at.append(0.0)
        self.delivered_at.append(0.0)
        payload = self._dialect.command(user.index, number)
        self.sent_at.append(time.perf_counter())
        user.send(payload)

    def arrived(self, user: _User, payload: bytes) -> None:
        what, number, seq = self._dialect.read(payload)
        if what == OTHER:
            if not user.ready.is_set() and self._dialect.is_ready(payload):
                user.ready.set()
            return
        sender = self.sender[number]
        if what == DELIVERED:
            if seq:
                user.order.see(seq)
            if user.index == sender:
                return  # the sender's own copy
            self.delivered_at[number] = time.perf_counter()
        else:
            self.acknowledged_at[number] = time.perf_counter()
        state = self._state[number]
        if state & what or user.index != (sender ^ 1 if what == DELIVERED else sender):
            raise WrongError(f"user {user.index}: message {number} came twice, or to the wrong user")
        self._state[number] = state | what
        if state | what == _BOTH:
            self.finished += 1
            if self._sending:
                self._send(self._users[sender])

    async def finish(self) -> None:
        """Stop sending and wait until everything sent is acknowledged and delivered. Raises WrongError."""
        self._sending = False
        deadline = time.monotonic() + _TIMEOUT
        while self._missing() and time.monotonic() < deadline:
            await self.waiting(asyncio.sleep(0.05), 1.0)
        if missing := self._missing():
            raise WrongError(missing)

    def _missing(self) -> str:
        if self.finished != len(self.sender):
            return f"{len(self.sender) - self.finished} of {len(self.sender)} messages not acknowledged and delivered"
        if not self._dialect.numbered:
            return ""
        sent = [0] * len(self._users)
        for sender in self.sender:
            sent[sender] += 1
        for user in self._users:
            expected = sent[user.index] + sent[user.index ^ 1]
            if user.order.count < expected:
                return f"user {user.index}: {user.order.count} of {expected} messages of the conversation"
            user.order.finish(expected)
        return ""


def run_chat(spec: ChatSpec) -> ChatResult:
    """Raises WrongError when a message is lost, doubled, reordered within its conversation or refused."""
    return uvloop.run(_run(spec))


async def _run(spec: ChatSpec) -> ChatResult:
    load = _Load(spec)
    await load.open()
    settle_memory()
    if spec.rate is None:
        load.start()
    await load.run(spec.warmup_seconds)
    first, before, meter = len(load.sender), load.finished, Meter(spec.pids, spec.helpers)
    load.late.clear()
    await load.run(spec.seconds)
    cost, messages, last = meter.stop(), load.finished - before, len(load.sender)
    await load.finish()
    sent = load.sent_at
    return ChatResult(
        messages=messages,
        acknowledged=[load.acknowledged_at[number] - sent[number] for number in range(first, last)],
        delivered=[load.delivered_at[number] - sent[number] for number in range(first, last)],
        late=load.late,
        cost=cost,
    )
