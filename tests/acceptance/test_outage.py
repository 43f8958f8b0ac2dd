"""PostgreSQL or Redis away, frozen, emptied or unheard: what still works, what waits, and that nothing is lost (I7)."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest

from tests.support.clients import Api, Json, Person
from tests.support.house import House
from tests.support.reading import Reading
from tests.support.services import OwnPostgres, OwnRedis

pytestmark = pytest.mark.asyncio(loop_scope="module")


def message(chat: str, body: str) -> Json:
    return {"conversation_id": chat, "body": body, "client_id": str(uuid.uuid4())}


async def until_ready(api: Api, status: int) -> Json:
    async with asyncio.timeout(20):
        while (answer := await api.call("GET", "//readyz")).status != status:
            pass
    return answer.json


async def bodies_of(person: Person, cursor: str) -> list[str]:
    bodies: list[str] = []
    while True:
        answer = await person.poll(cursor)
        bodies += [e["data"]["body"] for e in answer["events"] if e["type"] == "message.created"]
        cursor = answer["cursor"]
        if not answer["more"]:
            return bodies


# PostgreSQL.


@pytest.mark.parametrize("way", ["stopped", "frozen"])
async def test_without_postgresql_sockets_stay_and_sends_wait_for_their_retry(
    house: House, own_postgres: OwnPostgres, way: str
) -> None:
    async with house.instance(database_url=own_postgres.url, heartbeat_seconds=0.3) as api:
        ann, bob, eve = await house.people(3, at=api)
        chat = await ann.direct_with(bob)
        start = (await bob.poll())["cursor"]
        async with ann.ws() as anns, bob.ws() as bobs, bob.sse() as stream, asyncio.TaskGroup() as tasks:
            sender, receiver = Reading(anns, tasks), Reading(bobs, tasks)
            first = message(chat, "before")
            await anns.tell("message.send", first)
            assert (await receiver.event("message.created"))["data"]["body"] == "before"
            assert (await stream.event("message.created"))["data"]["body"] == "before"
            await asyncio.to_thread(own_postgres.stop if way == "stopped" else own_postgres.freeze)
            second = message(chat, "kept by its sender")
            asked = [(eve, "/poll?wait=0"), (eve, "/sse"), (bob, f"/poll?cursor={start}")]
            receiver.clear()
            for _ in range(5):  # an instance that read the log a moment ago still serves
                assert (await receiver.receive())["type"] in ("heartbeat", "receipt.delivered")
            calls = [person.call("GET", f"/realtime{path}") for person, path in asked]
            if way != "frozen":  # the same then, but it is only known once their time is up
                told = await until_ready(api, 503)
                assert told["parts"]["database"]["status"] == "down"
                sender.clear()
                await anns.tell("message.send", second)
                reply = await sender.event("reply")
                assert (reply["ok"], reply["error"]["status"]) == (False, 503)
                calls.append(bob.call("POST", f"/conversations/{chat}/messages", json={"body": "x"}))
            for refused in await asyncio.gather(*calls):
                assert (refused.status, int(refused.headers["Retry-After"]) >= 1) == (503, True)

            # Sockets stay open, with heartbeats that stay where they were.
            receiver.clear()
            beats = [await receiver.receive() for _ in range(3)]
            assert {beat["type"] for beat in beats} == {"heartbeat"}
            assert len({beat["cursor"] for beat in beats}) == 1
            await bobs.tell("ping")
            assert (await receiver.event("reply"))["ok"] is True

            # It comes back by itself, and nothing is lost.
            await asyncio.to_thread(own_postgres.start if way == "stopped" else own_postgres.thaw)
            began = time.monotonic()
            await until_ready(api, 200)
            assert time.monotonic() - began < 10
            async with asyncio.timeout(10):
                while True:
                    await anns.tell("message.send", second)
                    if (await sender.event("reply"))["ok"]:
                        break
            assert (await receiver.event("message.created"))["data"]["body"] in ("x", second["body"])
            while (event := await stream.event("message.created"))["data"]["body"] != second["body"]:
                assert event["data"]["body"] == "x", "whose sender was not told whether it was stored"
            assert await bodies_of(bob, beats[0]["cursor"]) in (
                ["x", second["body"]],
                [second["body"], "x"],
                [second["body"]],
            )
            assert [b for b in await bodies_of(bob, start) if b != "x"] == ["before", second["body"]]
            sender.stop()
            receiver.stop()


# Redis.


async def delivers_across(here: Api, there: Api, house: House, within: float) -> None:
    """Six messages from one instance to sessions of the other, each within so many seconds; in order, once."""
    ann, bob = await house.people(at=here)
    bobs = bob.at(there)
    chat = await ann.direct_with(bob)
    start = (await bobs.poll())["cursor"]
    took = []
    async with bobs.ws() as socket, bobs.sse() as stream:
        for n in range(6):
            began = time.monotonic()
            await ann.say(chat, str(n))
            events = [await socket.event("message.created"), await stream.event("message.created")]
            took.append(time.monotonic() - began)
            assert [event["data"]["body"] for event in events] == [str(n), str(n)]
    assert await bodies_of(bobs, start) == [str(n) for n in range(6)]
    assert sorted(took)[len(took) // 2] < within, took


async def test_with_redis_a_message_is_there_at_once(house: House) -> None:
    await delivers_across(house.api, house.other, house, 0.15)


@pytest.mark.parametrize("way", ["killed", "frozen"])
async def test_without_redis_delivery_goes_on_by_reading_the_log(
    house: House, own_redis: OwnRedis, way: str
) -> None:
    async with (
        house.instance(redis_url=own_redis.url) as here,
        house.instance(redis_url=own_redis.url) as there,
    ):
        await asyncio.to_thread(own_redis.kill if way == "killed" else own_redis.freeze)
        await delivers_across(here, there, house, 0.5)
        async with asyncio.timeout(10):
            while (ready := await there.call("GET", "//readyz", expect=200)).json["status"] != "degraded":
                pass
        assert ready.json["parts"]["redis"]["status"] == "down"
        if way == "frozen":
            return
        ann, bob = await house.people(at=here)
        ticket = (await ann.post("/realtime/tickets"))["ticket"]
        await there.call("GET", f"/realtime/poll?ticket={ticket}", expect=200)
        key = {"Idempotency-Key": "once"}
        chat = await ann.direct_with(bob)
        path = f"/conversations/{chat}/messages"
        first = await ann.call("POST", path, json={"body": "kept"}, headers=key, expect=201)
        again = await ann.at(there).call("POST", path, json={"body": "kept"}, headers=key, expect=201)
        assert first.json["id"] == again.json["id"]
        await asyncio.to_thread(own_redis.start)
        for api in (here, there):
            async with asyncio.timeout(10):
                while (await api.call("GET", "//readyz", expect=200)).json["status"] != "ok":
                    pass


async def test_hints_that_are_lost_are_read_from_the_log(house: House, own_redis: OwnRedis) -> None:
    """Two instances on two Redis servers: not one hint arrives."""
    async with house.instance(redis_url=own_redis.url) as there:
        await delivers_across(house.api, there, house, 0.5)
        await delivers_across(there, house.api, house, 0.5)


async def test_a_redis_that_is_emptied_or_drops_everyone_loses_and_doubles_nothing(
    house: House, own_redis: OwnRedis
) -> None:
    async with (
        house.instance(redis_url=own_redis.url) as here,
        house.instance(redis_url=own_redis.url) as there,
    ):
        ann, bob = await house.people(at=here)
        chat = await ann.direct_with(bob)
        async with bob.at(there).ws() as socket:
            for n in range(60):
                if n % 20 == 10:
                    await asyncio.to_thread(own_redis.flush)
                if n % 20 == 15:
                    await asyncio.to_thread(own_redis.drop_clients)
                await (ann.at(there) if n % 3 == 0 else ann).say(chat, str(n))
            events = await socket.events(60, "message.created")
        assert [event["data"]["body"] for event in events] == [str(n) for n in range(60)]
        assert len({event["cursor"] for event in events}) == 60
