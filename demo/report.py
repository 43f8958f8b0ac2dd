"""The end: what was found, as a table and one sentence."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.judging import Verdict
from demo.panels import TONES
from demo.proof import Row
from demo.stage import Stage, span


def report_story(console: Console, stage: Stage) -> None:
    """What happened, for a screen that no longer shows it."""
    for beat in stage.story:
        console.print(f"{beat.at:6.1f}  {beat.text}", style=TONES[beat.tone], highlight=False, soft_wrap=True)


def report_proof(console: Console, stage: Stage, verdict: Verdict) -> None:
    """The table, the figures about all, and the summary in one line. Fits 80 columns."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("receiver\nnow at")
    for title in ("sent\nacknowledged", "received\nof stored", "missing", "doubled", "out of\norder"):
        table.add_column(title, justify="right")
    table.add_column("caught up\nafter kill", justify="right")
    for row in verdict.proof.rows:
        table.add_row(*_cells(stage, verdict, row))
    console.print(table)
    for sentence in _sentences(stage, verdict):
        console.print(sentence, highlight=False)
    console.print(
        summary(stage, verdict), style="bold green" if verdict.proof.holds else "bold red", soft_wrap=True
    )


def _cells(stage: Stage, verdict: Verdict, row: Row) -> list[Text]:
    caught_up = verdict.caught_up.get(row.name)
    found = (row.messages.missing, row.messages.doubled, row.messages.disordered)
    return [
        Text(f"{row.name:<5}{stage.people[row.name].seat}"),
        Text(f"{row.sent} / {row.acknowledged}"),
        Text(f"{row.received} / {verdict.proof.stored}"),
        *(Text(str(number), "bold red" if number else "green") for number in found),
        Text("not cut off" if caught_up is None else span(caught_up)),
    ]


def _sentences(stage: Stage, verdict: Verdict) -> list[str]:
    rows, ledger = verdict.proof.rows, stage.ledger
    received, expected = (
        sum(each) for each in zip(*((r.events_received, r.events_expected) for r in rows), strict=True)
    )
    delays = ledger.delays(0.0)
    return [
        f"Edits, reactions, deletes and receipts too: {received:,} events received, {expected:,} in the log for them.",
        f"From sending to receiving: half within {span(delays.median)}, the slowest {span(delays.worst)}.",
        f"Sent again for want of an answer: {ledger.retries}.",
        *(f"WRONG: {complaint}" for complaint in verdict.proof.complaints),
    ]


def summary(stage: Stage, verdict: Verdict) -> str:
    """One line."""
    people, copies = len(verdict.proof.rows), sum(row.received for row in verdict.proof.rows)
    counted = (
        f"{verdict.proof.stored:,} messages, {people} receivers, {copies:,} copies, {stage.elapsed:.0f} s"
    )
    if verdict.proof.holds:
        return f"PROVED: nobody missed, doubled or reordered anything ({counted})."
    return f"FAILED: {len(verdict.proof.complaints)} complaints ({counted})."
