"""The demo's books: counts and times of what was sent and received."""

from __future__ import annotations

from demo.drawing import bar_lines
from demo.frames import Frame
from demo.inbox import Copy, Inbox
from demo.ledger import Ledger
from demo.stage import span


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_send_is_open_until_it_is_acknowledged() -> None:
    ledger = Ledger(Clock())
    ledger.begin("id", "ada", "ws·west")
    assert list(ledger.sending) == ["ada"]
    ledger.acknowledge("id", 7, replayed=True)
    assert (list(ledger.sending), ledger.acknowledged, ledger.replayed, ledger.head) == ([], 1, 1, 7)


def test_delays_run_from_the_first_try_to_each_copy() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ledger.begin("id", "ada", "ws·west")
    for after in (0.1, 0.3, 1.0):
        clock.now = 100 + after
        ledger.deliver("id", 1)
    delays = ledger.delays(0)
    assert (delays.count, round(delays.median, 3), round(delays.worst, 3)) == (3, 0.3, 1.0)
    assert ledger.delays(100.2, 100.5).count == 1
    assert ledger.delays(200).count == 0


def test_rates_are_of_full_spans_only() -> None:
    clock = Clock()
    ledger = Ledger(clock)
    ledger.begin("id", "ada", "ws·west")
    for at in (100.1, 100.2, 100.7, 101.2):
        clock.now = at
        ledger.deliver("id", 1)
    assert ledger.rates(0.5, 3) == [0.0, 4.0, 2.0]  # of 99.5, 100.0 and 100.5; 101.0 is not over
    clock.now = 200.0
    assert ledger.rates(0.5, 3) == [0.0, 0.0, 0.0]


def test_an_inbox_keeps_what_came_as_it_came() -> None:
    inbox = Inbox()
    message = Frame("message.created", "c1", {"seq": 2, "client_id": "a"})
    took = [
        inbox.take(frame)
        for frame in (
            Frame("hello", "c0", {}),
            message,
            message,
            Frame("typing.started", None, {}),
            Frame("receipt.read", "c2", {}),
            Frame("heartbeat", "c3", {}),
            Frame("resync", "c4", {}),
        )
    ]
    assert took == [False, True, True, False, False, False, False]
    assert (inbox.copies, inbox.events) == ([Copy(2, "a")] * 2, ["c1", "c1", "c2"])
    assert (inbox.resyncs, inbox.last_seq) == (1, 2)


def test_the_highest_bar_reaches_the_top() -> None:
    assert bar_lines([0, 1, 2, 4], 2) == ["   █", " ▄██"]
    assert bar_lines([0, 0], 2) == ["  ", "  "]


def test_times_are_told_in_the_unit_that_fits() -> None:
    assert [span(0.0384), span(0.9996), span(12.34)] == ["38 ms", "1.0 s", "12.3 s"]
