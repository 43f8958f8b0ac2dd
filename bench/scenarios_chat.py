"""S1: durable sends as fast as they go; S4: their latency at a fifth of that."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.chat import ChatResult, ChatSpec, run_chat
from bench.load import in_own_process
from bench.report import Row, Target
from bench.scenario import PARLEY, SOCKETIO, Report, say
from bench.stats import median, percentile

SYNAPSE_PER_SECOND = 35.0  # Matrix Synapse 1.163 on PostgreSQL, measured once; where it is not run here
_S4_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class ChatSummary:
    """Medians over the rounds; latencies over all messages of all rounds, in seconds."""

    per_second: float
    server_us: float
    helpers_us: float
    generator_us: float
    acknowledged: list[float]
    delivered: list[float]

    @classmethod
    def of(cls, results: list[ChatResult]) -> ChatSummary:
        return cls(
            per_second=median([result.per_second for result in results]),
            server_us=median([result.server_us for result in results]),
            helpers_us=median([result.helpers_us for result in results]),
            generator_us=median([result.generator_us for result in results]),
            acknowledged=[each for result in results for each in result.acknowledged],
            delivered=[each for result in results for each in result.delivered],
        )


def chat_spec(report: Report, kind: str, port: int, pids: tuple[int, ...]) -> ChatSpec:
    """S1's load for a server that needs no accounts."""
    plan = report.plan
    rooms = tuple(f"room{index}" for index in range(plan.chat_pairs))
    return ChatSpec(kind, port, pids, rooms, plan.chat_seconds, plan.warmup_seconds)


def measure_chat(report: Report, scenario: str, server: str, spec: ChatSpec) -> ChatResult:
    """One round of chat, written down."""
    result = in_own_process(run_chat, spec)
    figures: dict[str, object] = {
        "messages_per_second": result.per_second,
        "server_us": result.server_us,
        "helpers_us": result.helpers_us,
        "generator_us": result.generator_us,
        **_latencies("acknowledged", result.acknowledged),
        **_latencies("delivered", result.delivered),
    }
    if result.late:
        figures["generator_late_p99_ms"] = percentile(result.late, 99) * 1e3
    report.record(scenario, server, figures, result.cost.foreign, result.cost.seconds)
    say(
        f"  {scenario} {server}: {result.per_second:,.0f} messages/s, {result.server_us:.1f} µs server,"
        f" {result.helpers_us:.1f} µs database, {result.generator_us:.1f} µs generator,"
        f" p50 {percentile(result.delivered, 50) * 1e3:.2f} ms, p99 {percentile(result.delivered, 99) * 1e3:.2f} ms"
    )
    return result


def _latencies(what: str, seconds: list[float]) -> dict[str, object]:
    return {f"{what}_p{percent}_ms": percentile(seconds, percent) * 1e3 for percent in (50, 90, 99, 99.9)}


def sends(report: Report, parley: ChatSpec, socketio: ChatSpec, *, stated_synapse: bool) -> ChatSummary:
    """S1; `stated_synapse`: beside Synapse's rate as it was measured elsewhere.

    Raises WrongError when either server loses, doubles or reorders a message.
    """
    ours, theirs = [], []
    for _ in range(report.plan.rounds):
        ours.append(measure_chat(report, "S1", PARLEY, parley))
        theirs.append(measure_chat(report, "S1", SOCKETIO, socketio))
    own, peer = ChatSummary.of(ours), ChatSummary.of(theirs)
    rate = "durable sends, acknowledged and delivered"
    unit = "messages/s"
    if stated_synapse:
        peer_name, target = "Synapse, as stated", Target("at least", 250, True)
        report.rows.append(Row("S1", rate, own.per_second, unit, peer_name, SYNAPSE_PER_SECOND, target))
    report.rows += [
        Row("S1", rate, own.per_second, unit, SOCKETIO, peer.per_second, Target("at least", 1.5, True)),
        Row(
            "S1",
            "server CPU a message",
            own.server_us,
            "µs",
            SOCKETIO,
            peer.server_us,
            Target("at most", 60, False),
        ),
        Row("S1", "database CPU a message", own.helpers_us, "µs"),
        Row("S1", "generator CPU a message", own.generator_us, "µs", "server", own.server_us),
        _latency_row("S1", "acknowledged p50", own.acknowledged, 50, peer.acknowledged),
        _latency_row("S1", "delivered p50", own.delivered, 50, peer.delivered),
        _latency_row("S1", "delivered p99", own.delivered, 99, peer.delivered),
    ]
    return own


def _latency_row(scenario: str, what: str, ours: list[float], percent: float, theirs: list[float]) -> Row:
    return Row(
        scenario,
        what,
        percentile(ours, percent) * 1e3,
        "ms",
        SOCKETIO,
        percentile(theirs, percent) * 1e3,
    )


def latency(report: Report, parley: ChatSpec, full_rate: float, commits: list[float]) -> None:
    """S4. `commits` are the seconds of bare commits on the same PostgreSQL."""
    rate = full_rate * _S4_SHARE
    result = measure_chat(
        report, "S4", PARLEY, replace(parley, rate=rate, seconds=report.plan.latency_seconds)
    )
    floor = percentile(commits, 50) * 1e3
    late = f"at {rate:,.0f}/s; generator late p99 {percentile(result.late, 99) * 1e3:.1f} ms"
    for what, percent, bound in (("p50", 50, 3.0), ("p99", 99, 15.0)):
        value = percentile(result.delivered, percent) * 1e3
        peer = f"bare commit {what} (ms)"
        own_floor = percentile(commits, percent) * 1e3
        report.rows.append(
            Row(
                "S4",
                f"send to delivery {what}",
                value,
                "ms",
                peer,
                own_floor,
                Target("at most", bound, False),
                late,
            )
        )
    acknowledged = percentile(result.acknowledged, 50) * 1e3
    report.rows.append(
        Row("S4", "send to acknowledgement p50", acknowledged, "ms", "bare commit p50 (ms)", floor)
    )
    report.record(
        "S4",
        "PostgreSQL",
        {"commit_p50_ms": floor, "commit_p99_ms": percentile(commits, 99) * 1e3},
        foreign=0.0,
        seconds=0.0,
    )
