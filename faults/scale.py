"""How large a run is: the one that is published, or the few seconds of it that run in the suite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scale:
    """Who takes part, how much they say, and whether scenarios do all they do or a little of it."""

    full: bool
    senders: int
    receivers: int
    rate: float
    """Messages a second, all senders together."""
    catch_up: float
    """Seconds after which a receiver that has not caught up counts as one that never will."""

    def of(self, full: T, short: T) -> T:
        """What this run takes of the two: `scale.of(10, short=2)` kills."""
        return full if self.full else short


FULL = Scale(full=True, senders=50, receivers=200, rate=50.0, catch_up=60.0)
SHORT = Scale(full=False, senders=4, receivers=9, rate=40.0, catch_up=20.0)
