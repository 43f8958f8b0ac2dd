"""The judge: what was acknowledged, against what is stored and what each receiver was given. No I/O, no clock.

It shares no code with the server, and asks nothing of it but what the public contract promises.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise

from faults.facts import Facts, created, gather
from faults.history import History, Send, Stored
from faults.order import check_order
from faults.readings import check_readings
from faults.receiving import check_receiver, check_told_to_all
from faults.verdict import Kind, Verdict, Violation
from faults.windows import Windows, find_windows

_FAILURES = (500, 501, 505)
REVOKED_SECONDS = 1.0
"""The contract: within a second of the answer, every transport obeys."""


def check(history: History, *, slack: float = 0.25) -> Verdict:
    """Everything that is wrong with it.

    `slack` seconds are added where the contract gives a time, for what the harness itself takes to notice.
    """
    facts = gather(history)
    windows, violations = find_windows(facts)
    violations += _check_stored(facts)
    violations += _check_writers(facts, windows)
    alone = {receiver.name: check_receiver(facts, windows, receiver) for receiver in history.receivers}
    violations += chain.from_iterable(alone.values())
    disordered = {name for name, found in alone.items() if any(each.kind is Kind.REORDERED for each in found)}
    violations += check_order(facts, disordered)
    violations += check_told_to_all(facts)
    violations += _check_cursors(facts)
    violations += _check_revocations(facts, slack)
    violations += check_readings(facts, windows)
    violations += _check_refusals(facts)
    violations += [
        Violation(Kind.RESYNC, f"{each.receiver} was told to begin anew ({each.reason})")
        for each in history.resyncs
    ]
    acknowledged = sum(send.acked_at is not None for send in history.sends)
    received = sum(map(len, facts.receipts.values()))
    if not (acknowledged and received and history.stored and history.receivers):
        violations.append(Violation(Kind.VOID, "nothing was acknowledged, received or stored"))
    return Verdict(len(history.sends), acknowledged, received, violations)


def _check_stored(facts: Facts) -> Iterator[Violation]:
    """Every instance tells the same history, without holes, of all that was acknowledged, once."""
    for instance, stored in facts.history.stored.items():
        by_conversation: dict[str, list[Stored]] = defaultdict(list)
        for each in stored:
            by_conversation[each.conversation].append(each)
        for conversation in facts.messages:
            yield from _check_numbers(
                instance, conversation, [each.seq for each in by_conversation[conversation]]
            )
        counts = Counter(each.client_id for each in stored if each.client_id is not None)
        for client_id, count in counts.items():
            if count > 1:
                yield Violation(
                    Kind.DOUBLED, f"{_of(facts.sends, client_id)} is stored {count} times at {instance}"
                )
            if client_id not in facts.sends:
                yield Violation(Kind.DOUBLED, f"{client_id} is stored at {instance}, and nobody sent it")
        yield from _check_acknowledged(facts, instance, stored)


def _check_numbers(instance: str, conversation: str, seqs: Sequence[int]) -> Iterator[Violation]:
    for before, after in pairwise([0, *seqs]):
        if after == before:
            yield Violation(Kind.DOUBLED, f"{conversation}#{after} is stored twice at {instance}")
        elif after < before:
            yield Violation(
                Kind.REORDERED, f"{conversation}#{after} comes after #{before} in history at {instance}"
            )
        elif after > before + 1:
            yield Violation(
                Kind.REORDERED, f"{conversation} has a hole between #{before} and #{after} at {instance}"
            )


def _check_acknowledged(facts: Facts, instance: str, stored: Sequence[Stored]) -> Iterator[Violation]:
    by_client_id: Mapping[str | None, Stored] = {each.client_id: each for each in reversed(stored)}
    for send in facts.sends.values():
        found = by_client_id.get(send.client_id)
        what = _of(facts.sends, send.client_id)
        if found is None:
            if send.acked_at is not None:
                yield Violation(Kind.LOST, f"{what} was acknowledged and is not stored at {instance}")
        elif send.acked_at is not None and (found.conversation, found.seq) != (send.conversation, send.seq):
            words = (
                f"acknowledged as {send.conversation}#{send.seq}, stored as {found.conversation}#{found.seq}"
            )
            yield Violation(Kind.LOST, f"{what} was {words} at {instance}")
        elif (found.sender, found.conversation) != (send.sender, send.conversation):
            yield Violation(
                Kind.LOST, f"{what} is stored as {found.sender}'s in {found.conversation} at {instance}"
            )
        elif found.body is not None and found.body != send.body:
            yield Violation(Kind.LOST, f"{what} is stored as {found.body[:40]!r} at {instance}")
    here = {(each.conversation, each.seq) for each in stored}
    for conversation, seq in _places(facts):
        known = facts.send_at((conversation, seq))
        # That what was acknowledged is missing was said above.
        if (conversation, seq) not in here and (known is None or known.acked_at is None):
            yield Violation(Kind.LOST, f"{conversation}#{seq} is stored, but not at {instance}")


def _check_writers(facts: Facts, windows: Windows) -> Iterator[Violation]:
    """Nobody wrote where they were no member."""
    for conversation, seq in _places(facts):
        sender = facts.messages[conversation][seq].sender
        if not windows.may_hold(sender, conversation, seq):
            yield Violation(Kind.LEAKED, f"{sender} wrote {conversation}#{seq} without being a member")


def _check_cursors(facts: Facts) -> Iterator[Violation]:
    """One message has one place in the log: everybody is told of it under the same cursor, and of no other."""
    cursors: dict[tuple[str, int], str] = {}
    places: dict[str, tuple[str, int]] = {}
    for name, receipts in facts.receipts.items():
        for place, receipt in created(receipts):
            if receipt.cursor is None:
                yield Violation(Kind.LOST, f"{place[0]}#{place[1]} was given to {name} without a cursor")
            elif cursors.setdefault(place, receipt.cursor) != receipt.cursor:
                yield Violation(
                    Kind.DOUBLED, f"{place[0]}#{place[1]} is in the log twice: {name} has another cursor"
                )
            elif places.setdefault(receipt.cursor, place) != place:
                yield Violation(
                    Kind.REORDERED, f"{place[0]}#{place[1]} has the cursor of another message at {name}"
                )


def _check_revocations(facts: Facts, slack: float) -> Iterator[Violation]:
    ends: dict[str, float] = {}
    for revoked in facts.history.revocations:
        for sign_in in revoked.sign_ins:
            ends[sign_in] = min(ends.get(sign_in, revoked.acked_at), revoked.acked_at)
    limits: dict[int, float] = {}
    for connection in facts.history.connections:
        if connection.sign_in not in ends:
            continue
        at = limits[connection.number] = ends[connection.sign_in] + REVOKED_SECONDS + slack
        what = f"a {connection.transport} connection of {connection.receiver} at {connection.instance}"
        if connection.opened > at:
            yield Violation(
                Kind.LEAKED, f"{what} was let in {connection.opened - at:.2f} s too late after its sign-in"
            )
        elif connection.closed_at is None:
            yield Violation(Kind.LEAKED, f"{what} outlived its sign-in")
        elif connection.closed_at > at:
            yield Violation(
                Kind.LEAKED, f"{what} outlived its sign-in by {connection.closed_at - at:.2f} s too much"
            )
    for name, receipts in facts.receipts.items() if limits else ():
        for receipt in receipts:
            if (
                receipt.at > limits.get(receipt.connection, float("inf"))
                and receipt.type != "session.revoked"
            ):
                yield Violation(Kind.LEAKED, f"{name} was given {receipt.type} after its sign-in had ended")


def _check_refusals(facts: Facts) -> Iterator[Violation]:
    """Whatever is wrong with the server's parts, a sender is told to try again, or what is wrong with the message."""
    for send in facts.sends.values():
        for refusal in send.refused:
            if refusal.what in _FAILURES:
                words = f"{refusal.what} by {refusal.transport} from {refusal.instance}"
                yield Violation(Kind.FAILED, f"{_of(facts.sends, send.client_id)} was answered {words}")


def _of(sends: Mapping[str, Send], client_id: str) -> str:
    send = sends.get(client_id)
    return f"message {send.number} of {send.sender}" if send is not None else client_id


def _places(facts: Facts) -> Iterator[tuple[str, int]]:
    return ((conversation, seq) for conversation, messages in facts.messages.items() for seq in messages)
