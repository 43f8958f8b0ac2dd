"""S2: one message at a time to a thousand receivers; S3: a hundred at once."""

from __future__ import annotations

from dataclasses import replace

from bench.fanout import Address, FanoutResult, FanoutSpec, run_fanout
from bench.load import in_own_process
from bench.report import Row, Target
from bench.scenario import NCHAN, PARLEY, PLAIN, SOCKETIO, Report, say
from bench.stats import median, percentile


def measure_fanout(report: Report, scenario: str, server: str, address: Address, burst: int) -> FanoutResult:
    """One round, written down."""
    plan = report.plan
    spec = FanoutSpec(address, plan.receivers, burst, plan.fanout_seconds, plan.warmup_seconds)
    result = in_own_process(run_fanout, spec)
    spread = [seconds * 1e3 for seconds in result.spread_seconds]
    report.record(
        scenario,
        server,
        {
            "burst": burst,
            "deliveries_per_second": result.deliveries_per_second,
            "server_us": result.server_us,
            "generator_us": result.generator_us,
            "bursts": len(spread),
            "spread_p50_ms": percentile(spread, 50),
            "spread_p99_ms": percentile(spread, 99),
        },
        result.cost.foreign,
        result.cost.seconds,
    )
    say(
        f"  {scenario} {server}: {result.deliveries_per_second:,.0f} deliveries/s, {result.server_us:.2f} µs server,"
        f" {result.generator_us:.2f} µs generator, all have it after {percentile(spread, 50):.1f} ms"
    )
    return result


def _compare(
    report: Report, scenario: str, addresses: dict[str, Address], burst: int, skipped: set[str]
) -> dict[str, tuple[float, float, float]]:
    """(deliveries/s, server µs, generator µs) of each server: the median over the rounds, which take turns."""
    results: dict[str, list[FanoutResult]] = {}
    for turn in range(report.plan.rounds):
        for name, address in addresses.items():
            if turn == 0 or name not in skipped:
                measured = measure_fanout(report, scenario, name, address, burst)
                results.setdefault(name, []).append(measured)
    return {
        name: (
            median([each.deliveries_per_second for each in rounds]),
            median([each.server_us for each in rounds]),
            median([each.generator_us for each in rounds]),
        )
        for name, rounds in results.items()
    }


def one_at_a_time(report: Report, addresses: dict[str, Address]) -> float | None:
    """S2; returns Nchan's deliveries/s. Raises WrongError when a receiver is wronged."""
    figures = _compare(report, "S2", addresses, 1, {SOCKETIO})
    _rows(report, "S2", figures, Target("at most", 1.0, True), None)
    return figures[NCHAN][0] if NCHAN in figures else None


def bursts(report: Report, addresses: dict[str, Address], nchan_alone: float | None) -> None:
    """S3. `nchan_alone` is Nchan's rate in S2."""
    if not report.plan.slow_peers_too:
        addresses = {name: address for name, address in addresses.items() if name != SOCKETIO}
    figures = _compare(report, "S3", addresses, report.plan.burst, {SOCKETIO})
    _rows(report, "S3", figures, None, Target("at least", 10, True))
    if PARLEY in figures:
        what = "deliveries (Nchan: one at a time, S2)"
        report.rows.append(Row("S3", what, figures[PARLEY][0], "per s", NCHAN, nchan_alone))


def other_transports(report: Report, parley: Address) -> None:
    """S8: S2's load received by Server-Sent Events and by long polling, against WebSocket in the same turns."""
    kinds = ("parley", "parley-sse", "parley-poll")
    addresses = {f"{PARLEY} {kind}": replace(parley, kind=kind) for kind in kinds}
    websocket, sse, poll = _compare(report, "S8", addresses, 1, set()).values()
    peer = "its WebSocket"
    report.rows += [
        Row(
            "S8", "server CPU a delivery, SSE", sse[1], "µs", peer, websocket[1], Target("at most", 1.3, True)
        ),
        Row(
            "S8",
            "server CPU a delivery, long poll",
            poll[1],
            "µs",
            peer,
            websocket[1],
            Target("at most", 6, True),
        ),
    ]


def _rows(
    report: Report,
    scenario: str,
    figures: dict[str, tuple[float, float, float]],
    cpu_target: Target | None,
    rate_target: Target | None,
) -> None:
    if PARLEY not in figures:
        return
    rate, cpu, generator = figures[PARLEY]
    for name in (NCHAN, PLAIN, SOCKETIO):
        peer_rate, peer_cpu, _ = figures.get(name, (None, None, None))
        targets = (cpu_target, rate_target) if name == NCHAN else (None, None)
        report.rows += [
            Row(scenario, "server CPU a delivery", cpu, "µs", name, peer_cpu, targets[0]),
            Row(scenario, "deliveries", rate, "per s", name, peer_rate, targets[1]),
        ]
    report.rows.append(Row(scenario, "generator CPU a delivery", generator, "µs", "server", cpu))
