"""Small things to draw with: the end of something too long, and a row of bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

BARS = " ▁▂▃▄▅▆▇█"


class Tail:
    """Shows the last lines of something where not all of it fits."""

    def __init__(self, whole: RenderableType) -> None:
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or options.max_height
        for line in console.render_lines(self._whole, options.update(height=None))[-height:]:
            yield from line
            yield Segment.line()


class Bars:
    """A diagram of so many rows; `values` is asked for as many values as fit, oldest first."""

    def __init__(self, values: Callable[[int], Sequence[float]], rows: int, style: str) -> None:
        self._values = values
        self._rows = rows
        self._style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        values = self._values(options.max_width)
        for line in bar_lines(values, self._rows):
            yield Text(line, style=self._style, no_wrap=True)


def bar_lines(values: Sequence[float], rows: int) -> list[str]:
    """The diagram from top to bottom; its highest bar reaches the top."""
    highest, steps = max(values, default=0.0), len(BARS) - 1
    if highest <= 0:
        return [" " * len(values)] * rows
    heights = [round(value / highest * rows * steps) for value in values]
    return [
        "".join(BARS[min(steps, max(0, height - below * steps))] for height in heights)
        for below in reversed(range(rows))
    ]
