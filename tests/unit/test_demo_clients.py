"""The demo's clients go on where they were: elsewhere, another way, with the same ids.

They are tried against a small stand-in for an instance, which can be told to refuse, to cut off, and to forget answers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from demo.api import Account
from demo.commands import Command
from demo.frames import Cut, Frame, Json, Refused
from demo.instances import Fleet
from demo.ledger import Ledger
from demo.people import Person, Seat
from demo.transports import Socket, Transport, Wire, wire


class StandIn:
    """Has a log of so many messages; a stream that has given `cut_after` of them ends."""

    def __init__(self, messages: int, cut_after: int = 1000) -> None:
        self.log = [message(seq) for seq in range(1, messages + 1)]
        self.cut_after = cut_after
        self.asked: list[tuple[str, str]] = []
        self.is_broken = False
        self.sent: list[str] = []
        self.statuses: list[int] = []
        """What to answer to the next sends, instead of success."""
        self.app = web.Application()
        self.app.router.add_get("/api/v1/realtime/ws", self.ws)
        self.app.router.add_get("/api/v1/realtime/sse", self.sse)
        self.app.router.add_get("/api/v1/realtime/poll", self.poll)
        self.app.router.add_post("/api/v1/conversations/{id}/messages", self.post)

    def after(self, how: str, cursor: str) -> list[Json]:
        self.asked.append((how, cursor))
        if self.is_broken:
            problem = {"code": "internal", "detail": "Internal error"}
            raise web.HTTPInternalServerError(text=json.dumps(problem), content_type="application/json")
        return self.log[int(cursor) :][: self.cut_after]

    async def ws(self, request: web.Request) -> web.WebSocketResponse:
        events = self.after("ws", request.query["cursor"])
        response = web.WebSocketResponse(protocols=["parley.v1"])
        await response.prepare(request)
        for value in [hello(request.query["cursor"]), *events]:
            await response.send_json(value)
        if len(events) == self.cut_after:
            return response
        async for frame in response:
            command = json.loads(frame.data)
            await response.send_json(self.reply(command))
        return response

    def reply(self, command: Json) -> Json:
        status = self.statuses.pop(0) if self.statuses else 200
        self.sent.append(command["data"].get("client_id", ""))
        if status < 400:
            return {"type": "reply", "id": command["id"], "ok": True, "data": {"seq": 1}}
        return {"type": "reply", "id": command["id"], "ok": False, "error": {"status": status}}

    async def sse(self, request: web.Request) -> web.StreamResponse:
        cursor = request.headers["Last-Event-ID"]
        events = self.after("sse", cursor)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"retry: 2000\n\n: a comment\n\n")
        for value in [hello(cursor), *events]:
            await response.write(
                b"event: %b\ndata: %b\n\n" % (value["type"].encode(), json.dumps(value).encode())
            )
        if len(events) < self.cut_after:
            await asyncio.Event().wait()
        return response

    async def poll(self, request: web.Request) -> web.Response:
        events = self.after("poll", request.query["cursor"])
        if not events and request.query["wait"] != "0":
            await asyncio.Event().wait()
        cursor = events[-1]["cursor"] if events else request.query["cursor"]
        return web.json_response({"events": events, "cursor": cursor, "more": False})

    async def post(self, request: web.Request) -> web.Response:
        self.sent.append((await request.json())["client_id"])
        status = self.statuses.pop(0) if self.statuses else 201
        if status == 0:  # stored, but the answer is lost
            assert request.transport is not None
            request.transport.abort()
        replayed = {"Idempotent-Replayed": "true"} if len(self.sent) > 1 else {}
        return web.json_response({"seq": len(self.log)}, status=status or 201, headers=replayed)


def message(seq: int) -> Json:
    data = {"seq": seq, "client_id": f"id-{seq}"}
    return {"type": "message.created", "cursor": str(seq), "data": data}


def hello(cursor: str) -> Json:
    return {"type": "hello", "cursor": cursor}


@asynccontextmanager
async def serving(stand_in: StandIn) -> AsyncIterator[str]:
    async with TestServer(stand_in.app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def read(made: Wire, cursor: str, count: int) -> list[Frame]:
    frames: list[Frame] = []
    async with asyncio.timeout(5), aclosing(made.frames(cursor)) as coming:
        async for frame in coming:
            frames.append(frame)
            if len([each for each in frames if each.is_durable]) == count:
                break
    return frames


@pytest.mark.parametrize("transport", Transport)
async def test_every_transport_says_hello_and_then_what_came_after_the_cursor(
    http: aiohttp.ClientSession, transport: Transport
) -> None:
    async with serving(StandIn(5)) as url:
        frames = await read(wire(transport, http, url, "token"), "2", 3)
    assert frames[0].type == "hello"
    assert [frame.cursor for frame in frames if frame.is_durable] == ["3", "4", "5"]


@pytest.mark.parametrize("transport", [Transport.WS, Transport.SSE])
async def test_a_stream_that_ends_is_a_cut(http: aiohttp.ClientSession, transport: Transport) -> None:
    async with serving(StandIn(5, cut_after=2)) as url:
        with pytest.raises(Cut):
            await read(wire(transport, http, url, "token"), "0", 5)


@asynccontextmanager
async def opened_socket(http: aiohttp.ClientSession, url: str) -> AsyncIterator[Socket]:
    """With its reader running beside it."""
    socket = Socket(http, f"{url}/api/v1/realtime", "token")
    greeted = asyncio.Event()

    async def reading() -> None:
        async with aclosing(socket.frames("0")) as frames:
            async for _ in frames:
                greeted.set()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(reading())
        await greeted.wait()
        yield socket
        task.cancel()


async def test_a_command_gets_its_own_reply(http: aiohttp.ClientSession) -> None:
    stand_in = StandIn(0)
    command = Command("message.send", "c", body="hello", client_id="x")
    async with serving(stand_in) as url, opened_socket(http, url) as socket:
        assert await socket.command(command) == {"seq": 1}
        stand_in.statuses = [503, 403]
        with pytest.raises(Cut):
            await socket.command(command)
        with pytest.raises(Refused):
            await socket.command(command)


async def test_a_command_without_a_connection_is_a_cut(http: aiohttp.ClientSession) -> None:
    with pytest.raises(Cut):
        await Socket(http, "http://nowhere", "token").command(Command("typing.start", "c"))


@asynccontextmanager
async def person_between(
    http: aiohttp.ClientSession, directory: Path, west: StandIn, east: StandIn, transport: Transport
) -> AsyncIterator[Person]:
    """Signed in and entered, seated at west."""
    async with serving(west) as west_url, serving(east) as east_url:
        fleet = Fleet(directory, ("west", "east"))
        fleet.instances[0].url, fleet.instances[1].url = west_url, east_url
        person = Person("ada", Seat(transport, fleet.instances[0]), http, fleet, Ledger())
        person.enter("c", "0", Account("1", "ada", "token"))
        yield person


async def run_until(person: Person, seq: int) -> None:
    there = asyncio.Event()
    person.on_frame = lambda who, _: there.set() if who.inbox.last_seq >= seq else None
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(person.run())
        await there.wait()
        running.cancel()


@pytest.mark.parametrize("transport", [Transport.WS, Transport.SSE])
async def test_who_is_cut_off_goes_on_at_the_other_instance_by_another_transport_with_the_cursor(
    http: aiohttp.ClientSession, tmp_path: Path, transport: Transport
) -> None:
    west, east = StandIn(5, cut_after=2), StandIn(5)
    async with person_between(http, tmp_path, west, east, transport) as person:
        await run_until(person, 5)
    assert west.asked == [(transport.value, "0")]
    assert east.asked[0] == (transport.next.value, "2")
    assert [copy.seq for copy in person.inbox.copies] == [1, 2, 3, 4, 5]
    (move,) = person.moves
    assert (move.wanted, move.source.transport, str(move.target)) == (
        False,
        transport,
        f"{transport.next}·east",
    )
    assert move.caught_up >= move.opened >= move.left > 0


async def test_who_is_turned_away_goes_on_elsewhere_and_keeps_the_reason(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    west, east = StandIn(5, cut_after=2), StandIn(5)
    east.is_broken = True
    async with person_between(http, tmp_path, west, east, Transport.SSE) as person:
        await run_until(person, 4)
    assert east.asked[0] == ("poll", "2")
    assert west.asked[:2] == [("sse", "0"), ("ws", "2")]
    assert [copy.seq for copy in person.inbox.copies] == [1, 2, 3, 4]
    assert person.moves[0].refused == "500 internal: Internal error"


async def test_who_is_told_to_move_hangs_up_and_goes_on_there(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    west, east = StandIn(3), StandIn(5)
    async with person_between(http, tmp_path, west, east, Transport.WS) as person:
        target = Seat(Transport.POLL, person.fleet.instances[1])
        moved = asyncio.Event()

        def look(who: Person, _: Frame) -> None:
            if who.inbox.last_seq == 3:
                who.move(target)
            if who.inbox.last_seq == 5:
                moved.set()

        person.on_frame = look
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(person.run())
            await moved.wait()
            running.cancel()
    assert east.asked[0] == ("poll", "3")
    assert [copy.seq for copy in person.inbox.copies] == [1, 2, 3, 4, 5]
    assert [move.wanted for move in person.moves] == [True]


async def test_a_send_is_repeated_with_the_same_id_until_it_is_acknowledged(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    west = StandIn(1)
    west.statuses = [503, 0]
    async with person_between(http, tmp_path, west, StandIn(0), Transport.SSE) as person:
        assert await person.say("hello") == 1
    assert len(west.sent) == 3
    assert len(set(west.sent)) == 1
    (entry,) = person.ledger.entries.values()
    assert (entry.seq, entry.replayed, person.ledger.retries) == (1, True, 2)


async def test_a_refusal_is_not_tried_again(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    west = StandIn(1)
    west.statuses = [403]
    async with person_between(http, tmp_path, west, StandIn(0), Transport.SSE) as person:
        with pytest.raises(Refused):
            await person.say("hello")
    assert len(west.sent) == 1
