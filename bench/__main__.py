"""`python -m bench [--quick] [--only S1,S2] [--synapse]`: every speed target with its peers and floors, in one run.

Exits with 1 when a server did something wrong or did not start; a target that is missed is shown, not punished.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import (
    parley_stage,
    scenarios_chat,
    scenarios_fanout,
    scenarios_growth,
    scenarios_instances,
    scenarios_memory,
    scenarios_storm,
    scenarios_synapse,
)
from bench.fanout import Address
from bench.floor import commit_seconds
from bench.plan import FULL, QUICK
from bench.plot import draw
from bench.report import as_json, table
from bench.scenario import PARLEY, SOCKETIO, Report, peers, say

RESULTS = Path(__file__).resolve().parent / "results"
NOT_QUICK = {"S8", "S12"}  # of SCENARIOS
SCENARIOS = ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S11", "S12")
_QUIET = 0.15  # cores others may use before the figures are called noisy


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="within two minutes: one short round, smaller S5 to S7, no S8 and S12",
    )
    parser.add_argument("--only", default="", help=f"comma list of {' '.join(SCENARIOS)}")
    parser.add_argument(
        "--synapse", action="store_true", help="S1 against Matrix Synapse too (a minute more)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where latest.json and latest.png go")
    return parser.parse_args()


def _wanted(only: str, quick: bool) -> set[str]:
    everything = set(SCENARIOS) - (NOT_QUICK if quick else set())
    names = {name.strip().upper() for name in only.split(",") if name.strip()} or everything
    if unknown := names - set(SCENARIOS):
        sys.exit(f"bench: there is no {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    if "S4" in names:
        names.add("S1")  # S4's rate is a share of S1's
    return names


def _run(report: Report, wanted: set[str], *, with_synapse: bool) -> None:
    if wanted & {"S1", "S2", "S3", "S4", "S8", "S11"}:
        with (
            report.scenario("Parley for S1 to S4, S8 and S11"),
            peers() as others,
            parley_stage.chat_server(report.plan) as stage,
        ):
            _speed(report, wanted, stage, others, with_synapse=with_synapse)
    if wanted & {"S5", "S6"}:
        weights: dict[str, float] = {}
        # Peers that have served nobody yet: memory once used is kept, and would hide what a connection takes.
        with report.scenario("S5, peers"), peers() as others:
            weights = scenarios_memory.weigh_peers(report, others)
        with report.scenario("S5 and S6"), parley_stage.crowded_server(report.plan) as address:
            scenarios_memory.idle_and_held(report, address, weights)
    if "S7" in wanted:
        with report.scenario("S7"):
            scenarios_storm.storms(report)
    if "S12" in wanted:
        with report.scenario("S12"):
            scenarios_growth.growth(report)


def _speed(
    report: Report,
    wanted: set[str],
    stage: parley_stage.Stage,
    others: dict[str, Address],
    *,
    with_synapse: bool,
) -> None:
    socketio = others[SOCKETIO]
    if "S1" in wanted:
        with report.scenario("S1", stage.log):
            peer = scenarios_chat.chat_spec(report, socketio.kind, socketio.port, socketio.pids)
            sent = scenarios_chat.sends(report, stage.chat, peer, stated_synapse=not with_synapse)
            if "S4" in wanted:
                commits = asyncio.run(commit_seconds(stage.database_url, report.plan.floor_commits))
                scenarios_chat.latency(report, stage.chat, sent.per_second, commits)
            if with_synapse:
                with report.scenario("S1 against Synapse", stage.log):
                    scenarios_synapse.against_synapse(report, stage, sent)
    servers = {PARLEY: stage.crowd, **others}
    alone: float | None = None
    if "S2" in wanted:
        with report.scenario("S2", stage.log):
            alone = scenarios_fanout.one_at_a_time(report, servers)
    if "S3" in wanted:
        with report.scenario("S3", stage.log):
            scenarios_fanout.bursts(report, servers, alone)
    if "S8" in wanted:
        with report.scenario("S8", stage.log):
            scenarios_fanout.other_transports(report, stage.crowd)
    if "S11" in wanted:
        with report.scenario("S11", stage.log):
            scenarios_instances.two_instances(report, stage)


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _write(report: Report, results: Path, began: datetime, seconds: float, quick: bool) -> None:
    results.mkdir(parents=True, exist_ok=True)
    machine = {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    }
    summary = {
        "at": began.isoformat(),
        "quick": quick,
        "seconds": round(seconds, 1),
        "machine": machine,
        "foreign_cores": report.noise,
        "rows": [as_json(row) for row in report.rows],
        "failures": report.failures,
        "scenario_seconds": report.seconds,
        "runs": report.raw,
    }
    (results / "latest.json").write_text(json.dumps(summary, indent=1) + "\n")
    title = f"Parley, {began:%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores" + (" (quick)" if quick else "")
    if draw(report.rows, title, results / "latest.png"):
        say(f"\nwritten: {results / 'latest.json'}, {results / 'latest.png'}")
    else:
        say(f"\nwritten: {results / 'latest.json'} (no picture: matplotlib is not installed)")


def main() -> int:
    """Run what the command line asks for; returns the exit status."""
    arguments = _arguments()
    wanted = _wanted(arguments.only, arguments.quick)
    _raise_file_limit()
    report = Report(QUICK if arguments.quick else FULL)
    began, clock = datetime.now(UTC), time.monotonic()
    _run(report, wanted, with_synapse=arguments.synapse)
    seconds = time.monotonic() - clock
    say("\n" + table(report.rows))
    noisy = ": the figures are noisy" if report.noise > _QUIET else ""
    say(
        f"\n{seconds:.0f} s; other programs kept {report.noise:.2f} of {os.cpu_count()} cores busy meanwhile{noisy}"
    )
    say("of these: " + ", ".join(f"{name} {taken:.0f} s" for name, taken in report.seconds.items()))
    for failure in report.failures:
        say(f"FAILED  {failure}")
    _write(report, arguments.results, began, seconds, arguments.quick)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
