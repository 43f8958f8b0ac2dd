"""S12: S1, S4 and replays on a store that has grown, against an empty one, in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from bench.chat import ChatResult
from bench.grown import MISSED, Store, Stores, stores
from bench.load import in_own_process
from bench.report import Row, Target
from bench.resume import ResumeResult, ResumeSpec, run_resumes
from bench.scenario import Report, say
from bench.scenarios_chat import measure_chat
from bench.stats import median, percentile

_EMPTY = "an empty store"
_WITHIN = Target("at most", 1.3, True)
_S4_SHARE = 0.2


def growth(report: Report) -> None:
    """S12. Raises WrongError when a message, or an event that was missed, is lost, doubled or reordered."""
    with stores(report.plan) as both:
        _sends(report, both)
        _latency(report, both)
        _replays(report, both)


def _in_turns(both: Stores, rounds: int) -> list[tuple[Store, str]]:
    """Who is measured: each as often as the other, and first as often as second."""
    turns = [(both.empty, _EMPTY), (both.grown, "a store that has grown")]
    return [turn for n in range(rounds) for turn in (turns if n % 2 == 0 else turns[::-1])]


def _sends(report: Report, both: Stores) -> None:
    found: dict[str, list[ChatResult]] = {}
    for store, name in _in_turns(both, report.plan.growth_rounds):
        found.setdefault(name, []).append(measure_chat(report, "S12", name, store.chat))
    empty, grown = found.values()
    where = f"{both.rows:,} log rows, seeded in {both.seed_seconds:.0f} s"
    figures: tuple[tuple[str, str, Callable[[ChatResult], float], Target], ...] = (
        ("S1's sends", "messages/s", lambda result: result.per_second, Target("at least", 1 / 1.3, True)),
        ("S1's server CPU a message", "µs", lambda result: result.server_us, _WITHIN),
        ("S1's database CPU a message", "µs", lambda result: result.helpers_us, _WITHIN),
    )
    for what, unit, of, target in figures:
        values = [median([of(result) for result in results]) for results in (grown, empty)]
        report.rows.append(Row("S12", what, values[0], unit, _EMPTY, values[1], target, where))
        where = ""


def _latency(report: Report, both: Stores) -> None:
    """S4's load: the same rate at both, a fifth of what the empty one does."""
    rate = _S4_SHARE * median(
        [
            float(str(run["messages_per_second"]))
            for run in report.raw
            if (run["scenario"], run["server"]) == ("S12", _EMPTY)
        ]
    )
    found: dict[str, list[float]] = {}
    for store, name in _in_turns(both, report.plan.growth_rounds):
        spec = replace(store.chat, rate=rate, seconds=report.plan.growth_seconds)
        found.setdefault(name, []).extend(measure_chat(report, "S12, S4's load", name, spec).delivered)
    empty, grown = found.values()
    for percent in (50, 99):
        values = [percentile(seconds, percent) * 1e3 for seconds in (grown, empty)]
        report.rows.append(
            Row(
                "S12",
                f"S4's send to delivery p{percent}",
                values[0],
                "ms",
                _EMPTY,
                values[1],
                _WITHIN,
                f"at {rate:,.0f}/s",
            )
        )


def _replays(report: Report, both: Stores) -> None:
    for missed in MISSED:
        times = report.plan.resumes * (4 if missed < 100 else 1)
        specs = {
            name: asyncio.run(_back_from(store, missed, times))
            for store, name in ((both.empty, _EMPTY), (both.grown, "grown"))
        }
        if missed == MISSED[-1]:
            specs["the beginning of the log"] = asyncio.run(both.grown.resume(both.grown.reader, 1, times))
            specs["made-up history"] = asyncio.run(both.grown.resume(both.busy, 1, times))
        results = _resumed(report, missed, specs, report.plan.growth_rounds)
        empty = results[_EMPTY]
        for name, result in results.items():
            if name == _EMPTY:
                continue
            what = f"resuming {missed:,} missed" if name == "grown" else f"resuming from {name}"
            # Made-up history is other events, in other conversations: for the record.
            target = None if name == "made-up history" else _WITHIN
            told = f"{len(specs[name].missed):,} events"
            report.rows += [
                Row(
                    "S12",
                    f"{what}, p50",
                    _p50(result),
                    "ms",
                    _EMPTY,
                    _p50(empty),
                    target,
                    told,
                ),
                Row(
                    "S12",
                    f"{what}, CPU of server and database",
                    _event_us(result),
                    "µs an event",
                    _EMPTY,
                    _event_us(empty),
                    target,
                ),
            ]


async def _back_from(store: Store, missed: int, times: int) -> ResumeSpec:
    return await store.resume(store.reader, await store.place(missed), times)


def _resumed(
    report: Report, missed: int, specs: dict[str, ResumeSpec], rounds: int
) -> dict[str, list[ResumeResult]]:
    results: dict[str, list[ResumeResult]] = {name: [] for name in specs}
    for _ in range(rounds):
        for name, spec in specs.items():
            result = in_own_process(run_resumes, spec)
            results[name].append(result)
            figures: dict[str, object] = {
                "missed": len(spec.missed),
                "p50_ms": percentile(result.seconds, 50) * 1e3,
                "p99_ms": percentile(result.seconds, 99) * 1e3,
                "server_ms": result.cost.server / spec.times * 1e3,
                "helpers_ms": result.cost.helpers / spec.times * 1e3,
            }
            report.record(f"S12, {missed} missed", name, figures, result.cost.foreign, result.cost.seconds)
            say(
                f"  S12 resuming {len(spec.missed):,} missed, {name}: p50 {figures['p50_ms']:.2f} ms,"
                f" {figures['server_ms']:.2f} ms server, {figures['helpers_ms']:.2f} ms database"
            )
    return results


def _p50(results: list[ResumeResult]) -> float:
    return median([percentile(result.seconds, 50) for result in results]) * 1e3


def _event_us(results: list[ResumeResult]) -> float:
    return median([(r.cost.server + r.cost.helpers) / r.events for r in results]) * 1e6
