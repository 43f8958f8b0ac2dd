"""Readiness by part, and the files of the docs page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from handlers.service import Check, Part, Readiness, ReadyReport
from server.docs import PAGE, documents

OK = Part("ok")


def check(part: Part | Exception, *, vital: bool = True) -> Check:
    async def run() -> Part:
        if isinstance(part, Exception):
            raise part
        return part

    return Check(run, vital)


def never() -> Callable[[], Awaitable[Part]]:
    async def run() -> Part:
        await asyncio.Event().wait()
        return OK

    return run


async def report(draining: bool = False, /, **checks: Check) -> ReadyReport:
    return await Readiness(checks, draining=lambda: draining, timeout=0.05).report()


async def test_all_parts_well_is_ok() -> None:
    made = await report(database=check(OK), redis=check(OK, vital=False))
    assert made.status == "ok"
    assert {name: part.status for name, part in made.parts.items()} == {
        "database": "ok",
        "redis": "ok",
        "drain": "ok",
    }


async def test_a_part_that_can_be_done_without_makes_it_degraded() -> None:
    made = await report(database=check(OK), redis=check(Part("down", "gone"), vital=False))
    assert (made.status, made.parts["redis"].status, made.parts["redis"].detail) == (
        "degraded",
        "down",
        "gone",
    )
    assert (await report(database=check(Part("degraded")))).status == "degraded"


async def test_a_frozen_part_that_can_be_done_without_is_not_waited_for_as_long_as_a_balancer_waits() -> None:
    checks = {"database": check(OK), "redis": Check(never(), vital=False)}
    made = await Readiness(checks, draining=lambda: False).report()
    assert made.status == "degraded"
    assert made.parts["redis"].detail == "no answer within 0.5 s"


async def test_a_vital_part_that_is_down_takes_the_instance_down() -> None:
    made = await report(database=check(Part("down")), redis=check(OK, vital=False))
    assert made.status == "down"


async def test_a_check_that_raises_tells_no_secret() -> None:
    made = await report(database=check(RuntimeError("postgresql://ada:s3cret@db/x")))
    assert made.status == "down"
    assert made.parts["database"].detail == "cannot be reached (RuntimeError)"


async def test_a_check_that_does_not_answer_is_down_and_holds_nothing_up() -> None:
    made = await report(database=check(OK), log=Check(never()))
    assert (made.status, made.parts["log"].status) == ("down", "down")
    assert made.parts["database"].status == "ok"


async def test_draining_shows_at_once_and_checks_are_not_run_for_every_question() -> None:
    runs = 0
    draining = False
    now = 100.0

    async def run() -> Part:
        nonlocal runs
        runs += 1
        return OK

    readiness = Readiness({"database": Check(run)}, draining=lambda: draining, clock=lambda: now)
    for _ in range(5):
        assert (await readiness.report()).status == "ok"
    assert runs == 1
    draining = True
    assert (await readiness.report()).status == "down"
    now += 1
    await readiness.report()
    assert runs == 2


async def test_many_who_ask_at_once_cost_one_round_of_checks() -> None:
    runs = 0
    answer = asyncio.Event()

    async def run() -> Part:
        nonlocal runs
        runs += 1
        await answer.wait()
        return OK

    readiness = Readiness({"database": Check(run)}, draining=lambda: False)
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(readiness.report()) for _ in range(50)]
        await asyncio.sleep(0)
        asked[0].cancel()  # whoever began may leave: the others are answered all the same
        for _ in range(10):
            await asyncio.sleep(0)
        answer.set()
    assert [task.result().status for task in asked[1:]] == ["ok"] * 49
    assert runs == 2


def test_the_docs_page_asks_no_other_host_and_runs_no_inline_script() -> None:
    made = documents(b"{}", b"{}")
    links = re.findall(r'(?:src|href)="([^"]+)"', PAGE)
    assets = {link.removeprefix("/api/docs/") for link in links if link.startswith("/api/docs/")}
    assert assets == set(made.assets)
    assert all(link.startswith(("/api/", "data:,")) for link in links)
    assert re.findall(r"<script(?![^>]*src)", PAGE) == []
    for path in made.assets.values():
        assert path.stat().st_size > 100


def test_the_viewer_is_new_enough_for_openapi_3_1() -> None:
    bundle = documents(b"", b"").assets["swagger-ui-bundle.js"].read_text(errors="replace")
    found = re.search(r'PACKAGE_VERSION:"(\d+)\.', bundle)
    assert found is not None
    assert int(found[1]) >= 5


@pytest.mark.parametrize("name", ["docs.js", "docs.css"])
def test_own_files_name_no_other_host(name: str) -> None:
    text = documents(b"", b"").assets[name].read_text()
    assert "http://" not in text
    assert "https://" not in text
