"""One fault after another: traffic flows, the fault comes, all catch up, and what was promised is judged."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from faults.checker import check
from faults.clients_http import Cut, Entrance, WrongAnswer
from faults.history import History
from faults.instances import StageError
from faults.matrix import Fault
from faults.report import Row, row_of
from faults.scale import Scale
from faults.services import ServiceError
from faults.stage import Broken, NotRun, Stage, set_up
from faults.traffic import Traffic, sign_up
from faults.verdict import Verdict

Tell = Callable[[str], None]
FAULT_SECONDS = 480.0
"""Past this a fault hangs. On a machine with nothing else to do, a sixth of it is plenty."""
REPAIR_SECONDS = 15.0
"""How long instances may take to be well again after a promise was broken, before the stage is given up."""
_FAILURES = (StageError, ServiceError, TimeoutError, OSError, Cut, WrongAnswer)


async def run_all(
    faults: Sequence[Fault], scale: Scale, seed: int, tell: Tell, done: Callable[[Row], None]
) -> None:
    """Calls `done` with a row as each fault ends. One stage serves all; where a part fails, the rest get another."""
    left = list(faults)
    while left:
        with tempfile.TemporaryDirectory(prefix="parley-faults-", ignore_cleanup_errors=True) as name:
            os.chmod(name, 0o711)  # noqa: S103  (as root, PostgreSQL is another account and must get through)
            async with set_up(Path(name), random.Random(seed), tell) as stage:
                whole = True
                while left and whole:
                    row, whole = await try_fault(left.pop(0), stage, scale, seed)
                    done(row)


async def try_fault(fault: Fault, stage: Stage, scale: Scale, seed: int) -> tuple[Row, bool]:
    """Its row, and whether the stage can be used again."""
    rng = random.Random(f"{seed} {fault.id}")
    began = time.monotonic()
    notes: list[str] = []
    wrong: list[str] = []
    not_run = ""

    def tell(words: str) -> None:
        notes.append(words)
        stage.tell(f"{fault.id}: {words}")

    stage.tell(f"{fault.id}: {fault.title}")
    people = await sign_up(_balancer(stage), rng, scale.senders, scale.receivers)
    async with people.traffic(rng, scale.rate) as traffic:
        try:
            whole = await _bring(fault, replace(stage, tell=tell), traffic, rng, scale, wrong)
        except NotRun as reason:
            whole, not_run = True, str(reason)
        if whole:
            await traffic.stop_sending()
        caught_up = await traffic.until_caught_up(scale.catch_up if whole else 0.0)
    if whole:
        await traffic.read_stored({each.name: Entrance.to(each.url, each.name) for each in stage.instances})
    history = traffic.history()
    verdict = check(history) if whole else _unjudged(history)
    wrong += traffic.complaints
    if fault.judge is not None:
        wrong += fault.judge(history)
    there = {mark.receiver for mark in history.caught_up}
    late = [each.name for each in history.receivers if each.stays and each.name not in there]
    if late and whole:
        wrong.append(f"{len(late)} receivers never caught up, {late[0]} first")
    seconds = time.monotonic() - began
    caught = None if late else caught_up
    row = row_of(fault.id, fault.title, seed, verdict, wrong, caught, seconds, notes, not_run)
    stage.tell(f"{fault.id}: {row.verdict}, in {seconds:.0f} s")
    return row, whole


async def _bring(
    fault: Fault, stage: Stage, traffic: Traffic, rng: random.Random, scale: Scale, wrong: list[str]
) -> bool:
    """Runs the scenario; whether the stage is whole after it. Raises NotRun, and what is a mistake of the harness."""
    try:
        async with asyncio.timeout(FAULT_SECONDS):
            await fault.run(stage, traffic, rng, scale)
        await stage.until_well()
        return True
    except (Broken, *_FAILURES, ExceptionGroup) as error:
        found = list(_reasons(error))
    wrong += [str(each) if isinstance(each, Broken) else f"it failed: {each!r}" for each in found]
    if not all(isinstance(each, Broken) for each in found):
        return False
    try:
        await stage.until_well(REPAIR_SECONDS)
    except TimeoutError:
        return False
    return True


def _reasons(error: Exception) -> Iterator[Exception]:
    """What a group of errors is made of, where all of it tells of the server or of the machine. Raises other groups."""
    if not isinstance(error, ExceptionGroup):
        yield error
        return
    told, mistakes = error.split((Broken, *_FAILURES))
    if mistakes is not None:
        raise error
    for each in told.exceptions if told is not None else ():
        yield from _reasons(each)


def _unjudged(history: History) -> Verdict:
    """Figures alone: where the stage failed, nobody could read what is stored."""
    acknowledged = sum(send.acked_at is not None for send in history.sends)
    received = sum(len(receipts) for receipts in history.receipts.values())
    return Verdict(len(history.sends), acknowledged, received, ())


def _balancer(stage: Stage) -> Entrance:
    return Entrance.at(stage.proxy.url, stage.proxy.instance_of)
