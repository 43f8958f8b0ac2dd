"""The command: which faults, how long, with which seed; and what it leaves behind."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop

from faults.instances import StageError
from faults.matrix import MATRIX, Fault
from faults.report import Row, heading, line_of, table_of, words_of, write
from faults.running import run_all
from faults.scale import FULL, SHORT
from faults.services import ServiceError

RESULTS = Path(__file__).parent / "results" / "latest.json"
RUN_SECONDS = 20 * 60.0
"""Past this something hangs, and the run ends with a complaint."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 where all that was tried holds, 1 where anything is broken, 128 and more for a signal."""
    parser = argparse.ArgumentParser(
        prog="python -m faults",
        description="Breaks one part after another under load, and judges what clients saw.",
    )
    parser.add_argument("--only", type=_chosen, default=MATRIX, help="some of them: F1,F5", metavar="FAULTS")
    parser.add_argument("--seed", type=int, help="what is random, as in another run; by default a new one")
    parser.add_argument("--quick", action="store_true", help="few clients, a few seconds a fault")
    parser.add_argument(
        "--table", action="store_true", help="only show the last run's rows, for docs/faults.md"
    )
    options = parser.parse_args(arguments)
    if options.table:
        print(table_of(RESULTS))
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_stopped(options.only, seed, quick=options.quick))


def _chosen(text: str) -> tuple[Fault, ...]:
    wanted = [name.strip().upper() for name in text.split(",")]
    known = {fault.id: fault for fault in MATRIX}
    if unknown := [name for name in wanted if name not in known]:
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(known[name] for name in wanted)


async def _until_stopped(faults: Sequence[Fault], seed: int, *, quick: bool) -> int:
    began = time.monotonic()
    rows: list[Row] = []

    def tell(words: str) -> None:
        print(f"{time.monotonic() - began:6.1f}  {words}", flush=True)

    def done(row: Row) -> None:
        rows.append(row)
        for words in words_of(row):
            tell(words)

    tell(f"seed {seed}; " + " ".join(fault.id for fault in faults))
    with _cancelled_by_signals() as heard:
        try:
            async with asyncio.timeout(RUN_SECONDS):
                await run_all(faults, SHORT if quick else FULL, seed, tell, done)
        except asyncio.CancelledError:
            if not heard:
                raise
            print("stopped, with everything that was started", file=sys.stderr)
            return 128 + heard[0]
        except (StageError, ServiceError, TimeoutError) as failure:
            print(f"cannot go on: {str(failure) or 'out of time'}", file=sys.stderr)
            return 1
        finally:
            _print_table(rows)
    write(RESULTS, rows, full=not quick)
    tell(f"{len(rows)} faults in {time.monotonic() - began:.0f} s; the rows are in {RESULTS.name}")
    return 0 if rows and all(row.holds or row.not_run for row in rows) else 1


def _print_table(rows: Sequence[Row]) -> None:
    if rows:
        print("\n".join(["", heading(), *map(line_of, rows), ""]), flush=True)


@contextmanager
def _cancelled_by_signals() -> Iterator[list[int]]:
    """The first signal cancels the run, which then ends what it started; that is not cut short by another."""
    loop, task, heard = asyncio.get_running_loop(), asyncio.current_task(), list[int]()
    assert task is not None

    def hear(sent: signal.Signals) -> None:
        if not heard:
            task.cancel()
        heard.append(sent)

    heeded = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for each in heeded:
        loop.add_signal_handler(each, hear, each)
    try:
        yield heard
    finally:
        for each in heeded:
            loop.remove_signal_handler(each)
