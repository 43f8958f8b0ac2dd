"""Two ways to watch: panels that move on a terminal, and plain lines everywhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.layout import Layout
from rich.live import Live

from demo import panels
from demo.stage import Stage
from demo.transcript import Change

FRAMES_A_SECOND = 10
LEAST_WIDTH, LEAST_HEIGHT = 76, 22
WIDE, TALL = 100, 34
"""From here on there is room for more: a broader right side, and the story below it."""
COUNT_LINE_SECONDS = 1.0


class View(Protocol):
    async def run(self) -> None:
        """Shows the stage until cancelled."""


def fitting_view(console: Console, stage: Stage, environment: Mapping[str, str], *, plain: bool) -> View:
    """Panels where the terminal has them: enough room, no NO_COLOR, and nobody asked for plain lines."""
    roomy = console.width >= LEAST_WIDTH and console.height >= LEAST_HEIGHT
    fancy = console.is_terminal and not console.is_dumb_terminal and roomy and not environment.get("NO_COLOR")
    return LiveView(console, stage) if fancy and not plain else PlainView(console, stage)


class LiveView:
    """Panels on the terminal's other screen, drawn anew ten times a second."""

    def __init__(self, console: Console, stage: Stage) -> None:
        self._console = console
        self._stage = stage

    async def run(self) -> None:
        with Live(console=self._console, screen=True, auto_refresh=False) as live:
            while True:
                size = self._console.size
                live.update(draw(self._stage, size.width, size.height), refresh=True)
                await asyncio.sleep(1 / FRAMES_A_SECOND)


def draw(stage: Stage, width: int, height: int) -> Layout:
    """The whole screen."""
    is_tall, right_width = height >= TALL, 46 if width >= WIDE else 34
    right = Layout(name="right", size=right_width)
    right.split_column(
        Layout(panels.instances(stage), size=len(stage.fleet.instances) + 3),
        Layout(panels.people(stage), size=len(stage.people) + 2),
        Layout(panels.counters(stage), size=10 if is_tall else None),
        *([Layout(panels.story(stage))] if is_tall else []),
    )
    left = Layout(name="left")
    left.split_column(
        Layout(panels.conversation(stage)),
        *([] if is_tall else [Layout(panels.story(stage), size=9)]),
    )
    body = Layout(name="body")
    body.split_row(left, right)
    whole = Layout()
    whole.split_column(Layout(panels.header(stage), size=1), body)
    return whole


class PlainView:
    """Lines with the time in front: what is said, what happens, and the counters while all count."""

    def __init__(self, console: Console, stage: Stage) -> None:
        self._console = console
        self._stage = stage
        self._changes = 0
        self._beats = 0
        self._act = ""
        self._counted_at = 0.0

    async def run(self) -> None:
        try:
            while True:
                self._show_news()
                await asyncio.sleep(0.05)
        finally:
            self._show_news()

    def _show_news(self) -> None:
        stage = self._stage
        if stage.act != self._act:
            self._act = stage.act
            self._line(stage.elapsed, f"== {stage.act}")
        for change in stage.transcript.changes[self._changes :]:
            self._changes += 1
            if text := told(stage, change):
                self._line(stage.elapsed, text)
        for beat in stage.story[self._beats :]:
            self._beats += 1
            self._line(beat.at, f"-- {beat.text}")
        if stage.counting_from and stage.elapsed - self._counted_at >= COUNT_LINE_SECONDS:
            self._counted_at = stage.elapsed
            self._line(stage.elapsed, count_line(stage))

    def _line(self, at: float, text: str) -> None:
        self._console.print(f"{at:6.1f}  {text}", markup=False, highlight=False, soft_wrap=True)


def told(stage: Stage, change: Change) -> str:
    """A change in one line; empty for a number that is counted."""
    line = change.line
    if line is None:
        return f"{change.who} {change.verb} ..."
    if panels.is_counted(stage, line):
        return ""
    entry = stage.ledger.entries.get(line.client_id)
    place = f" ({entry.place})" if entry else ""
    if change.verb == "says":
        return f"{change.who}{place}: {change.body}"
    if change.verb == "edits":
        return f"{change.who} edits message {line.seq}: {change.body}"
    return f"{change.who} {change.verb} message {line.seq}"


def count_line(stage: Stage) -> str:
    """Where everybody is."""
    ledger = stage.ledger
    where = "  ".join(
        f"{person.name} {person.seat if person.is_connected else 'cut off'} #{person.inbox.last_seq}"
        for person in stage.people.values()
    )
    return f"{ledger.acknowledged} acknowledged, {ledger.delivered} received | {where}"
