"""The fault matrix: every fault there is, by its number in docs/faults.md."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from faults.history import History
from faults.scale import Scale
from faults.scenarios import (
    f01_killed_instances,
    f02_rolling_deploys,
    f03_redis,
    f04_postgres,
    f05_frozen,
    f06_deaf_receivers,
    f07_switching,
    f08_cut_inside,
    f09_lost_hints,
    f10_membership,
    f11_disk_full,
    f12_revocation,
)
from faults.stage import Stage
from faults.traffic import Traffic

Run = Callable[[Stage, Traffic, random.Random, Scale], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row. `run` brings the fault; `judge` finds what is wrong besides what the checker looks for."""

    id: str
    title: str
    run: Run
    judge: Callable[[History], list[str]] | None = None


MATRIX = (
    Fault("F1", "kill -9 of an instance", f01_killed_instances.run),
    Fault(
        "F2", "SIGTERM of an instance: a rolling deploy", f02_rolling_deploys.run, f02_rolling_deploys.judge
    ),
    Fault("F3", "Redis killed, flushed, away", f03_redis.run),
    Fault("F4", "PostgreSQL restarted, away", f04_postgres.run),
    Fault("F5", "a frozen instance, a frozen Redis", f05_frozen.run),
    Fault("F6", "receivers that stop reading", f06_deaf_receivers.run),
    Fault("F7", "receivers switching all the time", f07_switching.run),
    Fault("F8", "connections cut inside, sends repeated", f08_cut_inside.run),
    Fault("F9", "one hint in ten lost", f09_lost_hints.run),
    Fault("F10", "membership changing all the time", f10_membership.run),
    Fault("F11", "disk full in PostgreSQL", f11_disk_full.run),
    Fault("F12", "sign-ins ending under load", f12_revocation.run),
)
