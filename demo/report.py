"""The end: what was found, as a table and one sentence. Fits 80 columns."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.judging import Verdict
from demo.panels import TONES
from demo.proof import Row
from demo.stage import Stage, span

COLUMNS = (
    "received",
    "missing",
    "doubled",
    "out of\norder",
    "caught up\nafter kill",
)


def report_story(console: Console, stage: Stage) -> None:
    """What happened, for a screen that no longer shows it."""
    for beat in stage.story:
        console.print(f"{beat.at:6.1f}  {beat.text}", style=TONES[beat.tone], highlight=False, soft_wrap=True)


def report_proof(console: Console, stage: Stage, verdict: Verdict) -> None:
    """The table, the figures about all, and the summary in one line."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("who")
    table.add_column("now at")
    for title in ("sent", "acked", *COLUMNS):
        table.add_column(title, justify="right")
    for row in verdict.proof.rows:
        table.add_row(*_cells(stage, verdict, row))
    console.print(table)
    for sentence in _sentences(stage, verdict):
        console.print(sentence, highlight=False)
    style = "bold green" if verdict.proof.holds else "bold red"
    console.print(summary(verdict), style=style, highlight=False, soft_wrap=True)


def _cells(stage: Stage, verdict: Verdict, row: Row) -> list[Text]:
    caught_up = verdict.caught_up.get(row.name)
    found = (row.messages.missing, row.messages.doubled, row.messages.disordered)
    return [
        Text(row.name),
        Text(str(stage.people[row.name].seat)),
        Text(str(row.sent)),
        Text(str(row.acknowledged)),
        Text(str(row.received)),
        *(Text(str(number), "bold red" if number else "green") for number in found),
        Text("-" if caught_up is None else span(caught_up)),
    ]


def _sentences(stage: Stage, verdict: Verdict) -> list[str]:
    rows, ledger = verdict.proof.rows, stage.ledger
    received = sum(row.events_received for row in rows)
    expected = sum(row.events_expected for row in rows)
    delays = ledger.delays(0.0)
    surprises = sum(stage.is_surprise(move) for person in stage.people.values() for move in person.moves)
    return [
        f"Stored by REST, the same on every instance: {verdict.proof.stored:,} messages.",
        f"With edits, reactions, receipts: {received:,} events received, {expected:,} in the log.",
        f"From send to receipt: half within {span(delays.median)}, the slowest {span(delays.worst)}.",
        f"Sent again for want of an answer: {ledger.retries}, of which {ledger.replayed} were stored already.",
        *([f"Cut off though nothing was killed: {surprises}."] if surprises else []),
        *(f"WRONG: {complaint}." for complaint in verdict.proof.complaints),
    ]


def summary(verdict: Verdict) -> str:
    """One line."""
    proof = verdict.proof
    what = f"{sum(row.received for row in proof.rows):,} copies of {proof.stored:,} messages"
    if proof.holds:
        return f"PROVED: {what}, none missing, doubled or out of order."
    return f"FAILED: {what}, {len(proof.complaints)} complaints."
