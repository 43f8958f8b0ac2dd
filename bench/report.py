"""One row a figure, one table a run. Ratios are what counts; a missing peer leaves its row without a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Bound = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a value or, when `of_ratio`, on its ratio to a peer's or a floor's value in the same run."""

    bound: Bound
    value: float
    of_ratio: bool

    def is_met(self, value: float) -> bool:
        """Equal counts as met, both ways."""
        return value >= self.value if self.bound == "at least" else value <= self.value

    def text(self, unit: str) -> str:
        sign = "≥" if self.bound == "at least" else "≤"
        return (
            f"{sign} {number(self.value)} x"
            if self.of_ratio
            else f"{sign} {number(self.value)} {unit}".rstrip()
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what was measured, in `unit`, what it is compared with, and what it should be.

    `peer_value` is None when the peer is not installed (or there is none). `target` None: for the record only.
    """

    scenario: str
    what: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    target: Target | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value over the peer's."""
        return self.value / self.peer_value if self.peer_value else None

    @property
    def met(self) -> bool | None:
        """None where there is no target, or no peer to tell."""
        if self.target is None:
            return None
        judged = self.ratio if self.target.of_ratio else self.value
        return None if judged is None else self.target.is_met(judged)

    @property
    def target_of_peer(self) -> bool:
        """Whether the verdict is about the ratio to the peer."""
        return self.target is not None and self.target.of_ratio

    @property
    def target_text(self) -> str:
        """The bound as people read it; empty without one."""
        return "" if self.target is None else self.target.text(self.unit)

    def cells(self) -> tuple[str, ...]:
        """The row as the table prints it."""
        peer = self.peer
        if peer:
            peer += " —" if self.peer_value is None else f" {number(self.peer_value)}"
        return (
            self.scenario,
            self.what,
            f"{number(self.value)} {self.unit}".rstrip(),
            peer,
            "" if self.ratio is None else f"{number(self.ratio)} x",
            self.target_text,
            {True: "yes", False: "NO", None: "" if self.target is None else "?"}[self.met],
            self.note,
        )


HEADINGS = ("#", "what", "measured", "against", "ratio", "target", "met", "note")
_RIGHT = {2, 3, 4}


def number(value: float) -> str:
    """Three figures that matter, thousands told apart: 0.0123, 4.56, 78.9, 123,456."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}".removesuffix(".0")
    if abs(value) >= 1:
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """The rows in columns as wide as they need, a rule below the headings."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    printed = [
        "  ".join(
            cell.rjust(width) if column in _RIGHT else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    printed.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(printed)


def as_json(row: Row) -> dict[str, object]:
    """The row for the results file, verdict and ratio included."""
    target = row.target
    return {
        "scenario": row.scenario,
        "what": row.what,
        "value": row.value,
        "unit": row.unit,
        "peer": row.peer or None,
        "peer_value": row.peer_value,
        "ratio": row.ratio,
        "target": target and {"bound": target.bound, "value": target.value, "of_ratio": target.of_ratio},
        "met": row.met,
        "note": row.note or None,
    }
