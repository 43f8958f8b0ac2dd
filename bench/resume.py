"""One user who comes back again and again with the same cursor, and reads everything that was missed each time (S12).

One connection at a time, so what is measured is a replay alone. Bytes are kept while the clock runs, and read after it.
"""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass, field

from bench.checker import WrongError
from bench.dialects import upgrade
from bench.frames import data_payloads
from bench.load import Cost, Meter, settle_memory
from bench.resumed import greeting

_SILENCE = 30.0
_READ = 256 * 1024
_CURSOR = re.compile(rb'\{"cursor":"([^"]+)"')


@dataclass(frozen=True, slots=True)
class ResumeSpec:
    """Coming back `times` times from `cursor`; `missed` are the cursors of the events that must come, in order."""

    port: int
    pids: tuple[int, ...]
    helpers: tuple[int, ...]
    token: str = field(repr=False)
    cursor: str
    missed: tuple[bytes, ...] = field(repr=False)
    times: int


@dataclass(frozen=True, slots=True)
class ResumeResult:
    """`seconds` holds, for each return, the time from connecting to the last missed event."""

    seconds: list[float]
    events: int
    cost: Cost

    @property
    def cpu_ms(self) -> float:
        """CPU of server and database for one return, in ms."""
        return (self.cost.server + self.cost.helpers) / len(self.seconds) * 1e3


def run_resumes(spec: ResumeSpec) -> ResumeResult:
    """Raises WrongError when anything missed does not come, comes twice, or out of order."""
    _resume(spec)  # the first one is remembered, its marks are stored
    settle_memory()
    meter, seconds, kept = Meter(spec.pids, spec.helpers), [], []
    for _ in range(spec.times):
        began = time.perf_counter()
        kept.append(_resume(spec))
        seconds.append(time.perf_counter() - began)
    cost = meter.stop()
    for received in kept:
        _judge(spec, received)
    return ResumeResult(seconds, spec.times * len(spec.missed), cost)


def _resume(spec: ResumeSpec) -> bytes:
    """Everything received up to the last missed event, or somewhat more."""
    last = b'{"cursor":"' + spec.missed[-1]
    with socket.create_connection(("127.0.0.1", spec.port), timeout=_SILENCE) as sock:
        sock.sendall(
            upgrade(f"/api/v1/realtime/ws?cursor={spec.cursor}", f"Authorization: Bearer {spec.token}")
        )
        pieces: list[bytes] = []
        seen = b""
        while last not in seen:
            data = sock.recv(_READ)
            if not data:
                raise WrongError(f"cut off after {b''.join(pieces)[-300:]!r}")
            pieces.append(data)
            seen = seen[-len(last) :] + data
    return b"".join(pieces)


def _judge(spec: ResumeSpec, received: bytes) -> None:
    head = received.index(b"\r\n\r\n") + 4
    _, consumed = data_payloads(received[head:], len(received) - head)
    greeted, payloads = greeting("the resumed session", received[: head + consumed])
    if greeted != spec.cursor:
        raise WrongError(f"greeted with {greeted} after asking for {spec.cursor}")
    given = [found[1] for payload in payloads if (found := _CURSOR.match(payload))]
    # The last one may not be whole yet. What follows the missed ones was made by this reading itself.
    whole = len(spec.missed) - 1
    if given[:whole] != list(spec.missed[:whole]):
        raise WrongError(f"{len(given)} events came, which are not the {len(spec.missed)} that were missed")
