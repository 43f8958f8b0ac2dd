"""The demo on a terminal: panels that fit it, plain lines where there is none, and an honest last line."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from rich.cells import cell_len
from rich.console import Console

from demo.frames import Frame
from demo.inbox import Copy
from demo.instances import Fleet
from demo.judging import Verdict
from demo.proof import Given, Sent, prove
from demo.report import report_proof
from demo.script import INSTANCES
from demo.stage import Stage, Tone
from demo.views import LiveView, PlainView, draw, fitting_view

MESSAGES = 30
TALK = 3


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A show in its third act: some talk, then numbers."""
    async with aiohttp.ClientSession() as http:
        made = Stage(Fleet(tmp_path, INSTANCES), http)
        made.names.update({name: name for name in made.people})
        made.conversation, made.counting_from = "a conversation", TALK + 1
        names = list(made.people)
        for seq in range(1, MESSAGES + 1):
            sender, client_id = names[seq % len(names)], f"id-{seq}"
            body = "Shooting stars on Saturday! Who is in?" if seq <= TALK else str(seq - TALK)
            data = {"seq": seq, "sender_id": sender, "client_id": client_id, "body": body}
            frame = Frame("message.created", f"cursor-{seq}", data)
            made.ledger.begin(client_id, sender, "ws·west")
            made.transcript.apply(frame)
            for person in made.people.values():
                person.inbox.take(frame)
                made.ledger.deliver(client_id, seq)
            made.ledger.acknowledge(client_id, seq, replayed=False)
        made.tell("kill -9 west: 3 people, 2 mid-send", Tone.FAULT)
        yield made


def screen(stage: Stage, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(draw(stage, width, height), height=height)
    return capture.get().rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(76, 22), (80, 24), (120, 40), (200, 60)])
async def test_panels_fit_the_terminal_exactly(stage: Stage, width: int, height: int) -> None:
    lines = screen(stage, width, height)
    assert len(lines) == height
    assert {cell_len(line) for line in lines} == {width}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
async def test_panels_show_everybody_the_newest_number_and_what_happened(
    stage: Stage, width: int, height: int
) -> None:
    text = "\n".join(screen(stage, width, height))
    assert all(f" {name} " in text for name in [*stage.people, *INSTANCES])
    assert f" {MESSAGES - TALK} " in text
    assert "kill -9 west: 3 people, 2 mid-send" in text
    assert f"{MESSAGES * len(stage.people)}" in text
    assert "…" not in text, "something is cut short"


async def test_what_does_not_fit_is_left_out_at_the_top(stage: Stage) -> None:
    for number in range(50):
        stage.tell(f"thing {number}")
    text = "\n".join(screen(stage, 80, 24))
    assert "thing 49" in text
    assert "thing 30" not in text


@pytest.mark.parametrize(
    ("terminal", "size", "environment", "plain", "kind"),
    [
        (True, (80, 24), {}, False, LiveView),
        (False, (80, 24), {}, False, PlainView),
        (True, (80, 24), {"NO_COLOR": "1"}, False, PlainView),
        (True, (80, 24), {"TERM": "dumb"}, False, PlainView),
        (True, (60, 24), {}, False, PlainView),
        (True, (80, 15), {}, False, PlainView),
        (True, (80, 24), {}, True, PlainView),
    ],
)
async def test_panels_are_for_terminals_that_can_show_them(
    stage: Stage, terminal: bool, size: tuple[int, int], environment: dict[str, str], plain: bool, kind: type
) -> None:
    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=size[0],
        height=size[1],
        _environ={"TERM": "xterm", **environment},
    )
    assert type(fitting_view(console, stage, environment, plain=plain)) is kind


async def test_plain_lines_tell_talk_and_story_but_not_each_number(stage: Stage) -> None:
    stage.began -= 10
    output = io.StringIO()
    view = PlainView(Console(file=output, width=80), stage)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await view.run()
    text = output.getvalue()
    assert text.count("Who is in?") == TALK
    assert "-- kill -9 west" in text
    assert f"{MESSAGES} acknowledged" in text
    assert len(text.splitlines()) == TALK + 2
    assert "\x1b" not in text


def reported(stage: Stage, ada: tuple[Copy, ...], stored: tuple[Copy, ...]) -> str:
    sent = [Sent(entry.client_id, entry.sender, entry.seq) for entry in stage.ledger.entries.values()]
    given = {name: Given(ada if name == "ada" else stored, ("c",), ("c",)) for name in stage.people}
    output = io.StringIO()
    verdict = Verdict(prove(sent, {"west": stored}, given), {"ada": 0.034})
    report_proof(Console(file=output, width=80), stage, verdict)
    return output.getvalue()


async def test_the_report_fits_80_columns_and_says_what_is_proved(stage: Stage) -> None:
    stored = tuple(Copy(seq, f"id-{seq}") for seq in range(1, MESSAGES + 1))
    lines = [line.rstrip() for line in reported(stage, stored, stored).splitlines()]
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    assert lines[-1].startswith("PROVED: 180 copies of 30 messages")
    assert any(line.split()[:3] == ["ada", "ws·west", "5"] and line.endswith("34 ms") for line in lines)


async def test_the_report_of_a_lost_message_says_whose_and_fails(stage: Stage) -> None:
    stored = tuple(Copy(seq, f"id-{seq}") for seq in range(1, MESSAGES + 1))
    text = reported(stage, stored[:-1], stored)
    assert "WRONG: ada: messages 1 missing, 0 doubled" in text
    assert text.splitlines()[-1].startswith("FAILED:")
