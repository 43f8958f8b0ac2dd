"""The demo's proof holds for what is exact, and for nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given as with_data
from hypothesis import strategies as st

from demo.inbox import Copy
from demo.proof import Given, Proof, Sent, compare, prove

SENT = tuple(Sent(f"id-{seq}", ("ada", "ben")[seq % 2], seq) for seq in range(1, 9))
STORED = tuple(Copy(each.seq, each.client_id) for each in SENT)
EVENTS = tuple(f"cursor-{at}" for at in range(12))
WHOLE = Given(STORED, EVENTS, EVENTS)


def judged(
    sent: tuple[Sent, ...] = SENT,
    west: tuple[Copy, ...] = STORED,
    east: tuple[Copy, ...] | None = None,
    ada: Given = WHOLE,
) -> Proof:
    return prove(sent, {"west": west, "east": west if east is None else east}, {"ada": ada, "ben": WHOLE})


def test_what_is_exact_holds() -> None:
    proof = judged()
    assert proof.holds
    assert proof.stored == len(STORED)
    assert [(row.name, row.sent, row.acknowledged, row.received) for row in proof.rows] == [
        ("ada", 4, 4, 8),
        ("ben", 4, 4, 8),
    ]


def test_a_message_that_did_not_come_is_missing() -> None:
    proof = judged(ada=replace(WHOLE, copies=STORED[:3] + STORED[4:]))
    assert not proof.holds
    assert proof.is_waiting
    assert proof.rows[0].messages.missing == 1
    assert not proof.rows[1].messages.any


def test_a_message_that_came_twice_is_doubled() -> None:
    proof = judged(ada=replace(WHOLE, copies=(*STORED, STORED[2])))
    assert not proof.holds
    assert not proof.is_waiting
    assert (proof.rows[0].messages.doubled, proof.rows[0].messages.missing) == (1, 0)


def test_messages_that_changed_places_are_out_of_order() -> None:
    proof = judged(ada=replace(WHOLE, copies=(STORED[1], STORED[0], *STORED[2:])))
    assert not proof.holds
    assert (proof.rows[0].messages.disordered, proof.rows[0].messages.missing) == (1, 0)


def test_a_message_under_another_number_is_strange_and_missing() -> None:
    proof = judged(ada=replace(WHOLE, copies=(replace(STORED[0], client_id="id-x"), *STORED[1:])))
    assert not proof.holds
    assert (proof.rows[0].messages.strange, proof.rows[0].messages.missing) == (1, 1)


def test_a_missed_event_that_is_no_message_breaks_the_proof() -> None:
    proof = judged(ada=replace(WHOLE, events=EVENTS[:-1]))
    assert not proof.holds
    assert proof.rows[0].events.missing == 1


def test_a_send_without_acknowledgement_breaks_the_proof() -> None:
    assert not judged(sent=(*SENT, Sent("id-9", "ada", 0))).holds


def test_an_acknowledged_message_that_is_not_stored_breaks_the_proof() -> None:
    proof = judged(sent=(*SENT, Sent("id-9", "ada", 9)))
    assert "1 acknowledged but not stored" in proof.complaints


def test_a_message_that_is_stored_twice_breaks_the_proof() -> None:
    twice = (*STORED, Copy(9, "id-8"))
    assert "1 stored more than once" in judged(west=twice).complaints


def test_a_stored_message_that_nobody_sent_breaks_the_proof() -> None:
    assert "1 stored that nobody sent" in judged(west=(*STORED, Copy(9, "id-9"))).complaints


def test_a_hole_in_the_stored_numbers_breaks_the_proof() -> None:
    assert not judged(sent=SENT[:3] + SENT[4:], west=STORED[:3] + STORED[4:]).holds


def test_another_number_than_was_acknowledged_breaks_the_proof() -> None:
    swapped = (Copy(1, "id-2"), Copy(2, "id-1"), *STORED[2:])
    assert "2 stored under another number than was acknowledged" in judged(west=swapped).complaints


def test_instances_that_tell_different_histories_break_the_proof() -> None:
    assert "east tells another history" in judged(east=STORED[:-1]).complaints


def test_messages_of_one_sender_out_of_the_order_of_sending_break_the_proof() -> None:
    later_first = (*SENT[:6], replace(SENT[6], client_id="id-9", seq=9), SENT[6], SENT[7])
    proof = judged(sent=later_first, west=(*STORED, Copy(9, "id-9")))
    assert any("changed places" in complaint for complaint in proof.complaints)


def test_having_to_start_anew_breaks_the_proof() -> None:
    assert not judged(ada=replace(WHOLE, resyncs=1)).holds


def test_nothing_tried_proves_nothing() -> None:
    assert not prove((), {"west": ()}, {"ada": Given((), (), ())}).holds
    assert not prove(SENT, {"west": STORED}, {}).holds


@with_data(st.lists(st.sampled_from("abcdefgh")), st.lists(st.sampled_from("abcdefghij")))
def test_only_the_same_list_has_no_faults(expected: list[str], received: list[str]) -> None:
    wanted = list(dict.fromkeys(expected))
    assert compare(wanted, received).any == (wanted != received)


@pytest.mark.parametrize("at", range(len(EVENTS)))
def test_each_single_loss_is_counted_once(at: int) -> None:
    faults = compare(EVENTS, EVENTS[:at] + EVENTS[at + 1 :])
    assert (faults.missing, faults.doubled, faults.disordered, faults.strange) == (1, 0, 0, 0)
