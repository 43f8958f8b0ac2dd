"""What the scenarios share: where rows and raw figures go, and who takes part."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.checker import WrongError
from bench.fanout import Address
from bench.frames import FrameError
from bench.plan import Plan
from bench.processes import Server, StartError, nchan, nchan_module, python_peer, tail
from bench.report import Row

SOCKETIO, PLAIN, NCHAN, PARLEY = "python-socketio", "plain aiohttp", "Nchan", "Parley"


@dataclass(slots=True)
class Report:
    """Everything a run finds out. `raw` is what every single load measured, for the results file; `seconds` is how
    long each scenario took, with all that it needed."""

    plan: Plan
    rows: list[Row] = field(default_factory=list)
    raw: list[dict[str, object]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    foreign: float = 0.0
    measured: float = 0.0

    @contextlib.contextmanager
    def scenario(self, name: str, log: Path | None = None) -> Iterator[None]:
        """A scenario whose failure is written down and leaves the others to run; `log` is what its server writes."""
        say(f"{name} …")
        began = time.monotonic()
        try:
            yield
        except (WrongError, FrameError, StartError, OSError, TimeoutError) as error:
            self.failures.append(f"{name}: {error}")
            notes = (
                (f"the server wrote last:\n{tail(log)}",) if log else tuple(getattr(error, "__notes__", ()))
            )
            say("\n".join((f"{name} FAILED: {error}", *notes)))
        finally:
            self.seconds[name] = round(time.monotonic() - began, 1)

    def record(
        self, scenario: str, server: str, figures: dict[str, object], foreign: float, seconds: float
    ) -> None:
        """Keep one load's figures. `foreign` is the CPU other programs took in its `seconds`."""
        self.raw.append({"scenario": scenario, "server": server, **figures, "foreign_cpu_seconds": foreign})
        self.foreign += foreign
        self.measured += seconds

    @property
    def noise(self) -> float:
        """How many cores other programs and the host kept busy while something was measured, on average."""
        return self.foreign / self.measured if self.measured else 0.0


def say(line: str) -> None:
    """Progress for who waits."""
    print(line, flush=True)


@contextlib.contextmanager
def peers() -> Iterator[dict[str, Address]]:
    """The peers that are installed, each running and idle, by name."""
    with contextlib.ExitStack() as stack:
        running = {
            PLAIN: _address("http", stack.enter_context(python_peer(PLAIN, "bench.peers.plain"))),
            SOCKETIO: _address(
                "socketio", stack.enter_context(python_peer(SOCKETIO, "bench.peers.socketio"))
            ),
        }
        if nchan_module() is None:
            say("nginx with the Nchan module is not installed: its rows stay without a verdict")
        else:
            running[NCHAN] = _address("http", stack.enter_context(nchan()))
        yield running


def _address(kind: str, server: Server) -> Address:
    return Address(kind, server.port, server.pids)
