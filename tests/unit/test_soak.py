"""What `make soak` calls flat, and what it calls wrong: on made-up samples, since the real ones take ten minutes."""

from __future__ import annotations

import json
import random

import pytest

from soak.figures import Run, judge, missing, table
from soak.person import Chat, Person
from soak.sampling import Sample
from soak.tally import Tally
from soak.verdict import Allowance, judge_trend, slope

TIMES = [2.0 * number for number in range(200)]
MEMORY = Allowance(0.03, 2.0)
NOISE = random.Random(7)


def noisy(level: float, growth: float = 0.0) -> list[float]:
    """Samples about `level`, growing by `growth` from the first to the last."""
    return [level + growth * at / TIMES[-1] + NOISE.gauss(0, 1.0) for at in TIMES]


def flat(values: list[float]) -> bool | None:
    return judge_trend("memory", "MiB", TIMES[: len(values)], values, MEMORY).flat


def test_noise_and_a_falling_figure_are_flat() -> None:
    assert flat(noisy(100.0))
    assert flat(noisy(100.0, -30.0))


def test_steady_growth_beyond_the_allowance_is_not_flat() -> None:
    assert flat(noisy(100.0, 2.0))
    assert flat(noisy(100.0, 6.0)) is False


def test_wild_samples_do_not_hide_growth_nor_make_it() -> None:
    spiky = noisy(100.0)
    spiky[-10:] = [400.0] * 10
    assert flat(spiky)
    growing = noisy(100.0, 8.0)
    growing[:10] = [400.0] * 10
    assert flat(growing) is False


def test_few_samples_say_nothing() -> None:
    assert flat([1.0, 100.0, 200.0]) is None


def test_the_slope_is_that_of_a_line_and_nothing_for_one_moment() -> None:
    assert slope([0.0, 1.0, 4.0], [1.0, 3.0, 9.0]) == pytest.approx(2.0)
    assert slope([1.0, 1.0], [1.0, 2.0]) == 0.0
    assert slope([], []) == 0.0


FIGURES = {
    "memory, instance 1": 100.0,
    "PostgreSQL memory": 200.0,
    "tasks, instance 1": 30.0,
    "sessions, instance 1": 0.0,
    "cached ring, instance 1": 4000.0,
    "log rows past retention": 0.0,
}


def run(samples: list[dict[str, float]], after: dict[str, float] | None = None) -> Run:
    return Run(
        [Sample(2.0 * number, FIGURES | sample) for number, sample in enumerate(samples)],
        Sample(0.0, FIGURES),
        Sample(2.0 * len(samples), FIGURES | (after or {})),
        Tally(),
    )


def wrong(found: Run) -> set[tuple[str, str]]:
    return {(verdict.figure, verdict.rule) for verdict in judge(found) if verdict.flat is False}


def test_what_fills_up_during_the_warm_up_is_no_growth_and_what_goes_on_is() -> None:
    assert wrong(run([{"memory, instance 1": min(100.0, n / 1.2)} for n in range(300)])) == set()
    assert wrong(run([{"memory, instance 1": 100.0 + n / 20} for n in range(300)])) == {
        ("memory, instance 1", "trend")
    }


def test_a_short_run_says_nothing_of_trends() -> None:
    verdicts = judge(run([{"memory, instance 1": 100.0 + n} for n in range(60)]))
    assert {verdict.flat for verdict in verdicts if verdict.rule == "trend"} == {None}


def test_one_task_more_with_everybody_gone_is_one_too_many() -> None:
    assert wrong(run([{}] * 5, after={"tasks, instance 1": 31.0})) == {("tasks, instance 1", "rest")}
    assert wrong(run([{}] * 5, after={"tasks, instance 1": 29.0})) == set()


def test_one_sample_beyond_a_bound_is_enough() -> None:
    assert wrong(run([{}, {"cached ring, instance 1": 4100.0}, {}])) == {("cached ring, instance 1", "bound")}
    assert wrong(run([{}, {"log rows past retention": 1.0}, {}])) == {("log rows past retention", "bound")}


def test_the_table_names_every_figure_and_what_is_not_flat() -> None:
    lines = table(judge(run([{}] * 5, after={"sessions, instance 1": 2.0}))).splitlines()
    assert [line.split("  ")[0] for line in lines if line.endswith("NO")] == ["sessions, instance 1"]


def test_what_never_happened_is_missing() -> None:
    found = run([])
    assert "sign out" in missing(found)
    found.tally.done["sign out"] += 1
    assert "sign out" not in missing(found)


@pytest.fixture
def person() -> Person:
    # Nothing here connects: a session needs a running loop, and is not asked for anything.
    return Person("ann", (1,), random.Random(1), None, Tally(), chats=[Chat("chat", False, [])])  # type: ignore[arg-type]


def message(seq: int) -> bytes:
    data = {"conversation_id": "chat", "seq": seq, "sender_id": "bob"}
    return json.dumps({"type": "message.created", "topic": {}, "cursor": f"c{seq}", "data": data}).encode()


def test_a_message_that_comes_twice_or_late_is_wrong(person: Person) -> None:
    for seq in (1, 2, 5):
        person.told(message(seq))
    assert (person.cursor, person.chats[0].last_seq, person.tally.wrong) == ("c5", 5, {})
    person.told(message(5))
    person.told(message(3))
    assert person.tally.wrong == {"order": 2}


@pytest.mark.parametrize(("status", "is_wrong"), [(200, 0), (404, 0), (503, 0), (400, 1), (422, 1), (500, 1)])
def test_refusals_that_may_be_are_counted_and_others_are_wrong(status: int, is_wrong: int) -> None:
    tally = Tally()
    tally.answered("send", status, "…")
    assert (tally.wrong.total(), tally.done.total()) == (is_wrong, int(status == 200))
