"""Logs: JSON by default, readable in a terminal, with the request's id and without secrets."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import threading
from typing import Any

import pytest
import structlog

from server.logging import bind_request, clear_request, logging_to, request_id, without_password
from server.settings import Settings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Stalled(io.StringIO):
    """A pipe that nobody reads: writing to it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = threading.Event()
        self.resumed = threading.Event()

    def write(self, text: str) -> int:
        self.writing.set()
        assert self.resumed.wait(10)
        return super().write(text)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_and_logger() -> None:
    stream = io.StringIO()
    with logging_to(stream, Settings()):
        structlog.get_logger("parley.test").info("token_refused", reason="expired", attempts=3)
    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {
        "event": "token_refused",
        "level": "info",
        "logger": "parley.test",
        "reason": "expired",
        "attempts": 3,
    }


def test_a_value_that_is_no_json_costs_neither_the_line_nor_its_caller() -> None:
    stream = io.StringIO()
    with logging_to(stream, Settings()):
        structlog.get_logger("parley.test").info("odd", word="\udcff", number=1 << 70, thing=object)
    (line,) = lines(stream)
    assert (line["word"], line["number"], line["thing"]) == ("\udcff", 1 << 70, "<class 'object'>")


class Nameless:
    def __repr__(self) -> str:
        raise RuntimeError("no name")


class Wordless:
    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __repr__(self) -> str:
        return "Wordless()"


def endless() -> list[object]:
    made: list[object] = []
    made.append(made)
    return made


@pytest.mark.parametrize("made", [io.StringIO, Terminal])
@pytest.mark.parametrize(
    "value",
    [{(1, 2): 3}, endless(), Nameless(), {"in": Nameless()}],
    ids=["key", "endless", "nameless", "in"],
)
def test_a_value_that_cannot_be_shown_costs_only_itself(made: type[io.StringIO], value: object) -> None:
    stream = made()
    with logging_to(stream, Settings()):
        structlog.get_logger("parley.test").error("odd", data=value, reason="expired")
        try:
            _fail("")
        except ValueError:
            structlog.get_logger("parley.test").exception("worse", data=value)
        structlog.get_logger("parley.test").info(value)
        structlog.get_logger("parley.test").info("next")
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    for word in ("odd", "expired", "worse", "ValueError: wrong", "next"):
        assert word in text
    if made is io.StringIO:
        assert [line["level"] for line in lines(stream)] == ["error", "error", "info", "info"]
        assert lines(stream)[0]["reason"] == "expired"
        assert isinstance(lines(stream)[0]["data"], str | dict)


def test_an_address_that_is_none_costs_neither_the_line_nor_its_caller() -> None:
    stream = io.StringIO()
    with logging_to(stream, Settings()):
        structlog.get_logger("parley.test").info("odd", redis_url="redis://:hunter2@[x/0", reason="expired")
    (line,) = lines(stream)
    assert (line["redis_url"], line["reason"]) == ("[redacted]", "expired")


def test_what_libraries_log_takes_the_same_form() -> None:
    stream = io.StringIO()
    with logging_to(stream, Settings()):
        logging.getLogger("aiohttp.server").warning("bad request from %s", "10.0.0.1")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == (
        "bad request from 10.0.0.1",
        "aiohttp.server",
        "warning",
    )


def test_every_line_of_a_request_and_its_children_carries_its_id() -> None:
    stream = io.StringIO()
    log = structlog.get_logger("parley.test")

    async def handle(number: str) -> None:
        bind_request(number)
        await asyncio.sleep(0)
        assert request_id() == number
        async with asyncio.TaskGroup() as children:
            children.create_task(note(number))

    async def note(number: str) -> None:
        log.info("child", expected=number)
        logging.getLogger("library").warning("%s", number)

    async def serve() -> None:
        async with asyncio.TaskGroup() as requests:
            for number in ("one", "two"):
                requests.create_task(handle(number))
        log.info("outside")

    with logging_to(stream, Settings()):
        asyncio.run(serve())
    by_event = lines(stream)
    assert all(line["request_id"] == line["expected"] for line in by_event if line["event"] == "child")
    assert all(line["request_id"] == line["event"] for line in by_event if line["logger"] == "library")
    assert "request_id" not in by_event[-1]


def test_a_cleared_request_leaves_nothing_behind() -> None:
    bind_request("one", route="/x")
    clear_request()
    assert request_id() is None


@pytest.mark.parametrize(
    "field",
    ["password", "access_token", "secret_key", "Authorization", "set_cookie", "ticket", "body", "content"],
)
def test_fields_named_like_secrets_or_messages_are_blanked(field: str) -> None:
    stream = io.StringIO()
    with logging_to(stream, Settings()):
        structlog.get_logger().info("something", **{field: "hunter2"})
    assert "hunter2" not in stream.getvalue()
    assert lines(stream)[0][field] == "[redacted]"


def test_counts_and_flags_about_secrets_stay() -> None:
    stream = io.StringIO()
    with logging_to(stream, Settings()):
        structlog.get_logger().info("something", tokens=3, token_valid=False)
    assert (lines(stream)[0]["tokens"], lines(stream)[0]["token_valid"]) == (3, False)


def test_passwords_in_urls_are_left_out() -> None:
    stream = io.StringIO()
    with logging_to(stream, Settings()):
        structlog.get_logger().info(
            "connecting", database_url="postgresql://me:hunter2@db:5432/x?sslmode=require"
        )
    assert lines(stream)[0]["database_url"] == "postgresql://db:5432/x"


def test_local_variables_stay_out_of_a_logged_exception() -> None:
    for stream in (io.StringIO(), Terminal()):
        with logging_to(stream, Settings()):
            try:
                _fail("hunter" + "2")
            except ValueError:
                structlog.get_logger().exception("failed")
        assert "ValueError: wrong" in stream.getvalue()
        assert "hunter2" not in stream.getvalue()


def _fail(what_somebody_wrote: str) -> None:
    raise ValueError("wrong")


def test_a_terminal_gets_readable_lines() -> None:
    stream = Terminal()
    with logging_to(stream, Settings(log_format="auto")):
        structlog.get_logger().info("started", port=8080)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert re.search(r"\[info +\] started .*port=8080", plain)


def test_json_can_be_asked_for_in_a_terminal() -> None:
    stream = Terminal()
    with logging_to(stream, Settings(log_format="json")):
        structlog.get_logger().info("started")
    assert lines(stream)[0]["event"] == "started"


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    with logging_to(stream, Settings(log_level="warning")):
        structlog.get_logger().info("quiet")
        logging.getLogger("library").info("quiet")
        structlog.get_logger().warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_a_pipe_that_nobody_reads_does_not_hold_up_who_logs() -> None:
    stream = Stalled()
    with logging_to(stream, Settings()):
        log = structlog.get_logger()
        log.info("first")
        assert stream.writing.wait(10)
        for number in range(10_500):
            log.info("more", number=number)
        stream.resumed.set()
    text = stream.getvalue()
    assert re.search(r"parley: \d{3,} log lines were dropped", text)
    assert '"event":"first"' in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:pw@db:5432/x?host=/run", "postgresql://db:5432/x"),
        ("redis://:pw@cache/0", "redis://cache/0"),
        ("unix:///run/redis.sock?password=pw", "unix:///run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_its_credentials(url: str, shown: str) -> None:
    assert without_password(url) == shown
