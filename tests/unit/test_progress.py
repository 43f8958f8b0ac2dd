"""Progress is a bar where somebody watches, and a line now and then where nobody does."""

from __future__ import annotations

import io

from server.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_terminal_gets_one_bar_that_is_drawn_over_itself() -> None:
    clock, terminal = Clock(), Terminal()
    bar = ProgressBar(terminal, clock)
    bar.show("log", 0, 1000)
    for done in range(1, 10):
        clock.now += 0.01
        bar.show("log", done, 1000)
    assert terminal.getvalue().count("\r") == 1, "not more often than anybody can see"
    clock.now += 9.91
    bar.show("log", 250, 1000)
    drawn = terminal.getvalue().split("\r")[-1]
    assert "██████░" in drawn
    assert " 25 %  250 of 1,000 rows  25/s  0:30 left  log" in drawn
    bar.end()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert "\n" not in terminal.getvalue()


def test_anything_else_gets_whole_lines_seconds_apart() -> None:
    clock, stream = Clock(), io.StringIO()
    bar = ProgressBar(stream, clock)
    for second in range(21):
        clock.now = 100.0 + second
        bar.show("log", 100 * second, 4000)
    bar.end()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "0 of 4,000 rows  log"
    assert lines[-1] == "2,000 of 4,000 rows  100/s  0:20 left  log"
    assert len(lines) == 5
