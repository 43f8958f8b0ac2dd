"""What `make faults` says of what it found, and which errors it takes for findings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faults.matrix import MATRIX
from faults.program import main
from faults.report import Row, line_of, row_of, table_of, words_of, write
from faults.running import _reasons
from faults.stage import Broken
from faults.verdict import Kind, Verdict, Violation


def row(
    *violations: Violation, wrong: tuple[str, ...] = (), caught_up: float | None = 0.5, **more: str
) -> Row:
    verdict = Verdict(10, 9, 80, violations)
    return row_of("F1", "a fault", 7, verdict, wrong, caught_up, 3.0, ["a note"], **more)


def test_a_fault_holds_where_nothing_is_wrong() -> None:
    made = row()
    assert made.holds
    assert line_of(made).split()[:6] == ["F1", "a", "fault", "10", "9", "80"]
    assert line_of(made).endswith("holds")
    assert words_of(made) == []


@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_of_violation_breaks_it_and_is_counted_once(kind: Kind) -> None:
    made = row(Violation(kind, "something"))
    counts = [made.lost, made.doubled, made.reordered, made.leaked, made.other]
    assert not made.holds
    assert sum(counts) == 1
    assert line_of(made).endswith("BROKEN")


def test_what_is_noticed_besides_breaks_it_too() -> None:
    made = row(wrong=("a request failed",))
    assert (made.other, made.holds) == (1, False)
    assert any("a request failed" in words for words in words_of(made))


def test_who_never_catches_up_breaks_it() -> None:
    assert not row(caught_up=None).holds
    assert "never" in line_of(row(caught_up=None))


def test_the_words_say_how_to_see_it_again_and_are_few() -> None:
    words = words_of(row(*(Violation(Kind.LOST, f"message {n}") for n in range(30))))
    assert "--only F1 --seed 7" in words[0]
    assert 5 < len(words) < 15
    assert words[-1].strip() == "and 22 more"


def test_the_file_for_machines_has_every_row(tmp_path: Path) -> None:
    path = tmp_path / "results" / "latest.json"
    write(path, [row(), row(wrong=("x",))], full=True)
    found = json.loads(path.read_text())
    assert [each["holds"] for each in found["rows"]] == [True, False]
    assert found["holds"] is False
    assert found["rows"][0]["notes"] == ["a note"]


def test_the_table_for_the_document_has_every_row_and_its_seed(tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    write(path, [row(), row(Violation(Kind.LOST, "x"))], full=True)
    head, _, good, bad, _, about = table_of(path).splitlines()
    assert head.count("|") == good.count("|") == bad.count("|")
    assert good.startswith("| F1 | a fault | 10 | 9 | 80 | 0 | 0 | 0 | 0 | 0 | 0.5 s | holds |")
    assert "| 1 | 0 | 0 | 0 | 0 |" in bad
    assert "**broken**" in bad
    assert "seed 7" in about


def test_findings_are_taken_out_of_groups_and_mistakes_are_not() -> None:
    found = ExceptionGroup("", [Broken("a"), ExceptionGroup("", [Broken("b"), TimeoutError()])])
    assert [str(each) for each in _reasons(found)] == ["a", "b", ""]
    with pytest.raises(ExceptionGroup):
        list(_reasons(ExceptionGroup("", [Broken("a"), KeyError("a slip")])))


def test_an_unknown_fault_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "F1,F99"])
    assert "no F99; there are F1, F2" in capsys.readouterr().err


def test_every_fault_is_in_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
    assert [fault.id for fault in MATRIX if f"| {fault.id} |" not in text] == []
