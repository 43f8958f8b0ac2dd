"""`make faults` in little: a few people and a few seconds a fault, on one stage. docs/faults.md has it in full."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
import uvloop

from faults.matrix import MATRIX
from faults.report import Row, line_of, words_of
from faults.running import run_all
from faults.scale import SHORT

LEFT_OUT = {"F2", "F6", "F11", "F12"}
"""What takes longer, and has tests of its own: of drains, slow consumers and revocation; F11 needs a disk to fill."""


@pytest.mark.timeout(180)
def test_nothing_is_lost_doubled_reordered_or_leaked_whatever_breaks(
    record_property: Callable[[str, object], None],
) -> None:
    faults = [fault for fault in MATRIX if fault.id not in LEFT_OUT]
    rows: list[Row] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_all(faults, SHORT, random.randrange(2**32), print, rows.append))
    record_property("rows", [line_of(row) for row in rows])
    assert [words for row in rows for words in words_of(row)] == []
    assert len(rows) == len(faults)
    assert all(row.holds and row.acknowledged and row.received for row in rows)
