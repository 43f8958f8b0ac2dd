"""An instance that is told to stop: it goes without a stampede, and takes nobody's message with it (I10)."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

import aiohttp
import pytest

from services.delivery import DeliveryMarks
from tests.support.clients import Api, Closed, Json, Person, Socket
from tests.support.house import House
from tests.support.instance import Instance
from tests.support.raw import RawSocket, RawWebSocket, raw_ws, upgrade_headers
from tests.support.relay import database_relay

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.allow_blocking]

CROWD = 250  # more than are sent away at once


@contextmanager
def process(
    house: House, directory: Path, grace: float, database_url: str | None = None
) -> Iterator[Instance]:
    settings = house.settings
    assert settings.database_url is not None
    assert settings.redis_url is not None
    assert settings.secret_key is not None
    with Instance(
        directory / "data",
        DATABASE_URL=database_url or settings.database_url,
        REDIS_URL=settings.redis_url,
        PARLEY_SECRET_KEY=settings.secret_key.get_secret_value(),
        PARLEY_RATE_LIMITS="off",
        PARLEY_MAX_CONNECTIONS_PER_USER="1000",
        PARLEY_DRAIN_GRACE_SECONDS=str(grace),
    ) as instance:
        yield instance


@asynccontextmanager
async def leaving(
    house: House, directory: Path, grace: float, database_url: str | None = None
) -> AsyncIterator[tuple[Instance, Api]]:
    """An instance in a process of its own, beside the two of the house."""
    with process(house, directory, grace, database_url) as instance:
        await asyncio.to_thread(instance.ready)
        # Its own pool of connections: one that is kept open is one that is served.
        async with aiohttp.ClientSession() as http:
            yield instance, Api(http, instance.url, house.watch)


async def not_ready(api: Api) -> Json:
    """Waits until the instance says that it goes; what it says."""
    async with asyncio.timeout(10):
        while (answer := await api.call("GET", "//readyz")).status != 503:
            pass
    return answer.json


async def test_it_serves_for_the_grace_time_and_then_sends_everyone_away(
    house: House, tmp_path: Path
) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    async with leaving(house, tmp_path, 1.5) as (instance, api):
        here = bob.at(api)
        cursor = (await here.poll())["cursor"]
        async with here.ws() as socket, here.sse() as stream:
            instance.send(signal.SIGTERM)
            told = await not_ready(api)
            began = time.monotonic()
            assert told["parts"]["drain"]["status"] != "ok"
            assert (await api.call("GET", "//healthz")).status == 200
            # All is still served, and no connection is kept for the next request.
            answer = await ann.at(api).call(
                "POST", f"/conversations/{chat}/messages", json={"body": "in time"}
            )
            assert (answer.status, answer.headers["Connection"]) == (201, "close")
            assert (await socket.event("message.created"))["data"]["body"] == "in time"
            assert (await stream.event("message.created"))["data"]["body"] == "in time"
            assert await socket.command("ping") == {}
            async with here.ws() as late, here.sse() as late_stream:
                newest = (await here.poll())["cursor"]
                waiting = asyncio.create_task(here.poll(newest, wait=30, topics="notifications"))
                for each in (socket, late):
                    closing = await each.closed()
                    assert closing.code == 1012
                    reason = json.loads(closing.reason)
                    assert set(reason) == {"reconnect_after_ms"}
                    assert 0 < reason["reconnect_after_ms"] <= 10_000
                assert time.monotonic() - began > 1
                for each_stream in (stream, late_stream):
                    last = (await each_stream.closed())[-1]
                    assert (last.event, last.id) == ("drain", None)
                    assert set(last.json) == {"type", "reconnect_after_ms"}
                    assert last.json["type"] == "drain"
                answer_to_poll = await waiting
                assert (answer_to_poll["events"], answer_to_poll["more"]) == ([], False)
        with pytest.raises(ConnectionRefusedError):
            await RawWebSocket.to(api.url)
        assert await asyncio.to_thread(instance.wait) == 0
        assert "Traceback" not in instance.log()
    await ann.say(chat, "meanwhile")
    events = (await bob.poll(cursor))["events"]
    bodies = [event["data"]["body"] for event in events if event["type"] == "message.created"]
    assert bodies == ["in time", "meanwhile"]
    for goes_on in (str(stream.last_event_id), answer_to_poll["cursor"]):
        async with bob.sse(headers={"Last-Event-ID": goes_on}) as again:
            assert (await again.event("message.created"))["data"]["body"] == "meanwhile"


async def test_a_crowd_is_sent_away_in_batches_each_to_come_back_at_its_own_time(
    house: House, tmp_path: Path
) -> None:
    (ann,) = await house.people(1)
    async with leaving(house, tmp_path, 0) as (instance, api), AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(raw_ws(ann.at(api))) for _ in range(CROWD)]
        for raw in crowd:
            assert (await raw.receive())["type"] == "hello"
        instance.send(signal.SIGTERM)

        async def sent_away(raw: RawWebSocket) -> tuple[float, int]:
            closing = await raw.closed()
            assert closing.code == 1012
            return time.monotonic(), int(json.loads(closing.reason)["reconnect_after_ms"])

        ends = sorted(await asyncio.gather(*[sent_away(raw) for raw in crowd]))
        gaps = [after[0] - before[0] for before, after in itertools.pairwise(ends)]
        assert max(gaps) > 0.02, "with a pause in between, most of which a busy client may not see"
        assert len({wait for _, wait in ends}) > CROWD // 4
        assert await asyncio.to_thread(instance.wait) == 0


async def test_what_was_acknowledged_while_it_went_is_stored_once(house: House, tmp_path: Path) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    start = (await bob.poll())["cursor"]
    async with leaving(house, tmp_path, 0.3) as (instance, api):
        sent_by: dict[str, Person] = {}
        acknowledged: set[str] = set()
        enough = asyncio.Event()

        def taken(client_id: str) -> None:
            acknowledged.add(client_id)
            if len(acknowledged) == 50:
                enough.set()

        async def send(socket: Socket) -> None:
            told: dict[str, str] = {}
            try:
                while True:
                    for _ in range(8):
                        client_id = str(uuid.uuid4())
                        sent_by[client_id] = ann
                        data = {"conversation_id": chat, "body": client_id, "client_id": client_id}
                        told[await socket.tell("message.send", data)] = client_id
                    for _ in range(8):
                        frame = await socket.receive()
                        assert frame["ok"]
                        taken(told[frame["id"]])
            except (Closed, ConnectionError):
                pass

        async def post(person: Person) -> None:
            while True:
                client_id = str(uuid.uuid4())
                sent_by[client_id] = bob
                try:
                    await person.say(chat, client_id, client_id=client_id)
                except aiohttp.ClientConnectionError:
                    return
                taken(client_id)

        async with ann.at(api).ws(topics="notifications") as socket:
            senders = [asyncio.create_task(send(socket)), asyncio.create_task(post(bob.at(api)))]
            async with asyncio.timeout(20):
                await enough.wait()
                instance.send(signal.SIGTERM)
                await asyncio.gather(*senders)
        assert await asyncio.to_thread(instance.wait) == 0
    for client_id, person in sent_by.items():
        if client_id not in acknowledged:
            body = {"body": client_id, "client_id": client_id}
            answer = await person.call("POST", f"/conversations/{chat}/messages", json=body)
            assert answer.status in (200, 201)
    events, _ = await bob.poll_until(start, len(sent_by))
    bodies = [event["data"]["body"] for event in events if event["type"] == "message.created"]
    assert sorted(bodies) == sorted(sent_by)
    assert (await ann.get(f"/conversations/{chat}"))["last_seq"] == len(sent_by)


async def test_a_request_that_had_arrived_is_answered(house: House, tmp_path: Path) -> None:
    """Those that wait, too: the poll is answered, not cut."""
    ann, bob = await house.people()
    async with leaving(house, tmp_path, 0) as (instance, api):
        cursor = (await ann.at(api).poll())["cursor"]
        polls = [asyncio.create_task(ann.at(api).poll(cursor, wait=30)) for _ in range(20)]
        async with asyncio.timeout(10):
            while (
                'parley_connections{transport="poll"} 20.0' not in (await api.call("GET", "//metrics")).text
            ):
                pass
        instance.send(signal.SIGTERM)
        for answer in await asyncio.gather(*polls):
            assert answer == {"events": [], "cursor": answer["cursor"], "more": False}
        assert await asyncio.to_thread(instance.wait) == 0
    await bob.direct_with(ann)
    assert len((await ann.poll(cursor))["events"]) == 1


async def test_a_request_whose_body_comes_after_listening_stopped_is_answered(
    house: House, tmp_path: Path
) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    body = json.dumps({"body": "slowly typed"}).encode()
    async with leaving(house, tmp_path, 0) as (instance, api), AsyncExitStack() as stack:
        raw = stack.enter_context(closing(await RawSocket.to(api.url)))
        await raw.write(
            f"POST /api/v1/conversations/{chat}/messages HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {ann.token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):  # its headers were read, for it is one of two being served
            while "parley_http_requests_in_progress 2.0" not in (await api.call("GET", "//metrics")).text:
                pass
        async with bob.at(api).ws() as socket:
            instance.send(signal.SIGTERM)
            assert (await socket.closed()).code == 1012
        with pytest.raises(ConnectionRefusedError):  # so who is here already is all that is left
            await RawSocket.to(api.url)
        await raw.write(body)
        answer = await raw.to_the_end()
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert await asyncio.to_thread(instance.wait) == 0
    assert (await bob.get(f"/conversations/{chat}/messages/1"))["body"] == "slowly typed"


async def test_who_is_let_in_when_all_have_been_sent_away_is_sent_away_too(
    house: House, tmp_path: Path
) -> None:
    """Nobody is left for whom the stop would have to wait."""
    (ann,) = await house.people(1)
    assert house.settings.database_url is not None
    async with (
        database_relay(house.settings.database_url) as (relay, url),
        leaving(house, tmp_path, 0, url) as (instance, api),
    ):
        there = ann.at(api)
        await api.call("GET", "//readyz", expect=200)
        relay.freeze()  # it takes a moment to find out who this is
        socket = await RawWebSocket.to(api.url)
        stream = await RawSocket.to(api.url)
        await socket.ask("/api/v1/realtime/ws", upgrade_headers(there))
        host = {"Host": api.url.removeprefix("http://"), "Authorization": f"Bearer {there.token}"}
        await stream.ask("/api/v1/realtime/sse", host)
        poll = asyncio.create_task(there.poll(wait=30))
        async with asyncio.timeout(10):
            while "parley_http_requests_in_progress 4.0" not in (await api.call("GET", "//metrics")).text:
                pass
        instance.send(signal.SIGTERM)
        async with asyncio.timeout(10):
            while "drain.begun" not in instance.log():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            while True:
                try:
                    (await RawSocket.to(api.url)).close()
                except ConnectionRefusedError:
                    break
        relay.thaw()
        status, _ = await socket.answer()
        if status == 101:
            assert (await socket.closed()).code == 1012
        else:
            assert status == 503
        stream_status, _ = await stream.answer()
        assert stream_status == 503 or b"event: drain" in await stream.to_the_end()
        answer = await poll
        assert answer["events"] == []
        socket.close()
        stream.close()
        assert await asyncio.to_thread(instance.wait, 15) == 0


async def test_what_has_arrived_by_the_last_poll_is_stored_before_it_goes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    monkeypatch.setattr(DeliveryMarks, "APART", 60.0)  # nothing is stored by the time that goes by
    async with house.instance() as api:
        here = bob.at(api)
        cursor = (await here.poll((await here.poll())["cursor"], wait=0))["cursor"]  # its mark is not held up
        for seq in (1, 2):
            await ann.say(chat, "read this")
            (_, cursor) = await here.poll_until(cursor, 1)
            await here.poll(cursor, wait=0)
            assert (await ann.get(f"/conversations/{chat}/messages/{seq}"))["status"] == "sent"
    assert (await ann.get(f"/conversations/{chat}/messages/2"))["status"] == "delivered"
