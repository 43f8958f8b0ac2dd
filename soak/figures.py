"""Which figures are judged, by which rule, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.report import number
from soak.sampling import Sample, series
from soak.stage import RING_EVENTS
from soak.tally import Tally
from soak.verdict import Allowance, Verdict, judge_bound, judge_rest, judge_trend

WARM = 1 / 3  # of the samples: until every bounded thing has reached its bound
SHORT_SECONDS = 240.0  # a judged part shorter than this is all warm-up for memory

_MEMORY = Allowance(0.03, 2.0)
_COUNT = Allowance(
    0.50, 30.0
)  # who happens to be there, and how far a busy machine gets behind; rest is the sharp rule
_FEW = Allowance(0.10, 2.0)
_TRENDS = (
    ("memory", "MiB", _MEMORY),
    ("PostgreSQL memory", "MiB", Allowance(0.05, 4.0)),
    ("Redis memory", "MiB", Allowance(0.05, 0.5)),
    ("tasks", "", _COUNT),
    ("open files", "", _COUNT),
    ("sessions", "", _COUNT),
    ("PostgreSQL connections", "", _FEW),
    ("Redis connections", "", _FEW),
    ("log marks", "", _FEW),
    ("membership windows", "", Allowance(0.10, 20.0)),
)
_BOUNDS = (
    (
        "cached ring",
        "",
        RING_EVENTS + 1,
    ),  # counted from another thread, one is put in before one is taken out
    ("cached sign-ins", "", 50_000),
    ("cached tokens", "", 40_000),
    ("log rows past retention", "", 0),
)
_AT_REST = (
    ("sessions", 0.0),
    ("tasks", 0.0),
    ("open files beside PostgreSQL's and Redis's", 0.0),
)
_KINDS = (
    "message.send", "message.edit", "message.delete", "reaction.add", "reaction.remove", "conversation.read",
    "conversation.delivered", "typing.start", "typing.stop", "presence.subscribe", "presence.unsubscribe", "ack",
    "auth.refresh", "send", "send again", "edit", "delete", "react", "unreact", "read", "delivered", "typing", "look",
    "profile", "ticket", "take in", "take out", "poll", "refresh", "sign in", "sign out", "by websocket", "by stream",
    "by polls", "by not listening", "received events", "received hello",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """What a soak found. `before` and `after` are with everybody gone."""

    samples: list[Sample]
    before: Sample
    after: Sample
    tally: Tally


def _named(run: Run, prefix: str) -> list[str]:
    return [name for name in run.before.figures if name == prefix or name.startswith(f"{prefix}, ")]


def judge(run: Run) -> list[Verdict]:
    """One verdict a figure and rule."""
    return [*_trends(run), *_bounds(run), *_rests(run)]


def _trends(run: Run) -> Iterator[Verdict]:
    warm = run.samples[int(len(run.samples) * WARM) :]
    short = not warm or warm[-1].at - warm[0].at < SHORT_SECONDS
    for prefix, unit, allowance in _TRENDS:
        for name in _named(run, prefix):
            times, values = series(warm, name)
            yield judge_trend(name, unit, times, values, allowance, judged=not short)


def _bounds(run: Run) -> Iterator[Verdict]:
    for prefix, unit, bound in _BOUNDS:
        for name in _named(run, prefix):
            yield judge_bound(name, unit, series([*run.samples, run.after], name)[1], bound)


def _rests(run: Run) -> Iterator[Verdict]:
    for prefix, allowed in _AT_REST:
        for name in _named(run, prefix):
            yield judge_rest(name, "", run.before.figures[name], run.after.figures[name], allowed)


def missing(run: Run) -> list[str]:
    """Kinds of operations that never happened: nothing was found out about them."""
    return [kind for kind in _KINDS if not run.tally.done[kind]]


_HEADINGS = ("figure", "rule", "begin", "end", "growth", "allowed", "an hour", "flat")


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts in columns."""
    lines = [_HEADINGS, *(_cells(verdict) for verdict in verdicts)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    printed = [
        "  ".join(
            cell.rjust(width) if 2 <= column <= 6 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    printed.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(printed)


def _cells(verdict: Verdict) -> tuple[str, ...]:
    def text(value: float) -> str:
        return f"{number(value)} {verdict.unit}".rstrip()

    trend = verdict.rule == "trend"
    return (
        verdict.figure,
        verdict.rule,
        text(verdict.begin),
        text(verdict.end),
        text(verdict.growth),
        text(verdict.allowed),
        text(verdict.growth_an_hour) if trend else "",
        {True: "yes", False: "NO", None: "too short"}[verdict.flat],
    )
