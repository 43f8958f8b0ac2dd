"""`python -m soak [--seconds N] [--people N] [--seed N]`: does anything grow?

Two instances, one PostgreSQL, one Redis; people who come, do everything there is to do, and go, all the time. What the
parts hold is sampled every few seconds, and looked at with everybody gone before and after. Exits with 1 where a figure
is not flat, where the traffic met what no server should do, or where some kind of operation never happened.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import resource
import sys
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from bench.processes import StartError, tail
from soak.figures import Run, judge, missing, table
from soak.plot import draw
from soak.sampling import Sample, Sampler, sampler
from soak.stage import Stage, stage
from soak.traffic import Traffic, traffic

RESULTS = Path(__file__).resolve().parent / "results"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="how long there is traffic (600)")
    parser.add_argument("--people", type=int, default=36, help="how many are busy at once (36)")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two samples (2)")
    parser.add_argument("--seed", type=int, default=1, help="what the people do (1)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where latest.json and latest.png go")
    return parser.parse_args()


def say(line: str) -> None:
    """Progress for who waits."""
    print(line, flush=True)


async def _watch(sampler: Sampler, samples: list[Sample], busy: Traffic, every: float) -> None:
    """Samples until cancelled, and says every minute how it goes."""
    while True:
        samples.append(await sampler.sample())
        now = samples[-1].figures
        if len(samples) % max(1, round(60 / every)) == 1:
            say(
                f"  {samples[-1].at:5.0f} s: {busy.tally.operations:,} operations,"
                f" {now['sessions, instance 1'] + now['sessions, instance 2']:.0f} sessions,"
                f" memory {now['memory, instance 1']:.1f} and {now['memory, instance 2']:.1f} MiB,"
                f" tasks {now['tasks, instance 1']:.0f} and {now['tasks, instance 2']:.0f}"
            )
        await asyncio.sleep(every)


async def _soak(on: Stage, arguments: argparse.Namespace) -> Run:
    samples: list[Sample] = []
    async with traffic(on.ports, arguments.people, arguments.seed) as busy, sampler(on) as figures:
        say("a first lap, so that pools and caches are there …")
        await busy.run(min(20.0, arguments.seconds / 3))
        before = await figures.at_rest()
        say(f"{arguments.seconds:.0f} s of traffic by {arguments.people} people …")
        watching = asyncio.create_task(_watch(figures, samples, busy, arguments.every))
        try:
            await busy.run(arguments.seconds)
        finally:
            watching.cancel()
            outcome = (await asyncio.gather(watching, return_exceptions=True))[0]
        if isinstance(outcome, Exception):
            raise outcome
        after = await figures.at_rest()
        return Run(samples, before, after, busy.tally)


def _write(run: Run, arguments: argparse.Namespace, began: datetime) -> None:
    results: Path = arguments.results
    results.mkdir(parents=True, exist_ok=True)
    summary = {
        "at": began.isoformat(),
        "seconds": arguments.seconds,
        "people": arguments.people,
        "seed": arguments.seed,
        "python": platform.python_version(),
        "verdicts": [verdict.as_json() for verdict in judge(run)],
        "done": dict(run.tally.done),
        "refused": dict(run.tally.refused),
        "wrong": dict(run.tally.wrong),
        "told": run.tally.told,
        "before": run.before.figures,
        "after": run.after.figures,
        "samples": [{"at": sample.at, **sample.figures} for sample in run.samples],
    }
    (results / "latest.json").write_text(json.dumps(summary, indent=1) + "\n")
    title = f"Parley, {arguments.seconds:.0f} s of soak, {began:%Y-%m-%d %H:%M} UTC"
    drawn = draw(run, title, results / "latest.png")
    say(f"\nwritten: {results / 'latest.json'}" + (f", {results / 'latest.png'}" if drawn else ""))


def main() -> int:
    """Run what the command line asks for; returns the exit status."""
    arguments, began = _arguments(), datetime.now(UTC)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with stage() as on:
            run = uvloop.run(_soak(on, arguments))
            logs = [
                line for server in on.servers for line in tail(server.log).splitlines() if line[:1] == "{"
            ]
    except (StartError, RuntimeError, TimeoutError, OSError) as error:
        say(
            f"soak: {type(error).__name__}: {error}"
            + "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        )
        return 1
    verdicts, lacking = judge(run), missing(run)
    say("\n" + table(verdicts))
    say(
        f"\n{run.tally.operations:,} operations: "
        + ", ".join(f"{n:,} {what}" for what, n in run.tally.done.most_common())
    )
    if run.tally.refused:
        say(
            "refused, as may be: " + ", ".join(f"{n:,} {what}" for what, n in run.tally.refused.most_common())
        )
    if logs:
        say("the instances wrote last:\n" + "\n".join(logs))
    for what in lacking:
        say(f"FAILED  {what}: it never happened")
    for what, count in run.tally.wrong.items():
        say(f"FAILED  {count} x {what}")
    for line in run.tally.told:
        say(f"        {line}")
    for verdict in verdicts:
        if verdict.flat is False:
            say(f"FAILED  {verdict.figure} is not flat")
    _write(run, arguments, began)
    return 1 if lacking or run.tally.wrong or any(verdict.flat is False for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
