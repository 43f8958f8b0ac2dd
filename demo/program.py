"""Plays the show once, from the command line to the exit status."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import aiohttp
import uvloop
from rich.console import Console

from demo.counting import count
from demo.frames import CUTS, Refused
from demo.instances import Fleet, StartError
from demo.judging import Verdict, judge
from demo.opening import gather_people, start_instances
from demo.report import report_proof, report_story
from demo.script import INSTANCES
from demo.stage import Stage
from demo.talking import talk
from demo.views import LiveView, View, fitting_view

EXPECTED = (StartError, Refused, *CUTS)
SHOW_SECONDS = 300.0
"""Past this something hangs, and the show ends with a complaint."""


def main() -> int:
    """The exit status: 0 where the proof holds, 1 where anything is wrong, 128 and more where a signal ended it."""
    parser = argparse.ArgumentParser(
        prog="python -m demo", description="A scripted minute: two instances, three transports, and a proof."
    )
    parser.add_argument("--plain", action="store_true", help="lines instead of panels")
    parser.add_argument("--pace", type=float, default=1.0, help="stretches every pause; 0.5 is twice as fast")
    options = parser.parse_args()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a stream of text always is one
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_stopped(options.pace, plain=options.plain))


async def _until_stopped(pace: float, *, plain: bool) -> int:
    console = Console()
    with _cancelled_by_signals() as heard:
        try:
            return await _show(console, pace, plain=plain)
        except (asyncio.CancelledError, *EXPECTED, ExceptionGroup) as error:
            if heard:
                with suppress(OSError):  # the terminal may be gone
                    console.print("Stopped, with everything that was started.")
                return 128 + heard[0]
            for problem in _expected(error):
                print(f"parley demo: {str(problem) or 'something took too long'}", file=sys.stderr)
    return 1


async def _show(console: Console, pace: float, *, plain: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="parley-demo-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o711)  # noqa: S103  (as root, PostgreSQL is another account and must get through)
        async with Fleet(Path(name), INSTANCES) as fleet, aiohttp.ClientSession() as http:
            stage = Stage(fleet, http, pace)
            view = fitting_view(console, stage, os.environ, plain=plain)
            try:
                async with asyncio.timeout(SHOW_SECONDS):
                    verdict = await _play(stage, view, http)
            except asyncio.CancelledError:
                console.print("Stopping ...")
                raise
            if isinstance(view, LiveView):
                report_story(console, stage)
            report_proof(console, stage, verdict)
    return 0 if verdict.proof.holds else 1


async def _play(stage: Stage, view: View, http: aiohttp.ClientSession) -> Verdict:
    """The four acts, with everything that runs beside them."""
    async with asyncio.TaskGroup() as tasks:
        beside = [
            tasks.create_task(work) for work in (view.run(), stage.fleet.watch(http), stage.redis.watch())
        ]
        await start_instances(stage)
        beside += await gather_people(stage, tasks)
        await talk(stage)
        await count(stage)
        verdict = await judge(stage)
        for task in beside:
            task.cancel()
    return verdict


@contextmanager
def _cancelled_by_signals() -> Iterator[list[int]]:
    """The first signal cancels the show, which then ends what it started; that is not cut short by another."""
    loop, task, heard = asyncio.get_running_loop(), asyncio.current_task(), list[int]()
    assert task is not None

    def hear(sent: signal.Signals) -> None:
        if not heard:
            task.cancel()
        heard.append(sent)

    heeded = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for each in heeded:
        loop.add_signal_handler(each, hear, each)
    try:
        yield heard
    finally:
        for each in heeded:
            loop.remove_signal_handler(each)


def _expected(error: BaseException) -> Iterator[BaseException]:
    """What to tell of a show that could not go on. Raises what is a mistake of ours instead."""
    if isinstance(error, EXPECTED):
        yield error
        return
    if not isinstance(error, ExceptionGroup):
        raise error
    expected, unexpected = error.split(EXPECTED)
    if unexpected is not None:
        raise unexpected
    for each in expected.exceptions if expected is not None else ():
        yield from _expected(each)
