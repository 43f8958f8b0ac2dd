"""What was found: a row a fault, violations in words, and the same for machines."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from faults.verdict import Kind, Verdict

MOST_WORDS = 8
"""Violations printed of one fault; the file has more."""
MOST_KEPT = 200
_COLUMNS = "{:<4} {:<38} {:>7} {:>7} {:>9} {:>5} {:>7} {:>9} {:>6} {:>5} {:>9}  {}"
_COUNTED = (Kind.LOST, Kind.DOUBLED, Kind.REORDERED, Kind.LEAKED)


@dataclass(frozen=True, slots=True)
class Row:
    """One fault. `other` counts what is wrong and in no other column. `caught_up`: seconds; None: they never did."""

    fault: str
    title: str
    seed: int
    sent: int
    acknowledged: int
    received: int
    lost: int
    doubled: int
    reordered: int
    leaked: int
    other: int
    caught_up: float | None
    seconds: float
    violations: Sequence[str]
    notes: Sequence[str] = ()
    not_run: str = ""
    """Why the machine does not permit this fault; then nothing else of the row says anything."""

    @property
    def holds(self) -> bool:
        return not self.violations and self.caught_up is not None and not self.not_run

    @property
    def verdict(self) -> str:
        return "not run" if self.not_run else "holds" if self.holds else "BROKEN"


def row_of(
    fault: str,
    title: str,
    seed: int,
    verdict: Verdict,
    complaints: Sequence[str],
    caught_up: float | None,
    seconds: float,
    notes: Sequence[str],
    not_run: str = "",
) -> Row:
    """What the checker says, and what was noticed besides."""
    words = [str(violation) for violation in verdict.violations]
    return Row(
        fault=fault,
        title=title,
        seed=seed,
        sent=verdict.sent,
        acknowledged=verdict.acknowledged,
        received=verdict.received,
        lost=verdict.count(Kind.LOST),
        doubled=verdict.count(Kind.DOUBLED),
        reordered=verdict.count(Kind.REORDERED),
        leaked=verdict.count(Kind.LEAKED),
        other=len(complaints) + sum(verdict.count(kind) for kind in Kind if kind not in _COUNTED),
        caught_up=caught_up,
        seconds=seconds,
        violations=[*complaints, *words][:MOST_KEPT],
        notes=list(notes),
        not_run=not_run,
    )


def heading() -> str:
    """Above the rows."""
    return _COLUMNS.format(
        "",
        "fault",
        "sent",
        "acked",
        "received",
        "lost",
        "doubled",
        "reordered",
        "leaked",
        "other",
        "caught up",
        "verdict",
    )


def line_of(row: Row) -> str:
    """A row in one line."""
    return _COLUMNS.format(
        row.fault,
        row.title,
        row.sent,
        row.acknowledged,
        row.received,
        row.lost,
        row.doubled,
        row.reordered,
        row.leaked,
        row.other,
        "never" if row.caught_up is None else f"{row.caught_up:.1f} s",
        row.verdict,
    )


def words_of(row: Row) -> list[str]:
    """What is wrong, in words, and how to see it again."""
    if row.not_run:
        return [f"{row.fault} was not run: {row.not_run}"]
    if row.holds:
        return []
    more = len(row.violations) - MOST_WORDS
    return [
        f"{row.fault} is broken, with --only {row.fault} --seed {row.seed}:",
        *(f"  {words}" for words in row.violations[:MOST_WORDS]),
        *([f"  and {more} more"] if more > 0 else []),
    ]


def write(path: Path, rows: Sequence[Row], *, full: bool) -> None:
    """For machines, and for docs/faults.md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "full": full,
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "holds": all(row.holds or row.not_run for row in rows),
        "rows": [asdict(row) | {"holds": row.holds} for row in rows],
    }
    path.write_text(json.dumps(found, indent=1) + "\n")


def table_of(path: Path) -> str:
    """The rows of a file that :func:`write` made, as docs/faults.md shows them."""
    found = json.loads(path.read_text())
    counted = ("sent", "acknowledged", "received", "lost", "doubled", "reordered", "leaked", "other")
    lines = [
        "| | fault | " + " | ".join(counted) + " | caught up in | verdict |",
        "| --- | --- |" + " ---: |" * (len(counted) + 1) + " --- |",
    ]
    for row in found["rows"]:
        figures = " | ".join(f"{row[name]:,}" for name in counted)
        late = "never" if row["caught_up"] is None else f"{row['caught_up']:.1f} s"
        verdict = "not run" if row["not_run"] else "holds" if row["holds"] else "**broken**"
        lines.append(f"| {row['fault']} | {row['title']} | {figures} | {late} | {verdict} |")
    seconds = sum(row["seconds"] for row in found["rows"])
    seeds = ", ".join(sorted({str(row["seed"]) for row in found["rows"]}))
    about = f"{found['at'][:10]}, {found['machine']}, {found['cores']} cores; seed {seeds}; {seconds / 60:.0f} minutes."
    return "\n".join([*lines, "", about])
