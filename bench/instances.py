"""S11: one publisher, receivers at two instances, and what each instance spends on its own."""

from __future__ import annotations

from dataclasses import dataclass

from bench.fanout import BYTES_PER_EVENT, FanoutSpec, bursts
from bench.load import Cost, Meter, settle_memory


@dataclass(frozen=True, slots=True)
class SpreadSpec:
    """`load.receivers` at each instance: `load.address` is the publisher's, `pids` those of each instance in turn."""

    load: FanoutSpec
    pids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class SpreadResult:
    """`deliveries` of each instance; `costs` in the order of the instances, the generator's in each of them."""

    deliveries: int
    spread_seconds: list[float]
    costs: list[Cost]

    def server_us(self, instance: int) -> float:
        """CPU of one instance for one of its own deliveries, in µs."""
        return self.costs[instance].server / self.deliveries * 1e6

    @property
    def foreign(self) -> float:
        """Seconds of CPU that were neither an instance's, nor a helper's, nor the generator's."""
        others = sum(cost.server for cost in self.costs[1:])
        return max(0.0, self.costs[0].foreign - others)


def run_spread(spec: SpreadSpec) -> SpreadResult:
    """Raises WrongError when a receiver at any instance lacks a message, has it twice, or out of order."""
    load = spec.load
    everywhere = load.receivers * len(spec.pids)
    crowd = load.address.crowd(load.burst * BYTES_PER_EVENT + 16384)
    try:
        crowd.grow(everywhere)
        crowd.open_publisher()
        crowd.drain()
        settle_memory()
        number = bursts(crowd, load.burst, load.warmup_seconds, 1, [])
        spread = list[float]()
        meters = [Meter(pids, load.address.helpers) for pids in spec.pids]
        last = bursts(crowd, load.burst, load.seconds, number, spread)
        costs = [meter.stop() for meter in meters]
        crowd.finish()
        return SpreadResult((last - number) * load.receivers, spread, costs)
    finally:
        crowd.close()
