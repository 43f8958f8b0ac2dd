"""The run as one picture: each kind of figure over time, the warm-up shaded."""

from __future__ import annotations

from pathlib import Path

from soak.figures import WARM, Run
from soak.sampling import series

_PANELS = (
    ("memory (MiB)", "memory"),
    ("asyncio tasks", "tasks"),
    ("open files", "open files, "),
    ("sessions", "sessions"),
    ("connections", " connections"),
    ("PostgreSQL and Redis memory (MiB)", "S memory"),
    ("log rows", "log rows"),
    ("kept in memory", "cached"),
)


def _belongs(name: str, panel: str) -> bool:
    if panel == "S memory":
        return name in {"PostgreSQL memory", "Redis memory"}
    return name.endswith(panel) if panel.startswith(" ") else name.startswith(panel)


def draw(run: Run, title: str, path: Path) -> bool:
    """Write the picture to `path`; False, and nothing written, where matplotlib is not installed."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        return False
    mpl.use("Agg")
    figure = Figure(figsize=(11, 13), layout="constrained")
    axes = figure.subplots(len(_PANELS) // 2, 2).flat
    for axis, (heading, panel) in zip(axes, _PANELS, strict=True):
        for name in run.before.figures:
            if _belongs(name, panel):
                axis.plot(*series(run.samples, name), linewidth=0.9, label=name)
        if run.samples:
            first, last = run.samples[0].at, run.samples[-1].at
            axis.axvspan(first, first + (last - first) * WARM, color="#00000010")
        axis.set_title(heading, fontsize=9)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=7)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    return True
