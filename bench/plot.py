"""The run as one picture: each figure with a verdict, as a share of what its target allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.report import Row, number

_GOOD, _BAD = "#2a7f62", "#b5402f"


def share_of_target(row: Row) -> float | None:
    """1.0 where the target is just met, more where it is beaten; None where there is no verdict."""
    if row.target is None:
        return None
    judged = row.ratio if row.target.of_ratio else row.value
    if not judged:
        return None
    return judged / row.target.value if row.target.bound == "at least" else row.target.value / judged


def draw(rows: Sequence[Row], title: str, path: Path) -> bool:
    """Write the picture to `path`; False, and nothing written, where matplotlib is not installed."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return False
    mpl.use("Agg")
    judged = [(row, share) for row in rows if (share := share_of_target(row)) is not None]
    figure = Figure(figsize=(10, 1.4 + 0.42 * len(judged)), layout="constrained")
    axes = figure.subplots()
    names = [
        f"{row.scenario}  {row.what}" + (f" (vs {row.peer})" if row.target_of_peer else "")
        for row, _ in judged
    ]
    places = list(range(len(judged)))
    axes.barh(places, [share for _, share in judged], color=[_GOOD if row.met else _BAD for row, _ in judged])
    axes.axvline(1.0, color="black", linewidth=1.2)
    for place, (row, share) in zip(places, judged, strict=True):
        axes.annotate(
            f" {number(row.value)} {row.unit}  ({row.target_text})",
            (share, place),
            va="center",
            fontsize=8,
            backgroundcolor="#ffffffc0",
        )
    axes.set_yticks(places, names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.35)
    axes.set_xlabel("times better than the target (1 = just met)")
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=130)
    return True
