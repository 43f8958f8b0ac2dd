"""The memory tail: dense, bounded, indexed by topic."""

from __future__ import annotations

import random

import pytest

from domain.log import Control, Topic
from realtime.events import Event
from realtime.ring import Ring
from tests.support.fakes import FakeLog, conversation


def _events(log: FakeLog, epoch: int = 1) -> list[Event]:
    return [Event(stored, epoch) for stored in log.events]


def _filled(log: FakeLog, *, max_events: int = 1000, max_bytes: int = 1 << 30) -> Ring:
    ring = Ring(max_events=max_events, max_bytes=max_bytes)
    for event in _events(log):
        ring.append(event)
    return ring


def _held(ring: Ring) -> set[int]:
    """Every event that the ring keeps alive, by any path."""
    tails = {id(event) for tail in ring._topics.values() for event in tail.events} - {id(None)}
    return tails | {id(event) for event in ring._events} | {id(event) for event in ring._controls}


@pytest.mark.parametrize("seed", range(8))
def test_it_answers_like_a_plain_list_of_the_newest(seed: int) -> None:
    chance = random.Random(seed)
    topics = [conversation() for _ in range(5)]
    log = FakeLog()
    ring = Ring(max_events=chance.randint(1, 40), max_bytes=1 << 30)
    for _ in range(200):
        control = (
            Control(redacts=(chance.randint(1, log.head),))
            if log.head and chance.random() < 0.2
            else Control()
        )
        ring.append(Event(log.append(chance.choice(topics), text="some text", control=control), 1))
        held = [e for e in log.events if e.position > ring.floor]
        after, upto, limit = chance.randint(0, log.head), chance.randint(0, log.head), chance.randint(1, 9)
        for topic in topics:
            wanted = [e.position for e in held if e.topic == topic and after < e.position <= upto]
            assert [e.position for e in ring.topic(topic.key, after, upto, limit)] == wanted[:limit]
        wanted = [e.position for e in held if e.control and after < e.position <= upto]
        assert [e.position for e in ring.controls(after, upto)] == wanted
        start = max(after, ring.floor)
        assert [e.position for e in ring.slice(start, limit)] == list(
            range(start + 1, min(start + limit, log.head) + 1)
        )
        assert ring.last == log.head
        assert len(ring) == len(held)


def test_a_hole_is_refused() -> None:
    log = FakeLog()
    topic = conversation()
    for _ in range(3):
        log.append(topic)
    first, _, third = _events(log)
    ring = Ring(max_events=10, max_bytes=1 << 30)
    ring.append(first)
    with pytest.raises(AssertionError):
        ring.append(third)
    with pytest.raises(AssertionError):
        ring.append(first)


def test_the_bound_in_bytes_holds_and_the_newest_event_always_stays() -> None:
    log = FakeLog()
    topic = conversation()
    for n in range(50):
        log.append(topic, text="x" * (100 * n))
    limit = 20_000
    ring = Ring(max_events=1000, max_bytes=limit)
    for event in _events(log):
        ring.append(event)
        assert sum(e.size for e in ring.slice(ring.floor, 1000)) <= limit or len(ring) == 1
    assert ring.last == 50
    assert len(ring) >= 1


def test_what_was_dropped_is_let_go() -> None:
    """The index by topic must not keep alive what the ring has dropped: it would hold twice what its bounds say."""
    log = FakeLog()
    topics = [conversation() for _ in range(10)]
    ring = Ring(max_events=20, max_bytes=1 << 30)
    for n in range(600):
        ring.append(Event(log.append(topics[n % 10]), 1))
        assert len(_held(ring)) == len(ring)


def test_withdrawing_texts_does_not_shrink_the_memory() -> None:
    """What an event took when it came in, is what leaving gives back, whatever it has been shortened to since."""
    log = FakeLog()
    topic = conversation()
    ring = Ring(max_events=1000, max_bytes=100_000)
    for _ in range(500):
        ring.append(Event(log.append(topic, text="x" * 4000), 1))
        ring.redact([log.head])
    for _ in range(200):
        ring.append(Event(log.append(topic), 1))
    size = Event(log.events[-1], 1).size
    assert len(ring) >= min(200, 100_000 // size - 1)


def test_a_withdrawn_text_is_gone_from_both_encodings_even_when_they_were_made_before() -> None:
    log = FakeLog()
    event = Event(log.append(conversation(), text="the secret"), 1)
    ring = Ring(max_events=10, max_bytes=1 << 20)
    ring.append(event)
    assert b"the secret" in event.encoded("ws")
    assert b"the secret" in event.encoded("sse")
    ring.redact([0, 1, 2])
    assert b"the secret" not in event.encoded("ws") + event.encoded("sse") + event.envelope


def test_clearing_starts_it_anew_at_any_place() -> None:
    log = FakeLog()
    topic: Topic = conversation()
    for _ in range(5):
        log.append(topic)
    ring = _filled(log)
    ring.clear(3)
    assert (ring.floor, ring.last, len(ring)) == (3, 3, 0)
    assert list(ring.topic(topic.key, 0, 99, 9)) == []
    ring.append(_events(log)[3])
    assert [e.position for e in ring.slice(3, 10)] == [4]
