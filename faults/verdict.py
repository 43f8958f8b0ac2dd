"""What the checker says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What can be wrong."""

    LOST = "lost"
    """Acknowledged or owed, and not there; or there as something else."""
    DOUBLED = "doubled"
    """There twice, or there though nobody sent it."""
    REORDERED = "reordered"
    """Against the order of the log, or a hole in the numbers."""
    LEAKED = "leaked"
    """Given, readable or writable for who may not."""
    RESYNC = "resync"
    """Told to begin anew where nothing was missing."""
    FAILED = "failed"
    """Answered with an error that says nothing of when to try again, by a server that should never give one."""
    VOID = "void"
    """Nothing happened, so nothing is proved."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong, in words that name who and what."""

    kind: Kind
    words: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Figures and violations of one history. `received` counts events; `unacknowledged` ones may be stored or not."""

    sent: int
    acknowledged: int
    received: int
    violations: Sequence[Violation]

    @property
    def holds(self) -> bool:
        return not self.violations

    @property
    def unacknowledged(self) -> int:
        return self.sent - self.acknowledged

    def count(self, kind: Kind) -> int:
        """How many violations of one kind."""
        return self.counts[kind]

    @property
    def counts(self) -> Counter[Kind]:
        return Counter(violation.kind for violation in self.violations)
