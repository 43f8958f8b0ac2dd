"""Polls that repeat the one before are answered out of turn; nobody can tell but by the metrics."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import structlog
from aiohttp import web

from server.app import DRAIN, create_app
from server.fast_polls import MAX_EARLY, FastPolls, Lane
from server.protocol import Runner
from tests.support.clients import Api, Json, Person
from tests.support.house import House
from tests.support.raw import RawSocket

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Poller:
    """One connection that polls."""

    def __init__(self, raw: RawSocket, person: Person, headers: dict[str, str], query: str) -> None:
        self.raw = raw
        self.person = person
        self.query = query
        self.headers = {"Host": "localhost", "Authorization": f"Bearer {person.token}", **headers}

    def request(self, cursor: str) -> bytes:
        head = [f"GET /api/v1/realtime/poll?{self.query}&cursor={cursor} HTTP/1.1"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*head, "", ""]).encode()

    async def ask(self, cursor: str) -> None:
        await self.raw.write(self.request(cursor))

    async def answer(self) -> tuple[str, Json]:
        """Head and body of the next answer."""
        _, head = await self.raw.answer()
        length = re.search(r"(?i)\r\ncontent-length: (\d+)\r\n", head)
        assert length is not None, head
        return head, json.loads(await self.raw.exactly(int(length[1])))

    async def poll(self, cursor: str) -> tuple[str, Json]:
        await self.ask(cursor)
        return await self.answer()


@asynccontextmanager
async def polling(
    person: Person, headers: dict[str, str] | None = None, query: str = "wait=0"
) -> AsyncIterator[Poller]:
    raw = await RawSocket.to(person.api.url)
    try:
        yield Poller(raw, person, headers or {}, query)
    finally:
        raw.close()


@asynccontextmanager
async def repeating(
    person: Person, cursor: str, headers: dict[str, str] | None = None, query: str = "wait=0"
) -> AsyncIterator[Poller]:
    """The same, once its polls are answered out of turn."""
    async with polling(person, headers, query.replace("wait=30", "wait=0")) as poller:
        await poller.poll(cursor)
        while not await repeated(person.api, lambda: poller.poll(cursor)):
            pass  # the first on a connection is never looked at, the second is learnt from
        if "wait=30" in query:
            poller.query = query
            await person.direct_with(await person.api.register())
            await poller.poll(cursor)
        yield poller


async def metric(api: Api, name: str) -> int:
    text = (await api.call("GET", "//metrics")).text
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in text.split("\n") if line.startswith(name))


async def repeated(api: Api, act: Callable[[], Any]) -> int:
    """How many polls were answered out of turn while ``act`` went on."""
    before = await metric(api, "parley_polls_repeated_total")
    await act()
    return await metric(api, "parley_polls_repeated_total") - before


async def now_waiting(api: Api, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while await metric(api, 'parley_connections{transport="poll"}') != count:
            pass


def constant(head: str) -> list[str]:
    """What two answers to the same question have in common."""
    return re.sub(r"(?im)^(x-request-id|date|ratelimit):.*$", r"\1", head).split("\r\n")


def left(head: str) -> int:
    """How many requests the client is still allowed."""
    found = re.search(r'\r\nRateLimit: "\w+";r=(\d+);', head)
    assert found is not None, head
    return int(found[1])


@asynccontextmanager
async def instance(house: House, **changes: Any) -> AsyncIterator[tuple[Api, web.Application]]:
    """One whose insides a test may reach, nobody else's polls being there."""
    keepalive = changes.pop("keepalive", 75.0)
    settings = house.settings.model_copy(update=changes)
    assert settings.database_url is not None
    assert settings.redis_url is not None
    app = await create_app(settings, database_url=settings.database_url, redis_url=settings.redis_url)
    runner = Runner(app, shutdown_timeout=0.2, keepalive_timeout=keepalive)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Api(house.http, f"http://127.0.0.1:{runner.addresses[0][1]}"), app
    finally:
        await runner.cleanup()


ASKED = {
    "plain": ({}, "wait=0"),
    "a page of one": ({}, "limit=1&wait=0"),
    "a filter": ({}, "topics=messages&limit=2&wait=0"),
    "a filter that leaves nothing": ({}, "topics=feed&wait=0"),
    "unknown parameters": ({}, "x=%31&wait=0&y"),
    "kept alive in words": ({"Connection": "keep-alive", "Accept": "*/*"}, "wait=0"),
    "a page of ours": ({"Origin": "http://localhost"}, "wait=0"),
    "an id of its own": ({"X-Request-ID": "mine-1"}, "wait=0"),
    "a cookie beside": ({"Cookie": "parley_realtime=x"}, "wait=0"),
}


@pytest.mark.parametrize("limited", [False, True], ids=["unlimited", "limited"])
async def test_it_is_the_answer_that_anyone_would_get(house: House, limited: bool) -> None:
    async with instance(house, rate_limits=limited) as (api, _):
        ann, bob = await api.register(), await api.register()
        start = (await ann.poll())["cursor"]
        chat = await ann.direct_with(bob)
        for n in range(3):
            await ann.say(chat, str(n))
        middle = (await ann.poll(start, limit=3))["cursor"]
        end = (await ann.poll(start))["cursor"]
        for name, (headers, query) in ASKED.items():
            async with repeating(ann, end, headers, query) as fast:
                for cursor in (start, middle, end):
                    async with polling(ann, headers, query) as slow:
                        head, body = await slow.poll(cursor)
                    again, same = await fast.poll(cursor)
                    assert constant(again) == constant(head), name
                    assert same == body, name
                    assert ("RateLimit: " in again) is limited
            assert await metric(api, 'parley_connections{transport="poll"}') == 0
        assert await metric(api, "parley_polls_repeated_total") >= 2 * len(ASKED)
        assert await metric(api, "parley_http_requests_in_progress") == 1, "the one that asks"


CHANGED: dict[str, Callable[[bytes, bytes], bytes]] = {
    "HTTP/1.0": lambda asked, cursor: asked.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "another header": lambda asked, cursor: asked[:-2] + b"X-More: 1\r\n\r\n",
    "another token": lambda asked, cursor: asked.replace(b"Bearer ", b"Bearer x"),
    "no host": lambda asked, cursor: asked.replace(b"Host: localhost", b"Hose: localhost"),
    "another path": lambda asked, cursor: asked.replace(b"/poll", b"/pool"),
    "another method": lambda asked, cursor: asked.replace(b"GET", b"PUT"),
    "a body": lambda asked, cursor: asked[:-2] + b"Content-Length: 2\r\n\r\n{}",
    "to be closed": lambda asked, cursor: asked[:-2] + b"Connection: close\r\n\r\n",
    "not HTTP": lambda asked, cursor: asked.replace(b"GET ", b"GE\x00 "),
    "no cursor in it": lambda asked, cursor: asked.replace(cursor, b""),
    "a cursor of the same length": lambda asked, cursor: asked.replace(cursor, b"A" * 26),
    "a cursor that needs decoding": lambda asked, cursor: asked.replace(cursor, b"%41" * 8 + b"AA"),
    "a space in the cursor": lambda asked, cursor: asked.replace(cursor, b"A" * 12 + b" " + b"A" * 13),
    "a parameter in the cursor": lambda asked, cursor: asked.replace(
        cursor, b"A" * 10 + b"&cursor=" + b"A" * 8
    ),
    "the end in the cursor": lambda asked, cursor: asked.replace(
        cursor, b" HTTP/1.1\r\n\r\n".ljust(26, b"A")
    ),
    "no byte of UTF-8": lambda asked, cursor: asked.replace(cursor, b"\xff" * 26),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED.keys())
async def test_what_is_not_the_same_is_looked_at(
    house: House, change: Callable[[bytes, bytes], bytes]
) -> None:
    (ann,) = await house.people(1)
    cursor = (await ann.poll())["cursor"]
    async with repeating(ann, cursor) as fast, polling(ann) as slow:
        asked = change(fast.request(cursor), cursor.encode())
        for each in (slow, fast):
            await each.raw.write(asked)
        (head, body), (again, same) = await slow.answer(), await fast.answer()
        for each_body in (body, same):
            each_body.pop("request_id", None)
        assert constant(again) == constant(head)
        assert same == body


async def test_it_waits_and_answers_in_order_whatever_comes_meanwhile(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    cursor = (await bob.poll())["cursor"]
    async with repeating(bob, cursor, query="wait=30") as poller:
        cursor = (await bob.poll())["cursor"]
        await poller.ask(cursor)
        await now_waiting(bob.api)
        early = poller.request(cursor)
        await poller.raw.write(early[:7])
        await poller.raw.write(early[7:] + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + early)
        await ann.say(chat, "here")
        _, first = await poller.answer()
        assert [event["data"]["body"] for event in first["events"]] == ["here"]
        assert (await poller.answer())[1] == first, "the same cursor gives the same again"
        assert (await poller.answer())[1] == {"status": "ok"}
        assert (await poller.answer())[1] == first


async def test_a_request_in_two_pieces_is_one(house: House) -> None:
    (ann,) = await house.people(1)
    cursor = (await ann.poll())["cursor"]
    async with repeating(ann, cursor) as poller:
        asked = poller.request(cursor)
        for cut in (1, 60, len(asked) - 1):
            await poller.raw.write(asked[:cut])
            await ann.call("GET", "/users/me", expect=200)
            await poller.raw.write(asked[cut:])
            assert "200 OK" in (await poller.answer())[0]


async def test_one_that_ends_for_its_sign_in_is_told_401(house: House) -> None:
    async with instance(house) as (api, _):
        ann = await api.register()
        cursor = (await ann.poll())["cursor"]
        async with repeating(ann, cursor, query="wait=30") as poller:
            await poller.ask((await ann.poll())["cursor"])
            await now_waiting(api)
            await ann.call("POST", "/auth/logout", expect=204)
            async with asyncio.timeout(1):
                head, problem = await poller.answer()
            assert "401 Unauthorized" in head
            assert "WWW-Authenticate: Bearer" in head
            assert problem["code"] == "session_revoked"
            _, again = await poller.poll(cursor)
            assert again["code"] == "session_revoked"
        assert await metric(api, 'parley_connections{transport="poll"}') == 0


async def test_one_whose_token_ends_is_told_401(house: House) -> None:
    async with instance(house, access_token_seconds=3) as (api, _):
        ann = await api.register()
        cursor = (await ann.poll())["cursor"]
        async with repeating(ann, cursor, query="wait=30") as poller:
            await poller.ask((await ann.poll())["cursor"])
            head, problem = await poller.answer()
            assert "401 Unauthorized" in head
            assert problem["code"] == "token_expired"


async def test_a_drain_ends_it_with_an_empty_answer(house: House) -> None:
    async with instance(house, drain_grace_seconds=0) as (api, app):
        ann = await api.register()
        cursor = (await ann.poll())["cursor"]
        async with (
            repeating(ann, cursor, query="wait=30") as waits,
            repeating(ann, cursor) as asks,
            polling(ann) as slow,
        ):
            cursor = (await ann.poll())["cursor"]
            await waits.ask(cursor)
            await now_waiting(api)
            await app[DRAIN].announce()
            expected, _ = await slow.poll(cursor)
            assert "Connection: close" in expected
            head, _ = await asks.poll(cursor)
            assert constant(head) == constant(expected)
            await app[DRAIN].send_away()
            head, body = await waits.answer()
            assert body == {"events": [], "cursor": cursor, "more": False}
            assert constant(head) == constant(expected)
            assert await waits.raw.to_the_end() == b""
            await app[DRAIN].answer_the_last()


async def test_a_client_that_goes_away_leaves_nothing_behind(house: House) -> None:
    async with instance(house) as (api, app):
        ann = await api.register()
        cursor = (await ann.poll())["cursor"]
        async with repeating(ann, cursor, query="wait=30") as poller:
            await poller.ask((await ann.poll())["cursor"])
            await now_waiting(api)
        await now_waiting(api, 0)
        gone = 'parley_http_requests_total{method="GET",route="/api/v1/realtime/poll",status="499"}'
        assert await metric(api, gone) == 1
        assert await metric(api, "parley_http_requests_in_progress") == 1
        await app[DRAIN].answer_the_last()


async def test_asking_marks_delivered(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    cursor = (await bob.poll())["cursor"]
    async with repeating(bob, cursor) as poller, ann.ws(topics="messages") as socket:
        sent = await ann.say(chat, "one")
        _, answer = await poller.poll(cursor)
        assert await repeated(bob.api, lambda: poller.poll(answer["cursor"])) == 1
        receipt = await socket.event("receipt.delivered")
        assert receipt["data"] == {"conversation_id": chat, "user_id": bob.id, "seq": sent["seq"]}


async def test_its_allowance_is_that_of_every_poll(house: House) -> None:
    async with instance(house, rate_limits=True) as (api, _):
        ann = await api.register()
        cursor = (await ann.poll())["cursor"]

        async with repeating(ann, cursor) as poller:
            counts = [left((await poller.poll(cursor))[0]) for _ in range(3)]
            assert counts[0] - counts[2] == 2 or counts[2] > counts[0], "or a minute began"


async def test_an_idle_connection_is_closed_when_its_time_is_up(house: House) -> None:
    async with instance(house, keepalive=1.5) as (api, _):
        ann = await api.register()
        cursor = (await ann.poll())["cursor"]
        async with repeating(ann, cursor, query="wait=30") as poller:
            cursor = (await ann.poll())["cursor"]
            await poller.ask(cursor)
            async with polling(ann) as other:
                await other.poll(cursor)
                assert await other.raw.to_the_end() == b""
            await ann.direct_with(await api.register())  # the one that waits has been left alone
            assert (await poller.answer())[1]["events"]
            assert await poller.raw.to_the_end() == b""


async def test_answered_polls_are_logged_for_debugging_only(house: House) -> None:
    (ann,) = await house.people(1)
    cursor = (await ann.poll())["cursor"]
    async with repeating(ann, cursor) as poller:
        with structlog.testing.capture_logs() as lines:
            await poller.poll(cursor)
            await ann.poll(cursor)
            await ann.poll(cursor, wait=99, expect=422)
    assert [line["status"] for line in lines if line["event"] == "request"] == [422]


@pytest.mark.parametrize("ring_events", [200_000, 3], ids=["in memory", "stored"])
async def test_a_backlog_is_paid_for_once_a_page(house: House, ring_events: int) -> None:
    async with instance(house, rate_limits=True, ring_events=ring_events) as (api, _):
        ann, bob = await api.register(), await api.register()
        cursor = (await bob.poll())["cursor"]
        chat = await ann.direct_with(bob)
        for n in range(6):
            await ann.say(chat, str(n))
        end = (await bob.poll(cursor))["cursor"]
        async with repeating(bob, end, query="limit=1&wait=0") as poller:
            counts, given, more = [], 0, True
            while more:
                head, page = await poller.poll(cursor)
                cursor, more = page["cursor"], page["more"]
                counts.append(left(head))
                given += len(page["events"])
        assert given >= 7
        assert (await metric(api, "parley_polls_repeated_total") > given) is (ring_events > given)
        steps = [before - after for before, after in pairwise(counts)]
        assert all(step == 1 or step < 0 for step in steps), "or a minute began"


async def test_an_answer_that_cannot_be_repeated_costs_nobody_the_connection(house: House) -> None:
    (ann,) = await house.people(1)
    cursor = (await ann.poll())["cursor"]
    async with polling(ann) as poller:
        asked = poller.request(cursor).replace(b"Host: localhost", b"Host: h\xff\r\nOrigin: http://h\xff")
        for _ in range(4):
            await poller.raw.write(asked)
            head = await poller.raw.until(b"\r\n\r\n")
            assert b" 200 OK" in head
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", head)
            assert length is not None
            await poller.raw.exactly(int(length[1]))


async def test_an_error_while_a_poll_is_learnt_from_costs_nobody_the_connection(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("not foreseen")

    (ann,) = await house.people(1)
    cursor = (await ann.poll())["cursor"]
    monkeypatch.setattr(FastPolls, "lane", fails)
    with structlog.testing.capture_logs() as lines:
        async with polling(ann) as poller:
            for _ in range(4):
                assert " 200 OK" in (await poller.poll(cursor))[0]
    assert "poll.not_learnt" in [line["event"] for line in lines]


@pytest.mark.parametrize("limited", [False, True], ids=["when stirred", "when paid for"])
async def test_an_error_in_it_closes_the_connection_and_holds_up_no_drain(
    house: House, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    def fails(lane: Lane, events: object, more: bool) -> None:
        raise RuntimeError("not foreseen")

    async with instance(house, rate_limits=limited) as (api, app):
        ann = await api.register()
        cursor = (await ann.poll())["cursor"]
        async with repeating(ann, cursor, query="wait=30") as poller:
            if not limited:
                cursor = (await ann.poll())["cursor"]
                await poller.ask(cursor)
                await now_waiting(api)
            monkeypatch.setattr(Lane, "_answer", fails)
            if limited:
                await poller.ask(cursor)
            else:
                await ann.direct_with(await api.register())
            async with asyncio.timeout(5):
                assert await poller.raw.to_the_end() == b""
        await now_waiting(api, 0)
        failed = 'parley_http_requests_total{method="GET",route="/api/v1/realtime/poll",status="500"}'
        assert await metric(api, failed) == 1
        assert await metric(api, "parley_http_requests_in_progress") == 1
        async with asyncio.timeout(5):
            await app[DRAIN].answer_the_last()


async def test_one_for_whom_there_is_no_room_is_told_429(house: House) -> None:
    async with instance(house, max_connections_per_user=1) as (api, _):
        ann = await api.register()
        cursor = (await ann.poll())["cursor"]
        async with repeating(ann, cursor) as poller, ann.ws():
            head, problem = await poller.poll(cursor)
            assert "429 Too Many Requests" in head
            assert problem["code"] == "too_many_connections"


async def test_who_sends_more_than_is_kept_is_read_again_once_there_is_an_answer(house: House) -> None:
    async with instance(house) as (api, _):
        ann, bob = await api.register(), await api.register()
        chat = await ann.direct_with(bob)
        cursor = (await bob.poll())["cursor"]
        async with repeating(bob, cursor, query="wait=30") as poller:
            cursor = (await bob.poll())["cursor"]
            await poller.ask(cursor)
            await now_waiting(api)
            asked = poller.request(cursor)
            count = 3 * MAX_EARLY // len(asked)
            sending = asyncio.create_task(poller.raw.write(asked * count))
            await ann.say(chat, "here")
            answers = [(await poller.answer())[1] for _ in range(count + 1)]
            await sending
            assert answers[0]["events"]
            assert all(answer == answers[0] for answer in answers)
