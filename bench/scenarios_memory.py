"""S5: what an idle connection weighs; S6: as many as one process may hold, all of them told something every second."""

from __future__ import annotations

from bench.fanout import Address, HoldResult, HoldSpec, run_hold
from bench.load import in_own_process
from bench.report import Row, Target
from bench.scenario import PARLEY, Report, say
from bench.stats import percentile

ALL_CONNECTIONS = 19_000  # what the target asks for: the file limit of one process
_KIB, _MIB = 1024, 1024 * 1024
_FIRST = 200  # connections held before the first look, so that what a server loads once is not counted


def measure_hold(
    report: Report, scenario: str, server: str, address: Address, sizes: tuple[int, ...], seconds: int = 0
) -> HoldResult:
    """Connections opened and held, written down."""
    result = in_own_process(run_hold, HoldSpec(address, _FIRST, sizes, seconds))
    report.record(
        scenario,
        server,
        {
            "first_rss_mib": result.first_rss / _MIB,
            "rss_mib": {str(size): rss / _MIB for size, rss in result.rss.items()},
            "kib_each": {str(size): result.bytes_each(size) / _KIB for size in sizes},
            "opened_per_second": result.opened_per_second,
            "last_rss_mib": result.last_rss / _MIB,
            "spread_ms": [seconds * 1e3 for seconds in result.spread_seconds],
            "server_us_a_delivery": result.cost.server / result.deliveries * 1e6
            if result.deliveries
            else None,
        },
        result.cost.foreign,
        result.cost.seconds,
    )
    say(
        f"  {scenario} {server}: "
        + ", ".join(
            f"{result.bytes_each(size) / _KIB:.1f} KiB each at {size:,} ({rss / _MIB:.0f} MiB)"
            for size, rss in result.rss.items()
        )
        + f", opened {result.opened_per_second:,.0f}/s"
    )
    return result


def weigh_peers(report: Report, addresses: dict[str, Address]) -> dict[str, float]:
    """KiB a connection of each peer that is installed, at S5's size."""
    size = report.plan.idle_connections
    found = {}
    for name, address in addresses.items():
        result = measure_hold(report, "S5", name, address, (size,))
        found[name] = result.bytes_each(size) / _KIB
    return found


def idle_and_held(report: Report, parley: Address, peers: dict[str, float]) -> None:
    """S5, and on the same server S6. Raises WrongError when a connection is lost or a broadcast is missed."""
    plan = report.plan
    idle, held = plan.idle_connections, plan.held_connections
    # One of the connections held is the publisher's.
    result = measure_hold(report, "S5/S6", PARLEY, parley, (idle, held - 1), plan.broadcasts)
    each = result.bytes_each(idle) / _KIB
    note = f"at {idle:,}"
    report.rows.append(
        Row("S5", "memory a connection", each, "KiB", target=Target("at most", 20, False), note=note)
    )
    for name, weight in peers.items():
        report.rows.append(Row("S5", "memory a connection", each, "KiB", name, weight, note=note))
    many = Target("at least", ALL_CONNECTIONS, False) if held >= ALL_CONNECTIONS else None
    peak = max(*result.rss.values(), result.last_rss)
    slowest = percentile(result.spread_seconds, 99) * 1e3
    report.rows += [
        Row(
            "S6",
            "connections held, all told every second",
            held,
            "",
            target=many,
        ),
        Row("S6", "memory of the server", peak / _MIB, "MiB", target=many and Target("at most", 600, False)),
        Row("S6", "until everybody has a broadcast, slowest", slowest, "ms"),
        Row("S6", "server CPU a delivery", result.cost.server / result.deliveries * 1e6, "µs"),
        Row("S6", "connections let in", result.opened_per_second, "per s"),
    ]
