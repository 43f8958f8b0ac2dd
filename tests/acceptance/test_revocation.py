"""A sign-in that ends, ends everywhere within a second, and nothing is written to it after that (I9)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg
import pytest

from tests.support.clients import Api, Closed, Json, Person
from tests.support.house import House
from tests.support.reading import Reading
from tests.support.relay import database_relay
from tests.support.services import OwnRedis

pytestmark = pytest.mark.asyncio(loop_scope="module")

End = Callable[[House, Person], Awaitable[str]]


async def log_out(house: House, person: Person) -> str:
    await person.call("POST", "/auth/logout", expect=204)
    return "logout"


async def delete_session(house: House, person: Person) -> str:
    sessions = (await person.get("/auth/sessions"))["items"]
    (current,) = [session["id"] for session in sessions if session["current"]]
    other = await person.sign_in()
    await other.call("DELETE", f"/auth/sessions/{current}", expect=204)
    return "session_deleted"


async def suspend(house: House, person: Person) -> str:
    moderator = await person.api.register()
    connection = await asyncpg.connect(house.settings.database_url, timeout=10)
    try:
        await connection.execute("UPDATE users SET permissions = -1 WHERE id = $1::uuid", moderator.id)
    finally:
        await connection.close()
    moderator = await moderator.sign_in()
    await moderator.call("POST", f"/admin/users/{person.username}/suspend", expect=204)
    return "account_suspended"


async def delete_account(house: House, person: Person) -> str:
    await person.call("DELETE", "/users/me", json={"password": person.password}, expect=204)
    return "account_deleted"


async def steal(house: House, person: Person) -> str:
    """A refresh token that is used again after its time: the whole session is taken to be stolen."""
    body = {"refresh_token": person.refresh_token}
    await person.api.call("POST", "/auth/token/refresh", json=body, expect=200)
    connection = await asyncpg.connect(house.settings.database_url, timeout=10)
    try:
        await connection.execute(
            "UPDATE refresh_tokens SET superseded_at = superseded_at - interval '1 hour'"
        )
    finally:
        await connection.close()
    answer = await person.api.call("POST", "/auth/token/refresh", json=body, expect=401)
    assert answer.json["code"] == "refresh_reused"
    return "refresh_reused"


@dataclass
class Heard:
    """What one connection is given, until it ends."""

    ready: asyncio.Barrier
    """Everyone is connected."""
    told: asyncio.Barrier
    """Everyone has been told something."""
    frames: list[Json] = field(default_factory=list)
    code: int | None = None
    ended_at: float = 0.0

    @property
    def texts(self) -> list[str]:
        return [f["data"]["body"] for f in self.frames if f["type"] == "message.created"]

    async def take(self, *frames: Json) -> None:
        had = len(self.texts)
        self.frames += frames
        if not had and self.texts:
            await self.told.wait()

    def ended(self, code: int | None) -> None:
        self.code, self.ended_at = code, time.monotonic()


async def listen_ws(person: Person, heard: Heard) -> None:
    async with person.ws() as socket:
        await heard.ready.wait()
        try:
            while True:
                await heard.take(await socket.receive())
        except Closed as closing:
            heard.ended(closing.code)


async def listen_sse(person: Person, heard: Heard) -> None:
    async with person.sse() as stream:
        await heard.ready.wait()
        try:
            while True:
                await heard.take((await stream.receive()).json)
        except Closed:
            heard.ended(None)


async def listen_poll(person: Person, heard: Heard) -> None:
    cursor = (await person.poll())["cursor"]
    await heard.ready.wait()
    while True:
        answer = await person.call("GET", "/realtime/poll", params={"cursor": cursor, "wait": "30"})
        if answer.status != 200:
            heard.ended(answer.status)
            return
        await heard.take(*answer.json["events"])
        cursor = answer.json["cursor"]


LISTEN = {listen_ws: 4401, listen_sse: None, listen_poll: 401}
"""Each transport, and how it is told that it is over."""


async def ends_everywhere(house: House, here: Api, there: Api, end: End) -> None:
    ann, bob = await house.people(at=here)
    chat = await ann.direct_with(bob)
    ready, told = asyncio.Barrier(7), asyncio.Barrier(7)
    everyone = [(listen, api, Heard(ready, told)) for api in (here, there) for listen in LISTEN]
    async with asyncio.TaskGroup() as tasks:
        for listen, api, heard in everyone:
            tasks.create_task(listen(ann.at(api), heard))
        await ready.wait()
        await bob.say(chat, "before")
        await told.wait()
        reason = await end(house, ann)
        answered = time.monotonic()
        for n in range(3):
            await bob.call("POST", f"/conversations/{chat}/messages", json={"body": f"after {n}"})
    for listen, _, heard in everyone:
        assert heard.ended_at - answered < 1, listen
        assert heard.texts == ["before"], "and nothing after"
        assert heard.code == LISTEN[listen]
        if listen is listen_sse:
            last = heard.frames[-1]
            assert last["type"] == "session.revoked"
            assert last["data"]["reason"] == reason
            assert last["topic"] == {"kind": "user", "id": ann.id}
    for api in (here, there):
        for path in ("/users/me", "/realtime/sse", "/realtime/poll"):
            await ann.at(api).call("GET", path, expect=401)


@pytest.mark.parametrize("end", [log_out, delete_session, suspend, delete_account, steal])
async def test_what_ends_a_sign_in_ends_its_connections_everywhere(house: House, end: End) -> None:
    await ends_everywhere(house, house.api, house.other, end)


@pytest.mark.parametrize("end", [log_out, suspend])
async def test_it_needs_no_redis(house: House, own_redis: OwnRedis, end: End) -> None:
    async with (
        house.instance(redis_url=own_redis.url) as here,
        house.instance(redis_url=own_redis.url) as there,
    ):
        await asyncio.to_thread(own_redis.kill)
        await ends_everywhere(house, here, there, end)


async def test_it_needs_no_hint(house: House, own_redis: OwnRedis) -> None:
    """Two instances on two Redis servers never hear of each other but through the log."""
    async with house.instance(redis_url=own_redis.url) as there:
        await ends_everywhere(house, house.api, there, log_out)


async def test_other_sign_ins_of_the_same_person_go_on(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    kept = await ann.sign_in()
    async with kept.ws() as socket, kept.at(house.other).sse() as stream:
        cursor = (await kept.poll())["cursor"]
        await ann.call("POST", "/auth/logout", expect=204)
        await bob.say(chat, "to the one that is left")
        assert (await socket.event())["type"] == "session.revoked", "of the other one; it is their inbox"
        assert (await socket.event())["data"]["body"] == "to the one that is left"
        assert (await stream.event("message.created"))["data"]["body"] == "to the one that is left"
        answer = await kept.poll(cursor)
        assert [e["type"] for e in answer["events"]] == ["session.revoked", "message.created"]


async def test_the_end_of_a_token_ends_its_connections(house: House) -> None:
    async with house.instance(access_token_seconds=2) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        ready, told = asyncio.Barrier(4), asyncio.Barrier(4)
        everyone = [(listen, Heard(ready, told)) for listen in LISTEN]
        ann = await ann.sign_in()
        expires = time.monotonic() + 2
        async with asyncio.TaskGroup() as tasks:
            for listen, heard in everyone:
                tasks.create_task(listen(ann, heard))
            await ready.wait()
            await bob.say(chat, "before")
            await told.wait()
        for listen, heard in everyone:
            assert expires - 1.2 < heard.ended_at < expires + 1
            assert heard.texts == ["before"]
            assert heard.code == LISTEN[listen]
            if listen is listen_sse:
                last = heard.frames[-1]
                assert (last["type"], last["data"]["reason"]) == ("session.revoked", "token_expired")


async def test_an_instance_that_cannot_read_the_log_writes_nothing_until_it_has(house: House) -> None:
    assert house.settings.database_url is not None
    async with (
        database_relay(house.settings.database_url) as (relay, url),
        house.instance(database_url=url, heartbeat_seconds=0.25) as cut_off,
    ):
        ann, bob = await house.people()
        chat = await ann.direct_with(bob)
        kept = (await bob.sign_in()).at(cut_off)
        over = bob.at(cut_off)
        before = (await kept.poll())["cursor"]
        async with (
            kept.ws() as kept_ws,
            kept.sse() as stream,
            over.ws() as ending_ws,
            over.sse() as ending_stream,
            asyncio.TaskGroup() as tasks,
        ):
            socket, ending = Reading(kept_ws, tasks), Reading(ending_ws, tasks)
            await ann.say(chat, "before")
            for follow in (socket, stream, ending, ending_stream):
                assert (await follow.event("message.created"))["data"]["body"] == "before"
            relay.freeze()
            async with asyncio.timeout(10):
                while (ready := await cut_off.call("GET", "//readyz")).json["parts"]["log"]["status"] == "ok":
                    pass
            assert ready.status == 503
            assert {frame["type"] for frame in socket.clear()} <= {"heartbeat", "receipt.delivered"}
            for body in ("held back", "held back too"):  # their hints arrive all the same
                await ann.say(chat, body)
                if body == "held back":
                    await bob.call("POST", "/auth/logout", expect=204)
            beats = [await socket.receive() for _ in range(4)]
            assert {beat["type"] for beat in beats} == {"heartbeat"}
            assert len({beat["cursor"] for beat in beats}) == 1
            events = (await ann.poll(beats[0]["cursor"]))["events"]
            assert [e["data"]["body"] for e in events if e["type"] == "message.created"] == [
                "held back",
                "held back too",
            ]
            await kept_ws.ws.send_str("nonsense")
            assert (await socket.event("reply"))["ok"] is False, "error replies go on"
            relay.thaw()
            assert (await socket.event("message.created"))["data"]["body"] == "held back"
            held_back = await stream.event("message.created")
            assert held_back["data"]["body"] == "held back"
            # Whoever was signed out meanwhile is not even told what came before that.
            told = await ending.rest() + [each.json for each in await ending_stream.closed()]
            assert ending.code == 4401
            assert "held back" not in str(told)
            socket.stop()
        answer = await kept.poll(before)
        bodies = [e["data"]["body"] for e in answer["events"] if e["type"] == "message.created"]
        assert bodies == ["before", "held back", "held back too"]
