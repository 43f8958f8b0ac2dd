"""The bench's sums, verdicts and table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plot import share_of_target
from bench.report import HEADINGS, Row, Target, as_json, number, table
from bench.stats import median, percentile

SAMPLES = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (1, 1.0), (50, 50.0), (50.1, 51.0), (99, 99.0), (100, 100.0)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], percent) == expected


@given(SAMPLES, st.floats(0, 100))
def test_percentile_is_a_sample_that_enough_samples_do_not_exceed(
    samples: list[float], percent: float
) -> None:
    found = percentile(samples, percent)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= len(samples) * percent / 100 - 1e-9
    assert sum(sample < found for sample in samples) <= len(samples) * percent / 100 + 1e-9


@pytest.mark.parametrize("percent", [-1, 100.5])
def test_percentile_refuses_what_is_no_percentage(percent: float) -> None:
    with pytest.raises(ValueError, match="within 0 and 100"):
        percentile([1.0], percent)


def test_percentile_and_median_refuse_to_invent_a_figure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)
    with pytest.raises(ValueError, match="no samples"):
        median([])


def test_median_is_the_middle_or_between_the_two() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5


def test_a_ratio_is_judged_against_the_peer_of_the_same_run() -> None:
    at_least = Target("at least", 1.5, of_ratio=True)
    assert Row("S1", "sends", 150.0, "per s", "peer", 100.0, at_least).met is True
    assert Row("S1", "sends", 149.0, "per s", "peer", 100.0, at_least).met is False
    at_most = Target("at most", 1.0, of_ratio=True)
    assert Row("S2", "cpu", 5.0, "µs", "peer", 5.0, at_most).met is True
    assert Row("S2", "cpu", 5.1, "µs", "peer", 5.0, at_most).met is False


def test_a_value_is_judged_without_a_peer_and_the_ratio_is_still_shown() -> None:
    row = Row("S4", "p50", 2.0, "ms", "commit", 0.5, Target("at most", 3, of_ratio=False))
    assert row.met is True
    assert row.ratio == 4.0


def test_without_the_peer_there_is_no_verdict() -> None:
    row = Row("S2", "cpu", 5.0, "µs", "peer", None, Target("at most", 1.0, of_ratio=True))
    assert row.met is None
    assert row.ratio is None
    assert share_of_target(row) is None
    assert "?" in row.cells()


def test_a_row_for_the_record_has_no_verdict() -> None:
    row = Row("S1", "p50", 5.0, "ms")
    assert row.met is None
    assert row.cells()[HEADINGS.index("met")] == ""


def test_share_of_target_is_one_where_just_met_and_more_where_beaten() -> None:
    assert share_of_target(Row("S", "w", 60.0, "µs", target=Target("at most", 60, False))) == 1.0
    assert share_of_target(Row("S", "w", 30.0, "µs", target=Target("at most", 60, False))) == 2.0
    assert share_of_target(Row("S", "w", 30.0, "/s", "p", 10.0, Target("at least", 1.5, True))) == 2.0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (4.567, "4.57"),
        (3.0, "3"),
        (78.94, "78.9"),
        (20.0, "20"),
        (123456.7, "123,457"),
    ],
)
def test_numbers_are_shown_with_the_figures_that_matter(value: float, shown: str) -> None:
    assert number(value) == shown


def test_table_keeps_its_columns_under_their_headings() -> None:
    rows = [
        Row("S1", "short", 1.0, "µs"),
        Row(
            "S2",
            "a much longer description",
            123456.0,
            "per s",
            "Nchan",
            1000.0,
            Target("at least", 10, True),
        ),
    ]
    lines = table(rows).split("\n")
    assert len(lines) == len(rows) + 2
    assert lines[3].index("Nchan") + len("Nchan 1,000") == lines[0].index("against") + len("against")
    assert "123 x" in lines[3]
    assert lines[3].split()[-1] == "yes"


def test_json_row_keeps_value_peer_ratio_and_verdict() -> None:
    row = as_json(Row("S2", "cpu", 5.0, "µs", "Nchan", 10.0, Target("at most", 1.0, True)))
    assert row["ratio"] == 0.5
    assert row["met"] is True
    assert row["target"] == {"bound": "at most", "value": 1.0, "of_ratio": True}
