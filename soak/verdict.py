"""What counts as flat. Pure: samples in, verdicts out.

Under load a figure goes up and down with the people who happen to be there, so no single sample means anything. The
judged part is what follows the warm-up; over it the slope is the median of the slopes between all pairs of samples
(Theil and Sen), which a few wild samples do not move. Slope times length is the growth, and it has an allowance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

FEWEST = 12  # samples below which nothing is said of a trend
_MOST = 400  # samples that are paired with each other; more are thinned out evenly


@dataclass(frozen=True, slots=True)
class Allowance:
    """The larger of a share of the median and an amount, over the whole judged part."""

    share: float
    amount: float

    def of(self, level: float) -> float:
        return max(self.share * abs(level), self.amount)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure: its medians in the first and the last third of what was judged, and what was allowed.

    `growth` is in the figure's unit over `seconds`. `flat` None: too few samples to tell.
    """

    figure: str
    unit: str
    begin: float
    end: float
    growth: float
    allowed: float
    seconds: float
    flat: bool | None
    rule: str

    def as_json(self) -> dict[str, object]:
        """For the results file."""
        return {field: getattr(self, field) for field in self.__slots__}

    @property
    def growth_an_hour(self) -> float:
        return self.growth * 3600 / self.seconds if self.seconds else 0.0


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Per second. 0 where there are not two times. Times ascend."""
    step = -(-len(times) // _MOST) or 1
    times, values = times[::step], values[::step]
    slopes = [
        (values[later] - values[first]) / (times[later] - times[first])
        for later in range(len(times))
        for first in range(later)
        if times[later] > times[first]
    ]
    return median(slopes) if slopes else 0.0


def judge_trend(
    figure: str,
    unit: str,
    times: Sequence[float],
    values: Sequence[float],
    allowance: Allowance,
    *,
    judged: bool = True,
) -> Verdict:
    """Flat where the figure did not grow by more than is allowed; falling is flat. Not `judged`: for the record."""
    seconds = times[-1] - times[0] if times else 0.0
    growth = slope(times, values) * seconds
    allowed = allowance.of(median(values)) if values else allowance.amount
    third = max(1, len(values) // 3)
    return Verdict(
        figure,
        unit,
        median(values[:third]) if values else 0.0,
        median(values[-third:]) if values else 0.0,
        growth,
        allowed,
        seconds,
        growth <= allowed if judged and len(values) >= FEWEST else None,
        "trend",
    )


def judge_bound(figure: str, unit: str, values: Sequence[float], bound: float) -> Verdict:
    """Flat where no sample was ever above the bound."""
    begin, end = (values[0], values[-1]) if values else (0.0, 0.0)
    most = max(values, default=0.0)
    return Verdict(figure, unit, begin, end, most, bound, 0.0, most <= bound, "bound")


def judge_rest(figure: str, unit: str, before: float, after: float, allowed: float) -> Verdict:
    """Flat where, with everybody gone, there is no more than there was with everybody gone before."""
    growth = after - before
    return Verdict(figure, unit, before, after, growth, allowed, 0.0, growth <= allowed, "rest")
