"""S1 against Matrix Synapse, measured in the same run: behind a switch, since its environment is one of its own."""

from __future__ import annotations

import asyncio

from bench.load import in_own_process
from bench.parley_stage import Stage
from bench.report import Row, Target
from bench.scenario import Report, say
from bench.scenarios_chat import ChatSummary
from bench.stats import percentile
from bench.synapse import make_pairs, synapse
from bench.synapse_load import SynapseSpec, run_synapse

NAME = "Synapse"
_IN_FLIGHT = 1  # of each user: more of them only wait longer
_SECONDS, _WARMUP_SECONDS = 20.0, 10.0


def against_synapse(report: Report, stage: Stage, parley: ChatSummary) -> None:
    """One round: at some tens of messages a second its rate is steady. Raises WrongError, StartError."""
    helpers = stage.chat.helpers
    with synapse(stage.database_url) as (server, secret):
        pairs = asyncio.run(make_pairs(server.port, secret, report.plan.chat_pairs))
        spec = SynapseSpec(server.port, server.pids, helpers, pairs, _SECONDS, _WARMUP_SECONDS, _IN_FLIGHT)
        result = in_own_process(run_synapse, spec)
    p50 = percentile(result.delivered, 50) * 1e3
    report.record(
        "S1",
        NAME,
        {
            "messages_per_second": result.per_second,
            "server_us": result.server_us,
            "helpers_us": result.helpers_us,
            "generator_us": result.generator_us,
            "in_flight_each": _IN_FLIGHT,
            "acknowledged_p50_ms": percentile(result.acknowledged, 50) * 1e3,
            "delivered_p50_ms": p50,
        },
        result.cost.foreign,
        result.cost.seconds,
    )
    say(
        f"  S1 {NAME}: {result.per_second:,.1f} messages/s, {result.server_us / 1e3:.1f} ms server,"
        f" {result.helpers_us / 1e3:.1f} ms database, {result.generator_us / 1e3:.1f} ms generator, p50 {p50:,.0f} ms"
    )
    note = f"{NAME}: {_IN_FLIGHT} in flight a user"
    report.rows += [
        Row(
            "S1",
            "durable sends, acknowledged and delivered",
            parley.per_second,
            "messages/s",
            NAME,
            result.per_second,
            Target("at least", 250, True),
            note,
        ),
        Row("S1", "server CPU a message", parley.server_us, "µs", NAME, result.server_us),
        Row("S1", "database CPU a message", parley.helpers_us, "µs", NAME, result.helpers_us),
        Row("S1", "delivered p50", percentile(parley.delivered, 50) * 1e3, "ms", NAME, p50, note=note),
    ]
