"""Runs a load in a process of its own and measures what it cost the server and itself meanwhile."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from bench.accounting import cpu_seconds, machine_seconds, tree_cpu_seconds

Spec = TypeVar("Spec")
Result = TypeVar("Result")


def in_own_process(run: Callable[[Spec], Result], spec: Spec, timeout: float = 300.0) -> Result:
    """`run(spec)` in a fresh process; what it raises is raised here."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, spec).result(timeout)


def settle_memory() -> None:
    """Keep the garbage collector out of the measurement: nothing a load builds up is cyclic."""
    gc.collect()
    gc.freeze()
    gc.disable()


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of CPU within a stretch of `seconds`: the server's, its helpers' (a database), the generator's.

    `foreign` is what all other programs and the host took, so a figure taken on a busy machine shows as one.
    """

    seconds: float
    server: float
    helpers: float
    generator: float
    foreign: float


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    server: float
    helpers: float
    generator: float
    machine: float


class Meter:
    """Starts counting when made; `stop` gives the cost since then.

    `pids` are the server's processes; `helpers` those that a server's helpers (a database) were started by, each
    counted with all its children.
    """

    def __init__(self, pids: Sequence[int], helpers: Sequence[int] = ()) -> None:
        self._pids = pids
        self._helpers = helpers
        self._begin = self._read()

    def _read(self) -> _Reading:
        return _Reading(
            at=time.perf_counter(),
            server=cpu_seconds(self._pids),
            helpers=sum(tree_cpu_seconds(root) for root in self._helpers),
            generator=time.process_time(),
            machine=machine_seconds(),
        )

    def stop(self) -> Cost:
        """The cost so far; the meter may go on."""
        first, last = self._begin, self._read()
        server, helpers = last.server - first.server, last.helpers - first.helpers
        generator = last.generator - first.generator
        return Cost(
            seconds=last.at - first.at,
            server=server,
            helpers=helpers,
            generator=generator,
            foreign=max(0.0, last.machine - first.machine - server - helpers - generator),
        )
