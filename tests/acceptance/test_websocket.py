"""The WebSocket, frame by frame, as somebody who writes a client from the contract finds it."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import uuid
from typing import Any

import aiohttp
import asyncpg
import pytest

from handlers.websocket import SessionSocket
from tests.support.clients import Closed, Person
from tests.support.house import House
from tests.support.raw import CLOSE, PING, PONG, TEXT, RawWebSocket, raw_ws, upgrade_headers

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
KIB64 = 64 * 1024


async def handshake(person: Person, **headers: str) -> tuple[int, str]:
    """Asks for an upgrade; the status and head of the answer."""
    raw = await RawWebSocket.to(person.api.url)
    try:
        wanted = {name: value for name, value in upgrade_headers(person, **headers).items() if value}
        return await raw.get("/api/v1/realtime/ws", wanted)
    finally:
        raw.close()


# Hello.


async def test_hello_comes_first_and_says_who_and_where(house: House) -> None:
    (ann,) = await house.people(1)
    (session,) = (await ann.get("/auth/sessions"))["items"]
    now = (await ann.poll())["cursor"]
    async with ann.ws() as socket:
        hello = socket.hello
    assert list(hello) == ["type", "cursor", "session_id", "user_id", "heartbeat_seconds"]
    assert hello["session_id"] == session["id"]
    assert hello["user_id"] == ann.id
    assert hello["heartbeat_seconds"] == 25
    assert (await ann.poll(now))["events"] == []
    assert (await ann.poll(hello["cursor"]))["events"] == []


async def test_hello_carries_the_presented_cursor_and_the_replay_follows(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    cursor = (await bob.poll())["cursor"]
    for n in range(3):
        await ann.say(chat, str(n))
    async with raw_ws(bob, f"?cursor={cursor}") as raw:
        frames = [await raw.receive() for _ in range(4)]
        assert [frame["type"] for frame in frames] == ["hello"] + 3 * ["message.created"]
        assert frames[0]["cursor"] == cursor
        assert [frame["data"]["body"] for frame in frames[1:]] == ["0", "1", "2"]
        assert len({frame["cursor"] for frame in frames}) == 4
        assert list(frames[1]) == ["cursor", "type", "topic", "at", "data"]
        assert frames[1]["topic"] == {"kind": "conversation", "id": chat}
        await ann.say(chat, "live")
        assert (await raw.receive())["data"]["body"] == "live"


async def test_what_is_read_after_hello_is_at_least_as_new(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    for n in range(1, 6):
        sent = await ann.say(chat, str(n))
        async with bob.at(house.other).ws() as socket:
            assert socket.hello["type"] == "hello"
            page = await bob.at(house.other).get(f"/conversations/{chat}/messages")
            assert page["items"][0]["seq"] == sent["seq"] == n


# Commands.


async def test_every_command_has_its_reply(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    client_id = str(uuid.uuid4())
    async with ann.ws() as socket, bob.ws() as other:
        where = {"conversation_id": chat}
        name = await socket.tell("message.send", {**where, "body": "one", "client_id": client_id})
        reply = await socket.reply(name)
        assert list(reply) == ["type", "id", "ok", "data"]
        assert (reply["type"], reply["id"], reply["ok"]) == ("reply", name, True)
        message = reply["data"]
        assert (message["seq"], message["body"], message["client_id"]) == (1, "one", client_id)
        assert set(message) == {
            "id", "conversation_id", "seq", "sender_id", "client_id", "body", "reply_to_seq", "attachments",
            "reactions", "edited_at", "deleted_at", "created_at",
        }  # fmt: skip
        one = {**where, "seq": 1}
        answered = await other.command(
            "message.send",
            {**where, "body": "two", "client_id": str(uuid.uuid4()), "reply_to_seq": 1, "attachments": []},
        )
        assert answered["reply_to_seq"] == 1
        edited = await socket.command("message.edit", {**one, "body": "one!"})
        assert (edited["body"], edited["seq"]) == ("one!", 1)
        assert edited["edited_at"] is not None
        assert await other.command("reaction.add", {**one, "emoji": "👍"}) == {}
        assert await other.command("reaction.remove", {**one, "emoji": "👍"}) == {}
        assert await other.command("conversation.delivered", one) == {}
        assert await other.command("conversation.read", one) == {}
        assert await other.command("typing.start", where) == {}
        assert await other.command("typing.stop", where) == {}
        statuses = await other.command("presence.subscribe", {"user_ids": [ann.id]})
        assert [set(status) for status in statuses["statuses"]] == [{"user_id", "status", "last_seen_at"}]
        assert await other.command("presence.unsubscribe", {"user_ids": [ann.id]}) == {}
        assert await socket.command("ack", {"cursor": socket.hello["cursor"]}) == {}
        refreshed = await socket.command("auth.refresh", {"access_token": ann.token})
        assert set(refreshed) == {"expires_in"}
        assert 800 < refreshed["expires_in"] <= 900
        assert await socket.command("message.delete", one) == {}
        assert await socket.command("ping") == {}
        await socket.ws.send_str('{"id": "bare", "op": "ping"}')
        assert (await socket.reply("bare"))["data"] == {}


async def test_a_send_that_is_repeated_gives_the_first_message_again(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    client_id = str(uuid.uuid4())
    data = {"conversation_id": chat, "body": "once", "client_id": client_id}
    async with ann.ws() as here, ann.at(house.other).ws() as there:
        first = await here.command("message.send", data)
        assert await there.command("message.send", data) == first
        assert (await here.failing("message.send", {**data, "body": "other"}))["code"] == "client_id_reused"


async def test_any_string_is_an_id(house: House) -> None:
    (ann,) = await house.people(1)
    async with ann.ws() as socket:
        for name in ("1", "", " ", "x" * 1000, "ünï ☃ 𝄞", 'a "quoted" \\ one', "null", "\u0000\n"):
            await socket.ws.send_str(json.dumps({"id": name, "op": "ping", "data": {}}))
            assert (await socket.receive()) == {"type": "reply", "id": name, "ok": True, "data": {}}


INVALID: list[tuple[str, str | None]] = [
    ("", None),
    ("nonsense", None),
    ("[]", None),
    ('"ping"', None),
    ("{}", None),
    ('{"op": "ping"}', None),
    ('{"id": 1, "op": "ping"}', None),
    ('{"id": null, "op": "ping"}', None),
    ('{"id": "a"}', "a"),
    ('{"id": "b", "op": 1}', "b"),
    ('{"id": "c", "op": "ping", "extra": 1}', "c"),
    ('{"id": "d", "op": "dance"}', "d"),
    ('{"id": "e", "op": "PING"}', "e"),
]


async def test_an_invalid_frame_is_answered_under_the_id_it_has(house: House) -> None:
    (ann,) = await house.people(1)
    for start in range(0, len(INVALID), 9):
        async with ann.ws() as socket:
            for frame, name in INVALID[start : start + 9]:
                await socket.ws.send_str(frame)
                reply = await socket.receive()
                assert (reply["type"], reply["id"], reply["ok"]) == ("reply", name, False), frame
                assert set(reply) == {"type", "id", "ok", "error"}
                assert {"type", "title", "status", "detail", "code"} <= set(reply["error"])
                assert reply["error"]["status"] == 400
            assert await socket.command("ping") == {}
    async with raw_ws(ann) as raw:
        await raw.receive()
        await raw.send(TEXT, b'{"id": "\xff", "op": "ping"}')
        assert (await raw.receive())["id"] is None


async def test_a_user_may_send_so_many_commands_over_all_of_their_connections(house: House) -> None:
    async with house.instance(rate_limits=True) as api:
        ann, bob = await house.people(2, at=api)
        async with ann.ws() as phone, ann.ws() as laptop, bob.ws() as other:
            began = time.monotonic()
            asked = [(socket, await socket.tell("ping")) for _ in range(300) for socket in (phone, laptop)]
            replies = [await socket.reply(name) for socket, name in asked]
            most = 100 + 50 * (time.monotonic() - began)
            refused = [reply["error"] for reply in replies if not reply["ok"]]
            assert 100 <= len(replies) - len(refused) <= most
            assert {error["status"] for error in refused} <= {429}
            assert all(0 < error["retry_after_ms"] <= 1000 for error in refused)
            assert await other.command("ping") == {}


@pytest.mark.parametrize(
    ("op", "change", "pointer"),
    [
        ("message.send", {"client_id": None}, "/client_id"),
        ("message.send", {"client_id": "x"}, "/client_id"),
        ("message.send", {"body": 5}, "/body"),
        ("message.send", {"body": ""}, "/body"),
        ("message.send", {"body": "x" * 4001}, "/body"),
        ("message.send", {"body": "a\u0000b"}, "/body"),
        ("message.send", {"conversation_id": 1}, "/conversation_id"),
        ("message.send", {"reply_to_seq": "1"}, "/reply_to_seq"),
        ("message.send", {"attachments": "none"}, "/attachments"),
        ("message.send", {"colour": "red"}, "/colour"),
        ("message.edit", {"seq": "1"}, "/seq"),
        ("message.delete", {"body": "x"}, "/body"),
        ("reaction.add", {"emoji": ""}, "/emoji"),
        ("conversation.read", {"seq": 1.5}, "/seq"),
        ("conversation.read", {"seq": True}, "/seq"),
        ("conversation.read", {"seq": -1}, "/seq"),
        ("typing.start", {"seq": 1}, "/seq"),
        ("presence.subscribe", {"user_ids": "all"}, "/user_ids"),
        ("ack", {"cursor": 7}, "/cursor"),
        ("ack", {"cursor": "nonsense"}, "/cursor"),
        ("ping", {"pong": 1}, "/pong"),
    ],
)
async def test_what_is_wrong_in_a_command_is_named(house: House, op: str, change: Json, pointer: str) -> None:
    (ann,) = await house.people(1)
    chat = await ann.group_with()
    where = {"conversation_id": chat}
    right: dict[str, Json] = {
        "message.send": {**where, "body": "x", "client_id": str(uuid.uuid4())},
        "message.edit": {**where, "seq": 1, "body": "x"},
        "message.delete": {**where, "seq": 1},
        "reaction.add": {**where, "seq": 1, "emoji": "x"},
        "conversation.read": {**where, "seq": 1},
        "typing.start": where,
    }
    data = {name: value for name, value in {**right.get(op, {}), **change}.items() if value is not None}
    async with ann.ws() as socket:
        error = await socket.failing(op, data)
        assert error["status"] == 422, error
        assert [field["pointer"] for field in error["errors"]] == [pointer]
        assert await socket.command("ping") == {}


async def test_data_that_is_no_object_is_an_error_of_the_command(house: House) -> None:
    (ann,) = await house.people(1)
    async with ann.ws() as socket:
        wrong: list[object] = [None, [], "x", 1]
        for data in wrong:
            await socket.ws.send_str(json.dumps({"id": "a", "op": "ping", "data": data}))
            reply = await socket.receive()
            assert (reply["id"], reply["ok"]) == ("a", False)
            assert reply["error"]["status"] in (400, 422)


async def test_what_one_may_not_see_is_not_found_by_command_either(house: House) -> None:
    ann, bob, eve = await house.people(3)
    chat = await ann.direct_with(bob)
    await ann.say(chat)
    one = {"conversation_id": chat, "seq": 1}
    async with eve.ws() as socket, bob.ws() as member:
        commands: dict[str, Json] = {
            "message.send": {"conversation_id": chat, "body": "x", "client_id": str(uuid.uuid4())},
            "message.edit": {**one, "body": "x"},
            "message.delete": one,
            "reaction.add": {**one, "emoji": "x"},
            "reaction.remove": {**one, "emoji": "x"},
            "conversation.read": one,
            "conversation.delivered": one,
            "typing.start": {"conversation_id": chat},
        }
        for op, data in commands.items():
            error = await socket.failing(op, data)
            assert (error["status"], error["code"]) == (404, "not_found"), op
        assert (await member.failing("message.edit", {**one, "body": "x"}))["status"] == 403


async def test_commands_of_one_connection_take_effect_in_order_and_fail_alone(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)

    def send(body: str, to: str = chat) -> tuple[str, Json]:
        return "message.send", {"conversation_id": to, "body": body, "client_id": str(uuid.uuid4())}

    async with ann.ws() as socket, bob.ws() as other:
        told: list[tuple[str, Json]] = [
            send("first"),
            send("lost", to=str(uuid.uuid4())),
            ("message.edit", {"conversation_id": chat, "seq": 1, "body": "first, edited"}),
            ("reaction.add", {"conversation_id": chat, "seq": 1, "emoji": "1"}),
            send("second"),
            ("message.delete", {"conversation_id": chat, "seq": 2}),
            ("message.delete", {"conversation_id": chat, "seq": 9}),
            send("third"),
        ]
        ids = [await socket.tell(op, data) for op, data in told]
        replies = [await socket.reply(name) for name in ids]
        assert [reply["ok"] for reply in replies] == [True, False, True, True, True, True, False, True]
        assert [replies[n]["data"]["seq"] for n in (0, 4, 7)] == [1, 2, 3]
        events = await other.events(6)
    assert [event["type"] for event in events] == [
        "message.created", "message.updated", "reaction.added", "message.created", "message.deleted",
        "message.created",
    ]  # fmt: skip


# Frames.


async def test_ten_invalid_frames_in_ten_seconds_close_with_4400(house: House) -> None:
    (ann,) = await house.people(1)
    async with ann.ws() as socket:
        for _ in range(9):
            await socket.ws.send_str("nonsense")
            assert (await socket.receive())["ok"] is False
        assert await socket.command("ping") == {}
        await socket.ws.send_str("nonsense")
        assert (await socket.closed()).code == 4400


async def test_frames_that_came_with_the_tenth_invalid_one_are_answered_before_the_close(
    house: House,
) -> None:
    (ann,) = await house.people(1)
    async with raw_ws(ann) as raw:
        await raw.receive()
        for n in range(20):
            await raw.send(TEXT, b"nonsense %d" % n)
        replies = [await raw.receive() for _ in range(10)]
        assert [reply["ok"] for reply in replies] == 10 * [False]
        with pytest.raises(Closed) as closing:
            await raw.receive()
        assert closing.value.code == 4400


async def test_nothing_sent_behind_what_closed_the_connection_takes_effect(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    async with raw_ws(ann) as raw:
        await raw.receive()
        data = {"conversation_id": chat, "body": "late", "client_id": str(uuid.uuid4())}
        await raw.send(2, b"binary")
        for _ in range(3):
            await raw.command("message.send", data)
        assert (await raw.closed()).code == 1003
    assert (await ann.get(f"/conversations/{chat}/messages"))["items"] == []


def padded(size: int) -> bytes:
    return b'{"id": "big", "op": "ping"' + b" " * (size - 27) + b"}"


async def test_a_frame_may_hold_64_kib_and_no_more(house: House) -> None:
    (ann,) = await house.people(1)
    async with ann.ws() as socket:
        await socket.ws.send_str(padded(KIB64).decode())
        assert (await socket.reply("big"))["ok"] is True
        await socket.ws.send_str(padded(KIB64 + 1).decode())
        assert (await socket.closed()).code == 1009


async def test_a_message_in_pieces_is_one_and_may_hold_64_kib_too(house: House) -> None:
    (ann,) = await house.people(1)
    async with raw_ws(ann) as raw:
        await raw.receive()
        for size, fits in ((KIB64, True), (KIB64 + 1, False)):
            whole = padded(size)
            await raw.send(TEXT, whole[:30000], final=False)
            await raw.send(PING, b"in between")
            await raw.send(0, whole[30000:60000], final=False)
            await raw.send(0, whole[60000:])
            assert await raw.frame() == (PONG, b"in between")
            if fits:
                assert (await raw.receive())["id"] == "big"
        assert (await raw.closed()).code == 1009


async def test_a_binary_frame_closes_with_1003(house: House) -> None:
    (ann,) = await house.people(1)
    async with ann.ws() as socket:
        await socket.ws.send_bytes(b'{"id": "a", "op": "ping"}')
        assert (await socket.closed()).code == 1003


async def test_a_clients_ping_is_answered_with_its_own_words(house: House) -> None:
    (ann,) = await house.people(1)
    async with raw_ws(ann) as raw:
        await raw.receive()
        for payload in (b"", b"hello", bytes(range(125))):
            await raw.send(PING, payload)
            assert await raw.frame() == (PONG, payload)


async def test_a_client_that_says_goodbye_is_answered(house: House) -> None:
    (ann,) = await house.people(1)
    async with raw_ws(ann) as raw:
        await raw.receive()
        await raw.send(CLOSE, (1000).to_bytes(2, "big") + b"bye")
        opcode, payload = await raw.frame()
        assert (opcode, payload[:2]) == (CLOSE, (1000).to_bytes(2, "big"))
        assert await raw.to_the_end() == b""


@pytest.mark.parametrize(
    ("offered", "status", "chosen"),
    [
        ("", 101, None),
        ("parley.v1", 101, "parley.v1"),
        ("chat, parley.v1", 101, "parley.v1"),
        ("chat", 400, None),
        ("parley.v2, PARLEY.V1", 400, None),
    ],
)
async def test_the_subprotocol_is_parley_v1(
    house: House, offered: str, status: int, chosen: str | None
) -> None:
    (ann,) = await house.people(1)
    got, head = await handshake(ann, **{"Sec-WebSocket-Protocol": offered})
    lines = [line.partition(": ")[2] for line in head.split("\r\n") if "protocol:" in line.lower()]
    assert (got, lines) == (status, [chosen] if chosen else [])
    assert "sec-websocket-extensions" not in head.lower()


async def test_what_is_no_upgrade_is_answered_with_400(house: House) -> None:
    (ann,) = await house.people(1)
    answer = await ann.call("GET", "/realtime/ws", expect=400)
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    status, _ = await handshake(ann, **{"Sec-WebSocket-Version": "12"})
    assert status == 400


# Life.


async def test_heartbeats_come_with_pings_and_their_cursor_resumes_without_loss(house: House) -> None:
    async with house.instance(heartbeat_seconds=0.2) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        async with raw_ws(bob) as raw:
            hello = await raw.receive()
            assert hello["heartbeat_seconds"] == 0.2
            first = await raw.receive()
            assert first == {"type": "heartbeat", "cursor": hello["cursor"]}
            assert await raw.frame() == (PING, b"")
            await raw.send(PONG)
            await ann.say(chat, "one")
            await raw.event("message.created")
            beat = await raw.event("heartbeat")
            await raw.send(PONG)
        await ann.say(chat, "two")
        for cursor, bodies in ((first["cursor"], ["one", "two"]), (beat["cursor"], ["two"])):
            events = (await bob.poll(cursor))["events"]
            assert [each["data"]["body"] for each in events] == bodies


async def test_a_heartbeats_cursor_has_read_what_the_filter_left_out(house: House) -> None:
    async with house.instance(heartbeat_seconds=0.2) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        async with bob.ws(topics="notifications") as socket:
            await ann.say(chat, "not asked for")
            after = (await bob.poll())["cursor"]
            async with asyncio.timeout(5):
                while (frame := await socket.receive())["cursor"] != after:
                    assert frame["type"] == "heartbeat"


async def test_a_silent_peer_is_closed_with_4408_after_two_intervals(house: House) -> None:
    heartbeat = 0.4
    async with house.instance(heartbeat_seconds=heartbeat) as api:
        (ann,) = await house.people(1, at=api)
        async with raw_ws(ann) as silent, raw_ws(ann) as answering, raw_ws(ann) as talking:
            assert await silent.frame()
            while (await silent.frame())[0] != PING:
                pass
            await silent.send(PONG)
            began = time.monotonic()

            async def answer() -> None:
                while True:
                    opcode, _ = await answering.frame()
                    assert opcode != CLOSE
                    if opcode == PING:
                        await answering.send(PONG)

            async def talk() -> None:
                while True:
                    if (await talking.receive())["type"] == "heartbeat":
                        await talking.command("ping")

            others = [asyncio.create_task(answer()), asyncio.create_task(talk())]
            closing = await silent.closed()
            took = time.monotonic() - began
            assert closing.code == 4408
            assert 2 * heartbeat <= took < 2.8 * heartbeat
            done, _ = await asyncio.wait(others, timeout=2 * heartbeat)
            assert not done, "any frame counts as life"
            for task in others:
                task.cancel()
            await asyncio.wait(others)


async def test_a_peer_whose_command_takes_long_is_not_taken_for_silent(house: House) -> None:
    """An outage is when commands take long: PostgreSQL away, sockets stay open."""
    async with house.instance(heartbeat_seconds=0.2) as api:
        ann, bob = await house.people(2, at=api)
        chat = await ann.direct_with(bob)
        await ann.say(chat)
        database = await asyncpg.connect(house.settings.database_url, timeout=10)
        try:
            held = database.transaction()
            await held.start()
            await database.execute("SELECT FROM conversations WHERE id = $1 FOR UPDATE", uuid.UUID(chat))
            async with ann.ws() as socket:
                command = {"conversation_id": chat, "seq": 1, "body": "at last"}
                await socket.ws.send_json({"id": "slow", "op": "message.edit", "data": command})
                for _ in range(8):  # four times what silence may last
                    assert (await socket.receive())["type"] == "heartbeat"
                await held.rollback()
                while (frame := await socket.receive())["type"] != "reply":
                    pass
                assert frame["ok"]
        finally:
            await database.close()


# The token's end.


async def test_a_token_that_ends_soon_is_announced_a_minute_ahead(house: House) -> None:
    async with house.instance(access_token_seconds=62) as api:
        (ann,) = await house.people(1, at=api)
        async with ann.ws() as socket, ann.sse() as stream:
            began = time.monotonic()
            expiring = await socket.receive()
            assert time.monotonic() - began > 0.3
            assert expiring["type"] == "token.expiring"
            assert 59 <= expiring["expires_in"] <= 60
            block = await stream.receive()
            assert (block.event, block.id) == ("token.expiring", None)
            assert block.json["type"] == "token.expiring"


async def test_an_expired_token_closes_with_4401_unless_it_was_refreshed_in_band(house: House) -> None:
    async with house.instance(access_token_seconds=2) as api:
        short, stranger = await house.people(2, at=api)
        longer = await short.at(house.api).sign_in()
        async with short.ws() as left, short.ws() as refreshed:
            assert (await left.receive())["type"] == "token.expiring"
            assert (await refreshed.receive())["type"] == "token.expiring"
            for token in (stranger.token, "nonsense", ""):
                error = await refreshed.failing("auth.refresh", {"access_token": token})
                assert error["status"] == 401
            told = await refreshed.command("auth.refresh", {"access_token": longer.token})
            assert 890 <= told["expires_in"] <= 900
            closing = await left.closed(4)
            assert (closing.code, (await left.ws.receive()).type) == (4401, aiohttp.WSMsgType.CLOSED)
            assert await refreshed.command("ping") == {}
            # It belongs to the newer sign-in now, and ends with that one.
            await longer.call("POST", "/auth/logout", expect=204)
            assert (await refreshed.closed(1)).code == 4401


async def test_a_sign_in_that_is_over_refreshes_nothing(house: House) -> None:
    (ann,) = await house.people(1)
    over = await ann.sign_in()
    await over.call("POST", "/auth/logout", expect=204)
    async with ann.ws() as socket:
        error = await socket.failing("auth.refresh", {"access_token": over.token})
        assert error["status"] == 401
        assert await socket.command("ping") == {}


async def test_a_peer_that_breaks_the_protocol_leaves_nothing_to_the_garbage_collector(house: House) -> None:
    """Full passes of the collector are rare: what only they free would pile up, a whole connection each time."""
    (ann,) = await house.people(1)

    def there() -> int:
        return sum(type(each) is SessionSocket for each in gc.get_objects())

    gc.collect()
    gc.disable()
    before = there()
    try:
        for _ in range(3):
            async with raw_ws(ann) as raw:
                await raw.receive()
                await raw.send(CLOSE, b"\x00\x00")  # no close code that there is
                assert (await raw.closed()).code == 1002
        async with asyncio.timeout(10):
            while there() > before:
                await ann.poll()  # until the last one's handler has ended
    finally:
        gc.enable()
