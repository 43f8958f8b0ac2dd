"""What one receiver was given, alone and beside others: whole, once, in order, and nothing that is not its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from faults.facts import CREATED, Facts, Place, created
from faults.history import Receipt, Receiver
from faults.verdict import Kind, Violation
from faults.windows import CHANGES, Windows, stayers


def check_receiver(facts: Facts, windows: Windows, receiver: Receiver) -> list[Violation]:
    """Everything that is wrong with what it was given. A message that is missing is said once."""
    run = _Run(facts, windows, receiver)
    for receipt in facts.receipts.get(receiver.name, ()):
        run.take(receipt)
    run.finish()
    return run.violations


@dataclass(slots=True)
class _Run:
    """Goes through the receipts in order of arrival."""

    facts: Facts
    windows: Windows
    receiver: Receiver
    violations: list[Violation] = field(default_factory=list)
    cursors: set[str] = field(default_factory=set)
    client_ids: set[str] = field(default_factory=set)
    seen: set[Place] = field(default_factory=set)
    lost: set[Place] = field(default_factory=set)
    highest: dict[str, int] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)
    """Conversations it joined or left since their last message, so that the next one need not follow it."""
    outside: set[str] = field(default_factory=set)
    """Conversations it was told to have left."""

    def take(self, receipt: Receipt) -> None:
        if receipt.cursor is not None:
            if receipt.cursor in self.cursors:
                self._say(
                    Kind.DOUBLED, f"was given {_name(receipt)} twice, the second time by {receipt.transport}"
                )
                return
            self.cursors.add(receipt.cursor)
        own_change = receipt.type in CHANGES and receipt.user == self.receiver.user
        if receipt.conversation is not None and own_change:
            self.moved.add(receipt.conversation)
            if receipt.type == "member.removed":
                self.outside.add(receipt.conversation)
            else:
                self.outside.discard(receipt.conversation)
        elif receipt.topic == "conversation" and receipt.conversation in self.outside:
            self._say(Kind.LEAKED, f"was given {_name(receipt)} after having been told that it had left")
        if receipt.type == CREATED and receipt.conversation is not None and receipt.seq is not None:
            self._take_message((receipt.conversation, receipt.seq), receipt)

    def _take_message(self, place: Place, receipt: Receipt) -> None:
        conversation, seq = place
        if place in self.seen or (receipt.client_id is not None and receipt.client_id in self.client_ids):
            self._say(Kind.DOUBLED, f"was given {conversation}#{seq} twice")
            return
        self.seen.add(place)
        if receipt.client_id is not None:
            self.client_ids.add(receipt.client_id)
        before = self.highest.get(conversation)
        if before is not None and seq < before:
            self._say(Kind.REORDERED, f"was given {conversation}#{seq} after #{before}")
        elif before is not None and conversation not in self.moved:
            # Told of no change of its own meanwhile, it was a member all the while.
            self.lost |= {(conversation, between) for between in range(before + 1, seq)}
        self.highest[conversation] = max(seq, before or 0)
        self.moved.discard(conversation)
        self._compare(place, receipt)
        if not self.windows.may_hold(self.receiver.user, conversation, seq):
            self._say(Kind.LEAKED, f"was given {conversation}#{seq} without being a member there")

    def _compare(self, place: Place, receipt: Receipt) -> None:
        stored = self.facts.messages.get(place[0], {}).get(place[1])
        if stored is None:
            self._say(Kind.LOST, f"was given {place[0]}#{place[1]}, which is not stored")
        elif (stored.client_id, stored.body if stored.body is not None else receipt.body) != (
            receipt.client_id,
            receipt.body,
        ):
            self._say(
                Kind.LOST,
                f"was given {place[0]}#{place[1]} as {(receipt.body or '')[:40]!r}, stored otherwise",
            )

    def finish(self) -> None:
        """What was owed and did not come; a late one, out of order, was said already."""
        if self.receiver.stays:
            for conversation, stays in self.windows.of(self.receiver.user):
                for seq in self.facts.messages.get(conversation, {}):
                    place = conversation, seq
                    if self.facts.begun_at(place) >= self.receiver.began and any(
                        window.surely_holds(seq) for window in stays
                    ):
                        self.lost.add(place)
        for conversation, seq in sorted(self.lost - self.seen):
            self._say(Kind.LOST, f"was never given {conversation}#{seq}")

    def _say(self, kind: Kind, words: str) -> None:
        self.violations.append(Violation(kind, f"{self.receiver.name} {words}"))


def check_told_to_all(facts: Facts) -> Iterator[Violation]:
    """Events that are no messages: between two messages that a stayer was given, it was given them all."""
    for conversation, receivers in stayers(facts).items():
        told = {
            receiver.name: _other_events(facts.about.get((receiver.name, conversation), ()))
            for receiver in receivers
        }
        known: dict[str, _Told] = {}
        for events in told.values():
            for cursor, event in events.items():
                if cursor not in known or known[cursor].after is None:
                    known[cursor] = event
        given = {
            receiver.name: {
                seq for (_, seq), _ in created(facts.about.get((receiver.name, conversation), ()))
            }
            for receiver in receivers
        }
        for cursor, event in known.items():
            for name, events in told.items():
                if cursor not in events and event.before in given[name] and event.after in given[name]:
                    yield Violation(
                        Kind.LOST,
                        f"{name} was never given {event.type} between {conversation}#{event.before} and the next",
                    )


@dataclass(frozen=True, slots=True)
class _Told:
    """An event, and the messages before and after it; None where there was none."""

    type: str
    before: int | None
    after: int | None


def _other_events(receipts: Sequence[Receipt]) -> dict[str, _Told]:
    found: dict[str, _Told] = {}
    waiting: dict[int | None, list[Receipt]] = defaultdict(list)
    latest: int | None = None
    for receipt in receipts:
        if receipt.topic != "conversation" or receipt.cursor is None:
            continue
        if receipt.type != CREATED:
            waiting[latest].append(receipt)
            continue
        for each in waiting.pop(latest, ()):
            found[each.cursor or ""] = _Told(each.type, latest, receipt.seq)
        latest = receipt.seq
    for each in waiting.pop(latest, ()):
        found[each.cursor or ""] = _Told(each.type, latest, None)
    return found


def _name(receipt: Receipt) -> str:
    where = f" of {receipt.conversation}" if receipt.conversation else ""
    return f"{receipt.type}{where}{f'#{receipt.seq}' if receipt.seq is not None else ''}"
