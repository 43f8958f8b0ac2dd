"""What is seen of the stage: one function a panel, from the stage to something rich can draw."""

from __future__ import annotations

import time

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.drawing import Bars, Tail
from demo.instances import Instance, State
from demo.people import Person
from demo.stage import Stage, Tone, span
from demo.transcript import Line

COLORS = ("cyan", "magenta", "yellow", "green", "bright_blue", "orange3")
"""One for each person, in the order of the cast."""
TONES = {Tone.PLAIN: "", Tone.FAULT: "bold red", Tone.GOOD: "green"}
STATES = {
    State.DOWN: "dim",
    State.STARTING: "yellow",
    State.READY: "green",
    State.DEGRADED: "yellow",
    State.KILLED: "bold red",
}
CHIP = 9  # columns for one counted number
INTRODUCTION = """\
Two instances of Parley start on one data directory, with PostgreSQL and Redis beside them.

Six people talk, on WebSocket, SSE and long poll. Then everybody counts, while things are killed.

At the end: who missed what? Ctrl-C stops it all."""
SPAN_SECONDS = 0.5
RECENT_SECONDS = 2.0


def header(stage: Stage) -> RenderableType:
    row = Table.grid(expand=True, padding=(0, 1))
    row.add_column(ratio=1, no_wrap=True)
    row.add_column(justify="right")
    minutes, seconds = divmod(int(stage.elapsed), 60)
    faults = (beat for beat in stage.story if beat.tone is Tone.FAULT)
    is_fresh = any(stage.elapsed - beat.at < 2 * RECENT_SECONDS for beat in faults)
    act = (stage.act, "bold red" if is_fresh else "bold")
    row.add_row(Text.assemble(("Parley ", "bold"), "· ", act), f"{minutes:02}:{seconds:02}")
    return row


def conversation(stage: Stage) -> RenderableType:
    """As the viewer has it: from what that one client was sent."""
    viewer = stage.viewer
    if not stage.conversation:
        return Panel(Text(INTRODUCTION), border_style="blue")
    where = str(viewer.seat) if viewer.is_connected else "cut off"
    title = f"what {viewer.name} sees · {where}"
    style = ("yellow" if _just_moved(viewer) else "blue") if viewer.is_connected else "bold red"
    spoken = [line for line in stage.transcript.tail(400) if not is_counted(stage, line)]
    parts: list[RenderableType] = [_dialogue(stage, spoken[-30:])]
    if stage.transcript.typing and not stage.counting_from:
        names = " and ".join(stage.transcript.typing)
        parts.append(
            Text(f"{names} {'is' if len(stage.transcript.typing) == 1 else 'are'} typing …", "dim italic")
        )
    if stage.counting_from:
        parts.append(_Numbers(stage))
    return Panel(Tail(Group(*parts)), title=title, title_align="left", border_style=style)


def is_counted(stage: Stage, line: Line) -> bool:
    return 0 < stage.counting_from <= line.seq


def _dialogue(stage: Stage, lines: list[Line]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(ratio=1)
    for line in lines:
        table.add_row(
            Text(line.sender, color_of(stage, line.sender)), _place(stage, line), _said(stage, line)
        )
    return table


def _place(stage: Stage, line: Line) -> str:
    entry = stage.ledger.entries.get(line.client_id)
    return entry.place if entry else ""


def _said(stage: Stage, line: Line) -> Text:
    if line.body is None:
        return Text("deleted", "dim italic strike")
    text = Text(line.body)
    if line.is_edited:
        text.append(" (edited)", "dim")
    for emoji in line.reactions:
        text.append(f" {emoji}")
    others = len(stage.people) - 1
    if len(line.readers) >= others:
        text.append(" ✓✓", "green")
    elif line.readers:
        text.append(f" ✓ {len(line.readers)}/{others}", "dim")
    return text


class _Numbers:
    """The counted numbers, in the order of the conversation; a number keeps its column while the rows move up."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        stage, across = self._stage, max(1, options.max_width // CHIP)
        row = Text()
        for line in self._shown(across * options.max_height):
            name = f"{line.sender:<4}"
            row.append(f"{name} ", color_of(stage, line.sender))
            row.append(f"{line.body or '':<{CHIP - len(name) - 1}}")
            if (line.seq - stage.counting_from) % across == across - 1:
                yield row
                row = Text()
        yield row

    def _shown(self, count: int) -> list[Line]:
        return [line for line in self._stage.transcript.tail(count) if is_counted(self._stage, line)]


def story(stage: Stage) -> RenderableType:
    """What happened, newest last."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, style="dim", justify="right")
    table.add_column(ratio=1)
    for beat in stage.story[-20:]:
        table.add_row(f"{beat.at:.0f}", Text(beat.text, TONES[beat.tone]))
    return Panel(Tail(table), title="what happens", title_align="left", border_style="blue")


def instances(stage: Stage) -> RenderableType:
    """The instances as they say they are, and Redis as it answers."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(ratio=1, no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    for instance in stage.fleet.instances:
        state = Text(instance.state, STATES[instance.state])
        port = f":{instance.port}" if instance.port else ""
        table.add_row(Text(instance.name, "bold"), port, state, f"{_seated(stage, instance)} here")
    up = Text("up", "green") if stage.redis.is_up else Text("down", "bold red" if stage.redis.pid else "dim")
    table.add_row(Text("Redis", "bold"), "", up, "")
    return Panel(table, title="instances", title_align="left", border_style="blue")


def _seated(stage: Stage, instance: Instance) -> int:
    return sum(person.is_connected and person.seat.instance is instance for person in stage.people.values())


def people(stage: Stage) -> RenderableType:
    """Where everybody reads, up to which message, and how far that is behind."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, ratio=1)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right", min_width=3)
    for person in stage.people.values():
        behind = stage.ledger.head - person.inbox.last_seq
        table.add_row(
            Text(person.name, color_of(stage, person.name)),
            *_seat(person),
            f"#{person.inbox.last_seq}",
            Text(f"-{behind}", "yellow") if behind else Text("✓", "green"),
        )
    return Panel(table, title="people", title_align="left", border_style="blue")


def _seat(person: Person) -> tuple[Text, Text]:
    """Lit up for a moment after a move."""
    style = "bold black on yellow" if _just_moved(person) else ""
    if not person.is_connected:
        style = "bold white on red" if person.moves else "dim"
    # Styled as a part of the text: a text's own style would fill the whole column.
    return (
        Text.assemble((str(person.seat.transport), style)),
        Text.assemble((person.seat.instance.name, style)),
    )


def _just_moved(person: Person) -> bool:
    return bool(person.moves) and time.monotonic() - person.moves[-1].left < RECENT_SECONDS


def counters(stage: Stage) -> RenderableType:
    """What was counted so far. Delays are of the last seconds."""
    ledger = stage.ledger
    recent = ledger.delays(time.monotonic() - RECENT_SECONDS)
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, justify="right", no_wrap=True)
    table.add_row("acknowledged", f"{ledger.acknowledged:,}")
    table.add_row("received", f"{ledger.delivered:,}")
    table.add_row("received/s", f"{sum(ledger.rates(SPAN_SECONDS, 2)) / 2:.0f}")
    table.add_row("sent again", f"{ledger.retries}")
    delay = f"{span(recent.median)}, max {span(recent.worst)}" if recent.count else "-"
    table.add_row("delay", delay)
    bars = Bars(lambda count: ledger.rates(SPAN_SECONDS, count), 3, "cyan")
    return Panel(Group(table, bars), title="counters", title_align="left", border_style="blue")


def color_of(stage: Stage, name: str) -> str:
    names = list(stage.people)
    return COLORS[names.index(name) % len(COLORS)] if name in names else ""
