"""Ways to spoil a correct history, each with the kind of violation that has to be found in it then."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

from faults.history import Connection, History, Reading, Receipt, Refusal, Resync, Send, Stored
from faults.verdict import Kind
from tests.support.fault_histories import END, EVICTED, MOVING, STAYING

Plant = Callable[[random.Random, History], History | None]
"""Returns None where the history has no place for it."""
T = TypeVar("T")
CREATED = "message.created"


def _pick(rng: random.Random, items: Sequence[T]) -> T | None:
    return rng.choice(items) if items else None


def _with_receipts(history: History, name: str, receipts: Sequence[Receipt]) -> History:
    return replace(history, receipts={**history.receipts, name: tuple(receipts)})


def _with_stored(history: History, change: Callable[[Stored], Stored | None], *instances: str) -> History:
    stored: Mapping[str, Sequence[Stored]] = {
        instance: tuple(
            new
            for each in told
            if (new := change(each) if instance in instances or not instances else each) is not None
        )
        for instance, told in history.stored.items()
    }
    return replace(history, stored=stored)


def _messages(history: History, *names: str) -> list[tuple[str, int, Receipt]]:
    return [
        (name, at, receipt)
        for name in names
        for at, receipt in enumerate(history.receipts[name])
        if receipt.type == CREATED
    ]


def _acknowledged(history: History) -> list[Send]:
    return [send for send in history.sends if send.acked_at is not None]


def a_message_is_not_received(rng: random.Random, history: History) -> History | None:
    if (chosen := _pick(rng, _messages(history, *STAYING, *MOVING))) is None:
        return None
    name, at, _ = chosen
    receipts = history.receipts[name]
    return _with_receipts(history, name, [*receipts[:at], *receipts[at + 1 :]])


def an_acknowledged_message_is_not_stored(rng: random.Random, history: History) -> History | None:
    if (send := _pick(rng, _acknowledged(history))) is None:
        return None
    instances = rng.choice((["west"], ["east"], []))
    return _with_stored(history, lambda each: None if each.client_id == send.client_id else each, *instances)


def a_stored_message_has_another_body(rng: random.Random, history: History) -> History | None:
    chosen = _pick(rng, history.stored["west"])
    if chosen is None:
        return None
    return _with_stored(history, lambda each: replace(each, body="?") if each == chosen else each, "east")


def a_received_message_has_another_body(rng: random.Random, history: History) -> History | None:
    if (chosen := _pick(rng, _messages(history, *STAYING, *MOVING))) is None:
        return None
    name, at, receipt = chosen
    receipts = history.receipts[name]
    return _with_receipts(history, name, [*receipts[:at], replace(receipt, body="?"), *receipts[at + 1 :]])


def an_acknowledgement_names_another_number(rng: random.Random, history: History) -> History | None:
    if (send := _pick(rng, _acknowledged(history))) is None:
        return None
    wrong = replace(send, seq=(send.seq or 0) + rng.choice((-1, 1)))
    return replace(history, sends=tuple(wrong if each is send else each for each in history.sends))


def an_event_that_is_no_message_is_not_received(rng: random.Random, history: History) -> History | None:
    choices = []
    for name in STAYING:
        receipts = history.receipts[name]
        for at, receipt in enumerate(receipts):
            where = [
                n
                for n, each in enumerate(receipts)
                if (each.type, each.conversation) == (CREATED, receipt.conversation)
            ]
            if receipt.type != CREATED and where and where[0] < at < where[-1]:
                choices.append((name, at))
    if (chosen := _pick(rng, choices)) is None:
        return None
    name, at = chosen
    return _with_receipts(history, name, [*history.receipts[name][:at], *history.receipts[name][at + 1 :]])


def an_event_comes_twice(rng: random.Random, history: History) -> History | None:
    names = [name for name in (*STAYING, *MOVING) if history.receipts[name]]
    if (name := _pick(rng, names)) is None:
        return None
    receipts = history.receipts[name]
    at = rng.randrange(len(receipts))
    later = rng.randint(at + 1, len(receipts))
    return _with_receipts(history, name, [*receipts[:later], receipts[at], *receipts[later:]])


def a_message_is_told_again_as_another_event(rng: random.Random, history: History) -> History | None:
    if (chosen := _pick(rng, _messages(history, *STAYING, *MOVING))) is None:
        return None
    name, at, receipt = chosen
    receipts = history.receipts[name]
    again = replace(receipt, cursor="another")
    return _with_receipts(history, name, [*receipts[: at + 1], again, *receipts[at + 1 :]])


def a_retry_is_stored_again(rng: random.Random, history: History) -> History | None:
    if (chosen := _pick(rng, history.stored["west"])) is None:
        return None
    last = max(each.seq for each in history.stored["west"] if each.conversation == chosen.conversation)
    again = replace(chosen, seq=last + 1)
    return replace(history, stored={name: (*told, again) for name, told in history.stored.items()})


def something_is_stored_that_nobody_sent(rng: random.Random, history: History) -> History | None:
    last = sum(each.conversation == "garden" for each in history.stored["west"])
    unknown = Stored("garden", last + 1, "unknown", "ada", "who said this?")
    return replace(history, stored={name: (*told, unknown) for name, told in history.stored.items()})


def two_messages_change_places_for_one(rng: random.Random, history: History) -> History | None:
    choices = []
    for name in STAYING:
        found = _messages(history, name)
        choices += [
            (name, first, second)
            for (_, first, one), (_, second, other) in pairwise(found)
            if second == first + 1 and (one.conversation != other.conversation or rng.random() < 0.5)
        ]
    if (chosen := _pick(rng, choices)) is None:
        return None
    name, first, second = chosen
    receipts = list(history.receipts[name])
    receipts[first], receipts[second] = receipts[second], receipts[first]
    return _with_receipts(history, name, receipts)


def a_later_message_is_numbered_before_an_earlier_one(rng: random.Random, history: History) -> History | None:
    """The two are exchanged everywhere, so that only the clock can tell."""
    by_seq = {(send.conversation, send.seq): send for send in _acknowledged(history)}
    choices = [
        (send, after)
        for (conversation, seq), send in by_seq.items()
        if seq is not None and (after := by_seq.get((conversation, seq + 1))) is not None
        if send.acked_at is not None and send.acked_at < after.began
    ]
    if (chosen := _pick(rng, choices)) is None:
        return None
    one, other = chosen
    swap = {one.client_id: other, other.client_id: one}

    def stored(each: Stored) -> Stored:
        new = swap.get(each.client_id or "")
        return replace(each, client_id=new.client_id, sender=new.sender, body=new.body) if new else each

    def received(each: Receipt) -> Receipt:
        new = swap.get(each.client_id or "")
        return replace(each, client_id=new.client_id, body=new.body) if new else each

    sends = tuple(
        replace(each, seq=swap[each.client_id].seq) if each.client_id in swap else each
        for each in history.sends
    )
    receipts = {name: tuple(map(received, given)) for name, given in history.receipts.items()}
    return replace(_with_stored(history, stored), sends=sends, receipts=receipts)


def a_number_is_left_out(rng: random.Random, history: History) -> History | None:
    """As if the message between had never been: neither sent, nor stored, nor received."""
    last = max((each.seq for each in history.stored["west"] if each.conversation == "garden"), default=0)
    middle = [e for e in history.stored["west"] if e.conversation == "garden" and e.seq < last]
    if (gone := _pick(rng, middle)) is None:
        return None
    receipts = {
        name: tuple(each for each in given if each.client_id != gone.client_id)
        for name, given in history.receipts.items()
    }
    sends = tuple(send for send in history.sends if send.client_id != gone.client_id)
    left = _with_stored(history, lambda each: None if each.client_id == gone.client_id else each)
    return replace(left, sends=sends, receipts=receipts)


def a_message_goes_to_one_who_is_no_member(rng: random.Random, history: History) -> History | None:
    """Put where it belongs in the log, between what the one was rightly given."""
    ada = history.receipts["ada"]
    places = {receipt.cursor: at for at, receipt in enumerate(ada)}
    choices = [
        (name, at, receipt)
        for name in MOVING
        for at, receipt in enumerate(ada)
        if receipt.type == CREATED and receipt.cursor not in {each.cursor for each in history.receipts[name]}
    ]
    if (chosen := _pick(rng, choices)) is None:
        return None
    name, place, receipt = chosen
    given = list(history.receipts[name])
    at = next((n for n, each in enumerate(given) if places.get(each.cursor, -1) > place), len(given))
    stolen = replace(receipt, receiver=name, at=given[at - 1].at if at else receipt.at, connection=-1)
    return _with_receipts(history, name, [*given[:at], stolen, *given[at:]])


def an_event_comes_after_the_sign_in_ended(rng: random.Random, history: History) -> History | None:
    known = {each.cursor for each in history.receipts[EVICTED]}
    rest = [
        each for each in history.receipts["ada"] if each.conversation == "garden" and each.cursor not in known
    ]
    if not rest:
        return None
    connection = max(each.number for each in history.connections if each.receiver == EVICTED)
    late = replace(rest[0], receiver=EVICTED, at=END / 8 + rng.uniform(1.3, 9.0), connection=connection)
    return _with_receipts(history, EVICTED, [*history.receipts[EVICTED], late])


def a_connection_outlives_its_sign_in(rng: random.Random, history: History) -> History | None:
    closed_at = rng.choice((None, END / 8 + rng.uniform(1.3, 9.0)))

    def outlive(each: Connection) -> Connection:
        return replace(each, closed_at=closed_at) if each.receiver == EVICTED else each

    return replace(history, connections=tuple(map(outlive, history.connections)))


def a_connection_is_let_in_after_the_sign_in_ended(rng: random.Random, history: History) -> History | None:
    late = Connection(9999, EVICTED, EVICTED, "ws", "west", END / 8 + rng.uniform(1.3, 9.0), END)
    return replace(history, connections=(*history.connections, late))


def one_who_left_may_read(rng: random.Random, history: History) -> History | None:
    refused = [reading for reading in history.readings if reading.status == 404]
    if (chosen := _pick(rng, refused)) is None:
        return None
    allowed = replace(chosen, status=200, seqs=())
    return replace(history, readings=tuple(allowed if each is chosen else each for each in history.readings))


def one_reads_from_before_joining(rng: random.Random, history: History) -> History | None:
    choices = [each for each in history.readings if each.seqs and each.seqs[0] > 1]
    if (chosen := _pick(rng, choices)) is None:
        return None
    more = replace(chosen, seqs=(chosen.seqs[0] - 1, *chosen.seqs))
    return replace(history, readings=tuple(more if each is chosen else each for each in history.readings))


def a_reading_misses_something(rng: random.Random, history: History) -> History | None:
    """Something that was acknowledged before the reading began."""
    acked = {(send.conversation, send.seq): send.acked_at for send in _acknowledged(history)}

    def missed(reading: Reading) -> list[int]:
        at = [(seq, acked.get((reading.conversation, seq))) for seq in reading.seqs]
        return [seq for seq, when in at if when is not None and when < reading.began]

    if (chosen := _pick(rng, [each for each in history.readings if missed(each)])) is None:
        return None
    seq = rng.choice(missed(chosen))
    less = replace(chosen, seqs=tuple(each for each in chosen.seqs if each != seq))
    return replace(history, readings=tuple(less if each is chosen else each for each in history.readings))


def one_who_is_no_member_writes(rng: random.Random, history: History) -> History | None:
    last = sum(each.conversation == "garden" for each in history.stored["west"])
    send = Send("gus", 1, "garden", "gus-1", "let me in", END - 3, END - 2, last + 1)
    stored = Stored("garden", last + 1, "gus-1", "gus", "let me in")
    both = {name: (*told, stored) for name, told in history.stored.items()}
    return replace(history, sends=(*history.sends, send), stored=both)


def a_send_fails_in_the_server(rng: random.Random, history: History) -> History | None:
    send = rng.choice(history.sends)
    failed = replace(send, refused=(Refusal(send.began, "ws", "west", 500),))
    return replace(history, sends=tuple(failed if each is send else each for each in history.sends))


def one_is_told_to_begin_anew(rng: random.Random, history: History) -> History | None:
    return replace(history, resyncs=(Resync("ada", 9.0, 0, "cursor_expired"),))


PLANTS: Sequence[tuple[Plant, Kind]] = (
    (a_message_is_not_received, Kind.LOST),
    (an_acknowledged_message_is_not_stored, Kind.LOST),
    (a_stored_message_has_another_body, Kind.LOST),
    (a_received_message_has_another_body, Kind.LOST),
    (an_acknowledgement_names_another_number, Kind.LOST),
    (an_event_that_is_no_message_is_not_received, Kind.LOST),
    (a_reading_misses_something, Kind.LOST),
    (an_event_comes_twice, Kind.DOUBLED),
    (a_message_is_told_again_as_another_event, Kind.DOUBLED),
    (a_retry_is_stored_again, Kind.DOUBLED),
    (something_is_stored_that_nobody_sent, Kind.DOUBLED),
    (two_messages_change_places_for_one, Kind.REORDERED),
    (a_later_message_is_numbered_before_an_earlier_one, Kind.REORDERED),
    (a_number_is_left_out, Kind.REORDERED),
    (a_message_goes_to_one_who_is_no_member, Kind.LEAKED),
    (an_event_comes_after_the_sign_in_ended, Kind.LEAKED),
    (a_connection_outlives_its_sign_in, Kind.LEAKED),
    (a_connection_is_let_in_after_the_sign_in_ended, Kind.LEAKED),
    (one_who_left_may_read, Kind.LEAKED),
    (one_reads_from_before_joining, Kind.LEAKED),
    (one_who_is_no_member_writes, Kind.LEAKED),
    (a_send_fails_in_the_server, Kind.FAILED),
    (one_is_told_to_begin_anew, Kind.RESYNC),
)
