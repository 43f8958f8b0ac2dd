"""The proof: what every receiver was given, against what was acknowledged and what REST says is there. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from demo.inbox import Copy

T = TypeVar("T", Copy, str)


@dataclass(frozen=True, slots=True)
class Sent:
    """A message as its sender knows it. `seq` is 0 where no acknowledgement came."""

    client_id: str
    sender: str
    seq: int


@dataclass(frozen=True, slots=True)
class Given:
    """What one receiver was given, in order, and what a fresh replay of the log gives the same account."""

    copies: Sequence[Copy]
    events: Sequence[str]
    replay: Sequence[str]
    resyncs: int = 0


@dataclass(frozen=True, slots=True)
class Faults:
    """How a list that was received differs from the one that should have been."""

    missing: int
    doubled: int
    disordered: int
    strange: int

    @property
    def any(self) -> bool:
        return bool(self.missing or self.doubled or self.disordered or self.strange)


@dataclass(frozen=True, slots=True)
class Row:
    """One person."""

    name: str
    sent: int
    acknowledged: int
    received: int
    messages: Faults
    events_received: int
    events_expected: int
    events: Faults


@dataclass(frozen=True, slots=True)
class Proof:
    """Holds where `complaints` is empty; each says in a few words what is wrong."""

    rows: Sequence[Row]
    stored: int
    complaints: Sequence[str]

    @property
    def holds(self) -> bool:
        return not self.complaints

    @property
    def is_waiting(self) -> bool:
        """Whether something is missing, which may only be late. Everything else stays as wrong as it is."""
        return any(row.messages.missing or row.events.missing for row in self.rows)


def prove(sent: Sequence[Sent], histories: Mapping[str, Sequence[Copy]], given: Mapping[str, Given]) -> Proof:
    """Compares everything with everything.

    `sent` is in the order of sending; `histories` is what REST answers for the conversation, oldest first, by
    instance; `given` is by receiver.
    """
    history = next(iter(histories.values()), ())
    rows = [_row(name, sent, history, theirs) for name, theirs in given.items()]
    complaints = _complaints_of_history(sent, history)
    complaints += [f"{name} tells another history" for name, told in histories.items() if told != history]
    for row in rows:
        complaints += _complaints_of_row(row)
    complaints += [f"{name} was told to start anew" for name, theirs in given.items() if theirs.resyncs]
    if not sent or not rows:
        complaints.append("nothing was tried")
    return Proof(rows, len(history), complaints)


def compare(expected: Sequence[T], received: Sequence[T]) -> Faults:
    """Exact: only the same list in the same order has no faults."""
    wanted, got = Counter(expected), Counter(received)
    places = {item: at for at, item in enumerate(expected)}
    order = [places[item] for item in dict.fromkeys(received) if item in places]
    return Faults(
        missing=sum(1 for item in wanted if item not in got),
        doubled=sum(count - 1 for count in got.values()),
        disordered=sum(1 for before, after in pairwise(order) if after < before),
        strange=sum(1 for item in got if item not in wanted),
    )


def _row(name: str, sent: Sequence[Sent], history: Sequence[Copy], given: Given) -> Row:
    own = [each for each in sent if each.sender == name]
    return Row(
        name=name,
        sent=len(own),
        acknowledged=sum(1 for each in own if each.seq),
        received=len(given.copies),
        messages=compare(history, given.copies),
        events_received=len(given.events),
        events_expected=len(given.replay),
        events=compare(given.replay, given.events),
    )


def _complaints_of_history(sent: Sequence[Sent], history: Sequence[Copy]) -> list[str]:
    complaints = []
    if [copy.seq for copy in history] != list(range(1, len(history) + 1)):
        complaints.append("the numbers of the stored messages have holes or repeats")
    stored = Counter(copy.client_id for copy in history)
    unsaved = [each for each in sent if each.seq and each.client_id not in stored]
    if unsaved:
        complaints.append(f"{len(unsaved)} acknowledged but not stored")
    if twice := sum(1 for count in stored.values() if count > 1):
        complaints.append(f"{twice} stored more than once")
    if unknown := stored.keys() - {each.client_id for each in sent}:
        complaints.append(f"{len(unknown)} stored that nobody sent")
    seqs = {copy.client_id: copy.seq for copy in history}
    if misplaced := sum(1 for each in sent if each.seq and seqs.get(each.client_id, each.seq) != each.seq):
        complaints.append(f"{misplaced} stored under another number than was acknowledged")
    by_sender: dict[str, int] = {}
    for each in sent:  # in the order of sending; each waited for the acknowledgement of the one before
        if each.seq and each.seq < by_sender.get(each.sender, 0):
            complaints.append(f"messages of {each.sender} changed places")
            break
        by_sender[each.sender] = max(each.seq, by_sender.get(each.sender, 0))
    return complaints


def _complaints_of_row(row: Row) -> list[str]:
    complaints = []
    if row.acknowledged != row.sent:
        complaints.append(f"{row.sent - row.acknowledged} sends of {row.name} were never acknowledged")
    for what, faults in (("messages", row.messages), ("events", row.events)):
        if faults.any:
            complaints.append(
                f"{row.name}: {what} {faults.missing} missing, {faults.doubled} doubled, "
                f"{faults.disordered} out of order, {faults.strange} unknown"
            )
    return complaints
