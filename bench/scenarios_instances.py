"""S11: a second instance on the same PostgreSQL and Redis: the order it keeps, and what a delivery costs there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.chat import ChatResult
from bench.fanout import FanoutSpec
from bench.instances import SpreadResult, SpreadSpec, run_spread
from bench.load import in_own_process
from bench.parley_stage import SETTINGS, Stage
from bench.processes import Server, instance
from bench.report import Row, Target
from bench.scenario import PARLEY, Report, say
from bench.scenarios_chat import measure_chat
from bench.stats import median, percentile

_PEER = "a lone instance"
_WITHIN = Target("at most", 1.2, True)


@dataclass(frozen=True, slots=True)
class _Burst:
    """µs a delivery: medians over the rounds. `lone` has as many receivers as each of the two."""

    lone: float
    first: float
    second: float

    @property
    def capacity(self) -> float:
        """Deliveries that a second of CPU at each of the two is good for."""
        return 1e6 / self.first + 1e6 / self.second


def two_instances(report: Report, stage: Stage) -> None:
    """S11. Raises WrongError when any receiver at any instance lacks a message, has it twice, or out of order."""
    with instance(stage.server.directory, 2, **SETTINGS) as second:
        singly = _spread(report, stage, second, 1)
        full = report.plan.two_in_full
        together = _spread(report, stage, second, report.plan.burst) if full else None
        chats = _chat(report, stage, second) if full else None
    where = f"{report.plan.receivers:,} receivers at each"
    for how, costs in (("one at a time", singly), ("in bursts", together)):
        if costs is None:
            continue
        report.rows += [
            Row(
                "S11",
                f"CPU a delivery at the second, {how}",
                costs.second,
                "µs",
                _PEER,
                costs.lone,
                _WITHIN,
                where,
            ),
            Row("S11", f"CPU a delivery at the publisher's, {how}", costs.first, "µs", _PEER, costs.lone),
            Row(
                "S11",
                f"deliveries from a second of CPU at each, {how}",
                costs.capacity,
                "",
                _PEER,
                1e6 / costs.lone,
            ),
        ]
    everyone = 2 * report.plan.receivers
    if chats is not None:
        _chat_rows(report, *chats)
        everyone += 2 * report.plan.chat_pairs
    report.rows.append(
        Row(
            "S11",
            "receivers with anything lost, doubled or out of order",
            0,
            "",
            target=Target("at most", 0, False),
            note=f"of {everyone:,}; one would have ended the scenario",
        )
    )


def _spread(report: Report, stage: Stage, second: Server, burst: int) -> _Burst:
    plan, crowd = report.plan, stage.crowd
    load = FanoutSpec(crowd, plan.receivers, burst, plan.fanout_seconds, plan.warmup_seconds)
    alone = SpreadSpec(load, (crowd.pids,))
    both = SpreadSpec(
        replace(load, address=replace(crowd, other_ports=(second.port,))), (crowd.pids, second.pids)
    )
    rounds = [
        (_measure(report, "alone", alone), _measure(report, "both", both))
        for _ in range(plan.instance_rounds)
    ]
    return _Burst(
        median([lone.server_us(0) for lone, _ in rounds]),
        median([pair.server_us(0) for _, pair in rounds]),
        median([pair.server_us(1) for _, pair in rounds]),
    )


def _measure(report: Report, who: str, spec: SpreadSpec) -> SpreadResult:
    result = in_own_process(run_spread, spec)
    each = [result.server_us(number) for number in range(len(spec.pids))]
    spread = percentile(result.spread_seconds, 50) * 1e3
    report.record(
        "S11",
        f"{PARLEY}, {who}",
        {
            "burst": spec.load.burst,
            "server_us": each,
            "database_us": result.costs[0].helpers / result.deliveries * 1e6,
            "generator_us": result.costs[0].generator / result.deliveries / len(each) * 1e6,
            "spread_p50_ms": spread,
        },
        result.foreign,
        result.costs[0].seconds,
    )
    say(
        f"  S11 {who}, {spec.load.burst} at once: "
        + " and ".join(f"{value:.2f} µs" for value in each)
        + f" a delivery, all have it after {spread:.1f} ms"
    )
    return result


def _chat(report: Report, stage: Stage, second: Server) -> tuple[ChatResult, ChatResult]:
    """S1's load once at the first instance, and once with the two of each pair at different ones."""
    both = replace(stage.chat, other_ports=(second.port,), pids=(*stage.chat.pids, *second.pids))
    return (
        measure_chat(report, "S11", f"{PARLEY}, alone", stage.chat),
        measure_chat(report, "S11", f"{PARLEY}, both", both),
    )


def _chat_rows(report: Report, lone: ChatResult, both: ChatResult) -> None:
    report.rows += [
        Row(
            "S11",
            "durable sends, the two of each pair apart",
            both.per_second,
            "messages/s",
            _PEER,
            lone.per_second,
            note="both share two cores with PostgreSQL and the generator",
        ),
        Row("S11", "CPU a message, both instances together", both.server_us, "µs", _PEER, lone.server_us),
        Row(
            "S11",
            "delivered p50, the two of each pair apart",
            percentile(both.delivered, 50) * 1e3,
            "ms",
            _PEER,
            percentile(lone.delivered, 50) * 1e3,
        ),
    ]
