"""S2, S3, S6: one publisher, many receivers; and S5: many connections held. One load process each."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from bench.accounting import rss_bytes
from bench.crowd import Crowd
from bench.dialects import HttpPublished, Parley, Publishing, Receiving, SocketIO
from bench.load import Cost, Meter, settle_memory
from bench.transports import LongPolling, ServerSentEvents

BYTES_PER_EVENT = 1500  # more than any server here writes for a 200-byte body
_SETTLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """A server and how to be let in. `tokens` and `conversation` are for Parley alone.

    `kind` is `parley`, `parley-sse`, `parley-poll`, `socketio` or `http` (POST /pub, WebSocket /sub).
    `helpers` are the first processes of what the server leans on, whose CPU is told apart. With `other_ports`, which
    are those of further instances, each of `tokens` is used once at every instance.
    """

    kind: str
    port: int
    pids: tuple[int, ...]
    helpers: tuple[int, ...] = ()
    publisher: str = ""
    tokens: tuple[str, ...] = field(default=(), repr=False)
    conversation: str = ""
    other_ports: tuple[int, ...] = ()

    def crowd(self, capacity: int) -> Crowd:
        """Nobody yet, but ready to be opened; message ids are ones no other run uses."""
        publishing: Publishing
        receiving: Receiving
        if self.kind.startswith("parley"):
            tokens = tuple(token for token in self.tokens for _ in (self.port, *self.other_ports))
            parley = Parley(self.publisher, tokens, self.conversation, random.getrandbits(32))
            publishing = receiving = parley
            if self.kind == "parley-sse":
                receiving = ServerSentEvents(tokens)
            elif self.kind == "parley-poll":
                receiving = LongPolling(tokens)
        else:
            publishing = receiving = SocketIO() if self.kind == "socketio" else HttpPublished()
        return Crowd(receiving, publishing, self.port, capacity, other_ports=self.other_ports)


@dataclass(frozen=True, slots=True)
class FanoutSpec:
    """Bursts of `burst` messages to `receivers`, each when the one before reached everybody, for `seconds`."""

    address: Address
    receivers: int
    burst: int
    seconds: float
    warmup_seconds: float


@dataclass(frozen=True, slots=True)
class FanoutResult:
    """`spread_seconds` holds, for each burst, the time until everybody had all of it."""

    deliveries: int
    spread_seconds: list[float]
    generator_seconds: float
    cost: Cost

    @property
    def deliveries_per_second(self) -> float:
        return self.deliveries / sum(self.spread_seconds)

    @property
    def server_us(self) -> float:
        """Server CPU for one delivery, in µs."""
        return self.cost.server / self.deliveries * 1e6

    @property
    def generator_us(self) -> float:
        """The generator's own CPU for one delivery while the clock ran, in µs."""
        return self.generator_seconds / self.deliveries * 1e6


def run_fanout(spec: FanoutSpec) -> FanoutResult:
    """Raises WrongError when a receiver lacks a message, has it twice, or out of order."""
    crowd = spec.address.crowd(spec.burst * BYTES_PER_EVENT + 16384)
    try:
        crowd.grow(spec.receivers)
        crowd.open_publisher()
        crowd.drain()
        settle_memory()
        number = bursts(crowd, spec.burst, spec.warmup_seconds, 1, [])
        crowd.cpu_seconds = 0.0
        meter, spread = Meter(spec.address.pids, spec.address.helpers), list[float]()
        last = bursts(crowd, spec.burst, spec.seconds, number, spread)
        cost = meter.stop()
        crowd.finish()
        return FanoutResult((last - number) * spec.receivers, spread, crowd.cpu_seconds, cost)
    finally:
        crowd.close()


def bursts(crowd: Crowd, burst: int, seconds: float, number: int, spread: list[float]) -> int:
    """Bursts until `seconds` have passed; returns the number of the next message."""
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        spread.append(crowd.burst(number, burst))
        number += burst
    return number


@dataclass(frozen=True, slots=True)
class HoldSpec:
    """Open `first` connections, then up to each of `sizes`; at the last, one message a second for `seconds`."""

    address: Address
    first: int
    sizes: tuple[int, ...]
    seconds: int


@dataclass(frozen=True, slots=True)
class HoldResult:
    """Resident bytes of the server at `first` connections and at each size, and at the end of the broadcasts.

    `opened_per_second` is how fast connections were let in. `cost` covers the broadcasts alone.
    """

    first: int
    first_rss: int
    rss: dict[int, int]
    opened_per_second: float
    spread_seconds: list[float]
    deliveries: int
    last_rss: int
    cost: Cost

    def bytes_each(self, size: int) -> float:
        """Resident bytes each connection after the first few added, at `size` connections."""
        return (self.rss[size] - self.first_rss) / (size - self.first)


def run_hold(spec: HoldSpec) -> HoldResult:
    """Raises WrongError when a connection is refused or dropped, or a broadcast does not reach everybody."""
    pids = spec.address.pids
    crowd = spec.address.crowd(16384)
    try:
        crowd.grow(spec.first)
        first_rss = _settled_rss(pids)
        rss: dict[int, int] = {}
        opening = 0.0
        for size in spec.sizes:
            began = time.perf_counter()
            crowd.grow(size)
            opening += time.perf_counter() - began
            rss[size] = _settled_rss(pids)
        settle_memory()
        if spec.seconds:
            crowd.open_publisher()
            crowd.drain()
        meter, spread = Meter(pids, spec.address.helpers), list[float]()
        for number in range(1, spec.seconds + 1):
            seconds = crowd.burst(number, 1)
            spread.append(seconds)
            time.sleep(max(0.0, 1.0 - seconds))
        cost = meter.stop()
        crowd.finish()
        return HoldResult(
            first=spec.first,
            first_rss=first_rss,
            rss=rss,
            opened_per_second=(len(crowd) - spec.first) / opening,
            spread_seconds=spread,
            deliveries=spec.seconds * len(crowd),
            last_rss=rss_bytes(pids),
            cost=cost,
        )
    finally:
        crowd.close()


def _settled_rss(pids: tuple[int, ...]) -> int:
    """Resident memory once the server had time to finish what the last connection began."""
    time.sleep(_SETTLE_SECONDS)
    return rss_bytes(pids)
