"""The judge of `make faults` lets correct histories pass and finds each kind of violation in others."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faults.checker import check
from faults.history import (
    Change,
    History,
    Membership,
    Receipt,
    Receiver,
    Send,
    Step,
    Stored,
)
from faults.verdict import Kind, Verdict
from tests.support.fault_histories import correct_history
from tests.support.fault_plants import PLANTS, Plant

SEEDS = st.integers(0, 2**32 - 1)


def message(place: int, conversation: str, seq: int) -> Receipt:
    """What a receiver is given for the message that `sent` makes; `place` is where it is in the log."""
    client_id = f"{conversation}-{seq}"
    return Receipt(
        "", 10.0 + place, "ws", "west", 0, f"cursor-{place}", "message.created", "conversation", conversation, seq,
        client_id, f"body of {client_id}",
    )  # fmt: skip


def change(place: int, user: str, kind: str, conversation: str = "a") -> Receipt:
    return Receipt(
        "", 10.0 + place, "ws", "west", 0, f"cursor-{place}", kind, "conversation", conversation, user=user
    )


def sent(conversation: str, seq: int, began: float, acked_at: float) -> Send:
    client_id = f"{conversation}-{seq}"
    return Send("sue", seq, conversation, client_id, f"body of {client_id}", began, acked_at, seq)


def history_of(
    sends: Sequence[Send],
    receipts: dict[str, Sequence[Receipt]],
    changes: Mapping[tuple[str, str], tuple[Change, ...]] | None = None,
) -> History:
    """Everyone is a member of `a` and `b` from the beginning, but for whom `changes` says more."""
    names = ["sue", *receipts]
    always = (Change(Step.JOINED, 0.1, 0.2),)
    memberships: dict[tuple[str, str], tuple[Change, ...]] = {
        (name, where): always for name in names for where in "ab"
    }
    memberships |= changes or {}
    stored = [
        Stored(send.conversation, send.seq or 0, send.client_id, send.sender, send.body) for send in sends
    ]
    return History(
        sends=sends,
        receivers=[Receiver(name, name, 0.5) for name in receipts],
        connections=[],
        receipts={name: [replace(each, receiver=name) for each in given] for name, given in receipts.items()},
        stored={"west": stored, "east": stored},
        memberships=[Membership(*key, steps) for key, steps in memberships.items()],
    )


def kinds(verdict: Verdict) -> list[Kind]:
    return [violation.kind for violation in verdict.violations]


THREE = [sent("a", 1, 1.0, 2.0), sent("a", 2, 3.0, 4.0), sent("b", 1, 5.0, 6.0)]
WHOLE = [message(1, "a", 1), message(2, "a", 2), message(3, "b", 1)]


def test_what_is_whole_holds() -> None:
    verdict = check(history_of(THREE, {"rae": WHOLE, "rob": WHOLE}))
    assert verdict.holds, verdict.violations
    assert (verdict.sent, verdict.acknowledged, verdict.received) == (3, 3, 6)


def test_what_was_never_acknowledged_may_be_missing_or_there() -> None:
    unsure = Send("sue", 3, "a", "a-3", "body of a-3", 7.0)
    absent = history_of(THREE, {"rae": WHOLE})
    assert check(replace(absent, sends=[*THREE, unsure])).holds
    told = {
        name: [*stored, Stored("a", 3, "a-3", "sue", "body of a-3")] for name, stored in absent.stored.items()
    }
    there = replace(absent, sends=[*THREE, unsure], stored=told)
    assert [str(each) for each in check(there).violations] == ["lost: rae was never given a#3"]
    given_too = {"rae": [*absent.receipts["rae"], replace(message(4, "a", 3), receiver="rae")]}
    assert check(replace(there, receipts=given_too)).holds
    only_west = replace(there, receipts=given_too, stored={**told, "east": absent.stored["east"]})
    assert [str(each) for each in check(only_west).violations] == ["lost: a#3 is stored, but not at east"]


def test_nothing_at_all_proves_nothing() -> None:
    assert kinds(check(history_of([], {"rae": []}))) == [Kind.VOID]
    assert Kind.VOID in kinds(check(history_of(THREE, {})))


def test_a_message_that_one_receiver_was_not_given_is_lost() -> None:
    verdict = check(history_of(THREE, {"rae": WHOLE, "rob": WHOLE[:2]}))
    assert [str(each) for each in verdict.violations] == ["lost: rob was never given b#1"]


def test_a_hole_between_two_given_messages_is_a_loss_also_for_one_who_goes_away() -> None:
    history = history_of([*THREE, sent("a", 3, 7.0, 8.0)], {"rae": [WHOLE[0], message(4, "a", 3)]})
    gone = replace(history, receivers=[replace(history.receivers[0], stays=False)])
    assert [str(each) for each in check(gone).violations] == ["lost: rae was never given a#2"]


def test_an_event_given_again_is_doubled() -> None:
    verdict = check(history_of(THREE, {"rae": [*WHOLE, WHOLE[0]]}))
    assert kinds(verdict) == [Kind.DOUBLED]


def test_two_receivers_who_see_two_conversations_in_different_orders_are_found() -> None:
    b_first = [message(1, "b", 1), message(2, "a", 1)]
    a_first = [replace(b_first[1]), replace(b_first[0])]
    both = [sent("a", 1, 1.0, 4.0), sent("b", 1, 1.0, 4.0)]
    assert check(history_of(both, {"rae": a_first})).holds
    assert check(history_of(both, {"rae": b_first})).holds
    verdict = check(history_of(both, {"rae": a_first, "rob": b_first}))
    assert kinds(verdict) == [Kind.REORDERED]
    assert "told so to rae" in verdict.violations[0].words
    assert "told so to rob" in verdict.violations[0].words


def test_what_was_acknowledged_before_another_began_comes_first_also_across_conversations() -> None:
    verdict = check(history_of(THREE, {"rae": [message(1, "b", 1), message(2, "a", 1), message(3, "a", 2)]}))
    assert kinds(verdict) == [Kind.REORDERED]
    assert "known before the other began" in verdict.violations[0].words


def test_a_circle_through_three_receivers_is_found() -> None:
    sends = [sent(where, 1, 1.0, 9.0) for where in "abc"]
    a, b, c = (message(at, where, 1) for at, where in enumerate("abc", 1))
    member = {(name, "c"): (Change(Step.JOINED, 0.1, 0.2),) for name in ("sue", "rae", "rob", "ron")}
    history = history_of(sends, {"rae": [a, b], "rob": [b, c], "ron": [c, a]}, member)
    left = replace(history, receivers=[replace(each, stays=False) for each in history.receivers])
    assert kinds(check(left)) == [Kind.REORDERED]


JOINING = (Change(Step.JOINED, 3.0, 4.0),)
FOUR = [sent("a", 1, 1.0, 2.0), sent("a", 2, 2.5, 4.5), sent("a", 3, 2.5, 4.5), sent("a", 4, 5.0, 6.0)]


def joined(after: int, *given: int) -> History:
    """Rae is told that Jo joined after a message; Jo is given some."""
    told = [message(place, "a", place) for place in (1, 2, 3, 4)]
    before, later = ([told[seq - 1] for seq in given if (seq <= after) is early] for early in (True, False))
    event = replace(change(9, "jo", "member.added"), cursor="joined")
    return history_of(
        FOUR,
        {"rae": [*told[:after], event, *told[after:]], "jo": [*before, event, *later]},
        {("jo", "a"): JOINING},
    )


@pytest.mark.parametrize("after", [1, 2, 3])
def test_who_joins_gets_everything_from_there_on_and_nothing_before(after: int) -> None:
    rest = range(after + 1, 5)
    assert check(joined(after, *rest)).holds
    assert kinds(check(joined(after, *rest[1:]))) == [Kind.LOST]
    assert kinds(check(joined(after, after, *rest))) == [Kind.LEAKED]


def test_a_change_takes_effect_between_its_beginning_and_its_acknowledgement() -> None:
    early, late = check(joined(0, 1, 2, 3, 4)), check(joined(4))
    assert Kind.REORDERED in kinds(early)
    assert Kind.REORDERED in kinds(late)
    assert "by the clock not before 1 and not after 3" in early.violations[0].words


def test_who_was_never_a_member_may_be_given_nothing() -> None:
    history = history_of(THREE, {"rae": WHOLE, "eve": [WHOLE[1]]})
    outsider = [each for each in history.memberships if each.user != "eve"]
    assert kinds(check(replace(history, memberships=outsider))) == [Kind.LEAKED]


def test_nothing_comes_after_one_was_told_that_one_left() -> None:
    left = (Change(Step.JOINED, 0.1, 0.2), Change(Step.LEFT, 2.1, 4.5))
    removed = change(2, "jo", "member.removed")
    second = replace(WHOLE[1], cursor="cursor-3")
    told = [WHOLE[0], removed, second]
    history = history_of(THREE[:2], {"rae": told, "jo": told[:2]}, {("jo", "a"): left})
    assert check(history).holds
    typing = replace(change(4, "rae", "conversation.updated"), receiver="jo")
    leaking = replace(history, receipts={**history.receipts, "jo": [*history.receipts["jo"], typing]})
    assert Kind.LEAKED in kinds(check(leaking))


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_correct_histories_pass(seed: int) -> None:
    verdict = check(correct_history(random.Random(seed)))
    assert verdict.holds, verdict.violations


@pytest.mark.parametrize(("plant", "kind"), PLANTS, ids=[plant.__name__ for plant, _ in PLANTS])
@given(seed=SEEDS)
@settings(max_examples=8, deadline=None)
def test_one_planted_violation_is_found(plant: Plant, kind: Kind, seed: int) -> None:
    rng = random.Random(seed)
    spoilt = None
    while spoilt is None:
        spoilt = plant(rng, correct_history(rng))
    assert check(spoilt).count(kind), check(spoilt).violations
