"""What the traffic did, and what it met that should not have been."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

_KEPT = 20  # wrongs told in words; all are counted


@dataclass(slots=True)
class Tally:
    """Counts by name. `wrongs` are what no server should do; each makes the run fail."""

    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    def answered(self, what: str, status: int, text: str) -> None:
        """An answer: done, refused as may be (gone meanwhile, too slow, starved), or wrong."""
        if status < 300:
            self.done[what] += 1
        elif status in _MAY_BE:
            self.refused[f"{what} {status}"] += 1
        else:
            self.went_wrong(f"{what} {status}", text)

    def went_wrong(self, what: str, text: str) -> None:
        self.wrong[what] += 1
        if len(self.told) < _KEPT:
            self.told.append(f"{what}: {text[:300]}")

    @property
    def operations(self) -> int:
        return self.done.total()


# 401: the token ended; 403, 404, 409: the membership or the message went meanwhile; 429: more connections than a user
# may have, where the server has not seen yet that some are gone; 503: the machine is too busy, try later.
_MAY_BE = frozenset({401, 403, 404, 409, 429, 503})
