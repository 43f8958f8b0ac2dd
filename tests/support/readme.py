"""The tour in README.md as what it is made of: blocks to run, and what they are said to print."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.support.command import ROOT

TOUR = "## A five-minute tour"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """``kind``: ``sh``, ``js`` or ``text``. A ``text`` says what the block before it prints."""

    kind: str
    text: str


def tour() -> list[Block]:
    """The blocks of the tour, in order."""
    _, _, rest = (ROOT / "README.md").read_text().partition(f"\n{TOUR}\n")
    assert rest, f"README.md has no heading {TOUR!r}"
    part, _, _ = rest.partition("\n## ")
    return [Block(kind, text) for kind, text in _BLOCK.findall(part)]


def missing_lines(promised: str, printed: str) -> list[str]:
    """The promised lines that were not printed, in this order. ``…`` stands for anything."""
    printed_lines = iter(printed.splitlines())
    return [line for line in promised.splitlines() if not any(_fits(line, other) for other in printed_lines)]


def _fits(promised: str, printed: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, promised.split("…"))), printed) is not None
