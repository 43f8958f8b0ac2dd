"""A history looked at from the sides that the checks need. Nothing is judged here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from faults.history import History, Receipt, Send, Stored

CREATED = "message.created"

Place = tuple[str, int]
"""A conversation and a `seq` in it: one message."""


@dataclass(frozen=True, slots=True)
class Facts:
    """`messages` is what any instance has stored, `first_seen` the earliest moment at which anybody had been told.

    `receipts` is by receiver, `about` the same by receiver and conversation.
    """

    history: History
    receipts: Mapping[str, Sequence[Receipt]]
    about: Mapping[tuple[str, str], Sequence[Receipt]]
    sends: Mapping[str, Send]
    messages: Mapping[str, Mapping[int, Stored]]
    first_seen: Mapping[Place, float]

    def send_at(self, place: Place) -> Send | None:
        """The send that became this message."""
        stored = self.messages.get(place[0], {}).get(place[1])
        return self.sends.get(stored.client_id or "") if stored is not None else None

    def known_at(self, place: Place) -> float:
        """The earliest moment at which it is known to have been stored; infinite where it never is."""
        send = self.send_at(place)
        acked = send.acked_at if send is not None else None
        return min(self.first_seen.get(place, float("inf")), float("inf") if acked is None else acked)

    def begun_at(self, place: Place) -> float:
        """A moment at which it was surely not stored yet; minus infinity where nothing is known."""
        send = self.send_at(place)
        return send.began if send is not None else float("-inf")


def gather(history: History) -> Facts:
    """One pass over everything."""
    messages: dict[str, dict[int, Stored]] = defaultdict(dict)
    for stored in history.stored.values():
        for each in stored:
            messages[each.conversation].setdefault(each.seq, each)
    receipts = {name: list(given) for name, given in history.receipts.items()}
    about: dict[tuple[str, str], list[Receipt]] = defaultdict(list)
    first_seen: dict[Place, float] = {}
    for name, given in receipts.items():
        for receipt in given:
            if receipt.conversation is not None:
                about[name, receipt.conversation].append(receipt)
        for place, receipt in created(given):
            if receipt.at < first_seen.get(place, float("inf")):
                first_seen[place] = receipt.at
    sends = {send.client_id: send for send in history.sends}
    return Facts(history, receipts, about, sends, messages, first_seen)


def created(receipts: Sequence[Receipt]) -> Iterator[tuple[Place, Receipt]]:
    """The messages among them, in order of arrival."""
    for receipt in receipts:
        if receipt.type == CREATED and receipt.conversation is not None and receipt.seq is not None:
            yield (receipt.conversation, receipt.seq), receipt
