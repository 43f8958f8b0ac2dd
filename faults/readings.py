"""What members, and those who were members, could read by REST while memberships changed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from faults.facts import Facts
from faults.history import Membership, Reading, Step
from faults.verdict import Kind, Violation
from faults.windows import Window, Windows

_AWAY = 500  # this status and above say nothing of who may


def check_readings(facts: Facts, windows: Windows) -> Iterator[Violation]:
    """Judges a reading where no change of that membership was under way; else only what is true on both sides."""
    memberships = {(each.user, each.conversation): each for each in facts.history.memberships}
    for reading in facts.history.readings:
        if reading.status >= _AWAY:
            continue
        stay = _stay(memberships.get((reading.user, reading.conversation)), reading)
        what = f"{reading.user} reading {reading.conversation} at {reading.instance}"
        if stay is None:
            continue
        if stay < 0:
            if reading.status < 300:
                yield Violation(Kind.LEAKED, f"{what} got an answer without being a member")
        elif reading.status >= 300:
            yield Violation(Kind.LOST, f"{what} was refused with {reading.status} though a member")
        else:
            window = windows.stays[reading.user, reading.conversation][stay // 2]
            yield from _check_seqs(facts, reading, window, what)


def _stay(membership: Membership | None, reading: Reading) -> int | None:
    """The index of the joining that holds all through the reading; -1: surely none; None: nobody can say."""
    if membership is None:
        return -1
    latest = -1
    for at, change in enumerate(membership.changes):
        if change.acked_at is not None and change.acked_at < reading.began:
            latest = at
        elif change.began <= reading.ended:
            return None
    return latest if latest >= 0 and membership.changes[latest].step is Step.JOINED else -1


def _check_seqs(facts: Facts, reading: Reading, window: Window, what: str) -> Iterator[Violation]:
    whole = reading.conversation in facts.history.readable_from_the_start
    first_low, first_high = (0.0, 0.0) if whole else (window.joined.low, window.joined.high)
    for before, after in pairwise(reading.seqs):
        if after != before + 1:
            yield Violation(Kind.LOST, f"{what} got #{after} right after #{before}")
    if reading.seqs and reading.seqs[0] <= max(first_low, reading.after):
        yield Violation(Kind.LEAKED, f"{what} got #{reading.seqs[0]}, from before it joined")
    got = set(reading.seqs)
    last = reading.seqs[-1] if len(reading.seqs) >= reading.limit else float("inf")
    for seq in facts.messages.get(reading.conversation, {}):
        known = facts.known_at((reading.conversation, seq)) < reading.began
        if known and max(first_high, reading.after) < seq <= last and seq not in got:
            yield Violation(Kind.LOST, f"{what} did not get #{seq}, which was acknowledged before")
