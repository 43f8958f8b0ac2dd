"""Which messages of a conversation are whose: from acknowledged changes, the clock, and what others were told.

A change of membership takes effect at one place between two messages. Where it is has two bounds from outside:
a message that was known before the change began lies before it, and one that began after the change was acknowledged
lies after it. Members who stay all the time are told of the change in the order of the log, which gives the place
exactly; it has to lie within the bounds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from faults.facts import CREATED, Facts, created
from faults.history import Change, Membership, Receiver, Step
from faults.verdict import Kind, Violation

ALWAYS = float("inf")
CHANGES = {"member.added": Step.JOINED, "member.removed": Step.LEFT}


@dataclass(frozen=True, slots=True)
class Boundary:
    """A change takes effect after a message that is `low` at least and `high` at most; infinite: never, so far."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Window:
    """One stay."""

    joined: Boundary
    left: Boundary

    def surely_holds(self, seq: int) -> bool:
        """Whether it was a message for this member wherever within the bounds the changes took effect."""
        return self.joined.high < seq <= self.left.low

    def may_hold(self, seq: int) -> bool:
        """Whether it can have been."""
        return self.joined.low < seq <= self.left.high


@dataclass(frozen=True, slots=True)
class Windows:
    """The stays of everyone everywhere, by user and conversation."""

    stays: Mapping[tuple[str, str], Sequence[Window]]

    def surely_holds(self, user: str, conversation: str, seq: int) -> bool:
        return any(window.surely_holds(seq) for window in self.stays.get((user, conversation), ()))

    def may_hold(self, user: str, conversation: str, seq: int) -> bool:
        return any(window.may_hold(seq) for window in self.stays.get((user, conversation), ()))

    def of(self, user: str) -> Iterator[tuple[str, Sequence[Window]]]:
        """Each conversation the user was ever in."""
        for (member, conversation), stays in self.stays.items():
            if member == user:
                yield conversation, stays


def stayers(facts: Facts) -> dict[str, list[Receiver]]:
    """By conversation, the receivers whose users were members before they began, and all the time since."""
    whole = {
        (each.user, each.conversation): each.changes[0].acked_at
        for each in facts.history.memberships
        if len(each.changes) == 1
    }
    found: dict[str, list[Receiver]] = defaultdict(list)
    for receiver in facts.history.receivers:
        for (user, conversation), acked_at in whole.items():
            if user == receiver.user and acked_at is not None and acked_at <= receiver.began:
                found[conversation].append(receiver)
    return found


def find_windows(facts: Facts) -> tuple[Windows, list[Violation]]:
    """The stays, and every change that did not take effect between its beginning and its acknowledgement."""
    clocks = {conversation: _Clock(facts, conversation) for conversation in facts.messages}
    told = _told(facts)
    stays: dict[tuple[str, str], Sequence[Window]] = {}
    violations: list[Violation] = []
    for membership in facts.history.memberships:
        key = membership.user, membership.conversation
        clock = clocks.get(membership.conversation)
        boundaries = [_boundary(clock, change) for change in membership.changes]
        boundaries = list(_sharpened(membership, boundaries, told.get(key, []), violations))
        stays[key] = list(_pairs(boundaries))
    return Windows(stays), violations


class _Clock:
    """Which messages of one conversation were surely there, and surely not there yet, at a moment."""

    def __init__(self, facts: Facts, conversation: str) -> None:
        places = [(conversation, seq) for seq in facts.messages[conversation]]
        known = sorted((facts.known_at(place), place[1]) for place in places)
        self._known_at = [at for at, _ in known]
        self._highest = list(accumulate((seq for _, seq in known), max))
        begun = sorted((facts.begun_at(place), place[1]) for place in places)
        self._begun_at = [at for at, _ in begun]
        self._lowest = list(accumulate((seq for _, seq in reversed(begun)), min))[::-1]

    def there_before(self, at: float) -> int:
        """The highest message that was known before that moment; 0 where none was."""
        index = bisect_left(self._known_at, at)
        return self._highest[index - 1] if index else 0

    def begun_after(self, at: float) -> float:
        """The lowest message that began after that moment; infinite where none did."""
        index = bisect_right(self._begun_at, at)
        return self._lowest[index] if index < len(self._lowest) else ALWAYS


def _boundary(clock: _Clock | None, change: Change) -> Boundary:
    if clock is None:
        return Boundary(0, 0)
    low = clock.there_before(change.began)
    if change.acked_at is None:
        return Boundary(low, ALWAYS)
    return Boundary(low, clock.begun_after(change.acked_at) - 1)


def _pairs(boundaries: Sequence[Boundary]) -> Iterator[Window]:
    never = Boundary(ALWAYS, ALWAYS)
    for at in range(0, len(boundaries), 2):
        yield Window(boundaries[at], boundaries[at + 1] if at + 1 < len(boundaries) else never)


def _told(facts: Facts) -> dict[tuple[str, str], list[list[tuple[Step, int | None, float]]]]:
    """By user and conversation: what each stayer was told of that membership, with the message before it.

    The third is when that stayer began: changes before it were not told to it.
    """
    told: dict[tuple[str, str], list[list[tuple[Step, int | None, float]]]] = defaultdict(list)
    for conversation, receivers in stayers(facts).items():
        for receiver in receivers:
            latest: int | None = None
            found: dict[str, list[tuple[Step, int | None, float]]] = defaultdict(list)
            for receipt in facts.about.get((receiver.name, conversation), ()):
                if receipt.type == CREATED and receipt.seq is not None:
                    latest = receipt.seq
                elif receipt.topic == "conversation" and receipt.type in CHANGES and receipt.user:
                    before = _before_first(facts, receiver, conversation) if latest is None else latest
                    found[receipt.user].append((CHANGES[receipt.type], before, receiver.began))
            for user, steps in found.items():
                told[user, conversation].append(steps)
    return told


def _before_first(facts: Facts, receiver: Receiver, conversation: str) -> int | None:
    """What a stayer knows that was told of a change before it was given any message: none came before the first."""
    first = next((seq for (_, seq), _ in created(facts.about[receiver.name, conversation])), None)
    return 0 if first == 1 else None


def _sharpened(
    membership: Membership,
    boundaries: Sequence[Boundary],
    told: Sequence[Sequence[tuple[Step, int | None, float]]],
    violations: list[Violation],
) -> Iterator[Boundary]:
    """The same boundaries, exact where a stayer was told of all the changes since it began."""
    exact: dict[int, int] = {}
    for steps in told:
        began = steps[0][2]
        later = [at for at, change in enumerate(membership.changes) if change.began > began]
        if [membership.changes[at].step for at in later] == [step for step, _, _ in steps]:
            exact |= {at: seq for at, (_, seq, _) in zip(later, steps, strict=True) if seq is not None}
    for at, boundary in enumerate(boundaries):
        seq = exact.get(at)
        if seq is None:
            yield boundary
        elif boundary.low <= seq <= boundary.high:
            yield Boundary(seq, seq)
        else:
            change = membership.changes[at]
            violations.append(
                Violation(
                    Kind.REORDERED,
                    f"{membership.user} {change.step} {membership.conversation} after message {seq}, but by the clock "
                    f"not before {boundary.low:g} and not after {boundary.high:g}",
                )
            )
            yield boundary
