"""How far a long command is: a bar in a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

BAR = 24
BAR_SECONDS, LINE_SECONDS = 0.2, 5.0


class ProgressBar:
    """Call :meth:`show` as often as you like, and :meth:`end` before anything else is written to ``stream``."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._terminal = stream.isatty()
        self._began = clock()
        self._shown = -LINE_SECONDS
        self._what = ""

    def show(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` rows are through, and now it is ``what``."""
        now = self._clock()
        every = BAR_SECONDS if self._terminal else LINE_SECONDS
        if now - self._shown < every and (what == self._what or not self._terminal):
            return
        self._shown, self._what = now, what
        rate = done / max(now - self._began, 1e-9)
        text = f"{done:,} of {total:,} rows"
        if done:
            left = int((total - done) / rate)
            text += f"  {rate:,.0f}/s  {left // 60}:{left % 60:02d} left"
        if self._terminal:
            filled = BAR * done // total
            self._stream.write(
                f"\r\x1b[K{'█' * filled}{'░' * (BAR - filled)} {done * 100 // total:3} %  {text}  {what}"
            )
        else:
            self._stream.write(f"{text}  {what}\n")
        self._stream.flush()

    def end(self) -> None:
        """Takes the bar away."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
