"""The event stream, line by line, as ``EventSource`` and whoever reads the bytes find it."""

from __future__ import annotations

import asyncio
import re
import time
import uuid

import aiohttp
import pytest

from handlers import sse
from tests.support.house import House
from tests.support.raw import RawSocket, raw_sse

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def chunk(raw: RawSocket) -> str:
    """The next chunk of a chunked answer (RFC 9112, 7.1)."""
    size = int(await raw.until(b"\r\n"), 16)
    data = await raw.exactly(size + 2)
    assert data.endswith(b"\r\n")
    return data[:-2].decode()


async def lines_until(raw: RawSocket, end: str) -> list[str]:
    """Lines of a chunked stream, up to the blank one that ends the block with ``end`` in it."""
    text = ""
    while end not in text or not text.endswith("\n\n"):
        text += await chunk(raw)
    return text.split("\n")


async def test_a_stream_begins_with_retry_and_hello(house: House) -> None:
    (ann,) = await house.people(1)
    (session,) = (await ann.get("/auth/sessions"))["items"]
    async with raw_sse(ann) as (raw, head):
        fields = head.lower().split("\r\n")
        assert "content-type: text/event-stream" in fields
        assert "transfer-encoding: chunked" in fields
        assert any(line.startswith("cache-control: no-") for line in fields)
        lines = await lines_until(raw, "hello")
        assert re.fullmatch(r"retry: \d+", lines[0])
        assert lines[1] == ""
        place, event, data = lines[2:5]
        assert event == "event: hello"
        found = re.fullmatch(
            r'data: \{"type":"hello","cursor":"([^"]+)","session_id":"([^"]+)","user_id":"([^"]+)",'
            r'"heartbeat_seconds":25(\.0)?\}',
            data,
        )
        assert found, data
        assert place == f"id: {found[1]}"
        assert (found[2], found[3]) == (session["id"], ann.id)


async def test_an_event_has_its_cursor_its_type_and_its_envelope_in_one_line(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    async with raw_sse(bob) as (raw, _), bob.ws() as socket:
        await lines_until(raw, "hello")
        await ann.say(chat, "two\nlines\r\n\u2028 and \u0085 more")
        lines = await lines_until(raw, "message.created")
        envelope = await socket.event("message.created")
        assert lines[0] == f"id: {envelope['cursor']}"
        assert lines[1] == "event: message.created"
        assert lines[2].startswith("data: {")
        assert lines[3:] == ["", ""]
        async with bob.sse(socket.hello["cursor"]) as stream:
            block = await stream.receive()
            assert block.json == envelope
            assert block.data.count("\n") == 0


async def test_what_is_only_live_has_no_id_and_leaves_the_last_one(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    async with bob.sse() as stream:
        sent = await ann.say(chat)
        created = await stream.receive()
        assert (created.event, created.json["data"]["seq"]) == ("message.created", sent["seq"])
        await ann.call("POST", f"/conversations/{chat}/typing", expect=204)
        block = await stream.receive()
        assert (block.event, block.id, block.json["cursor"]) == ("typing.started", None, None)
        assert stream.last_event_id == created.id == created.json["cursor"]


async def test_heartbeats_carry_the_cursor_as_their_id(house: House) -> None:
    async with house.instance(heartbeat_seconds=0.2) as api:
        ann, bob = await house.people(at=api)
        chat = await ann.direct_with(bob)
        async with bob.sse() as stream:
            block = await stream.receive()
            assert block.event == "heartbeat"
            assert block.json == {"type": "heartbeat", "cursor": block.id}
            await ann.say(chat, "one")
            await stream.event("message.created")
            while (later := await stream.receive()).event != "heartbeat":
                pass
        await ann.say(chat, "two")
        for cursor, bodies in ((block.id, ["one", "two"]), (later.id, ["two"])):
            async with bob.sse(headers={"Last-Event-ID": str(cursor)}) as stream:
                assert stream.hello["cursor"] == cursor
                events = [await stream.event("message.created") for _ in bodies]
                assert [event["data"]["body"] for event in events] == bodies


async def test_comments_keep_a_quiet_stream_open(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sse.COMMENT_SECONDS == 15
    monkeypatch.setattr(sse, "COMMENT_SECONDS", 0.1)
    (ann,) = await house.people(1)
    async with raw_sse(ann) as (raw, _):
        await lines_until(raw, "hello")
        began = time.monotonic()
        for _ in range(3):
            text = await chunk(raw)
            assert re.fullmatch(r":[^\r\n]*(\r\n\r\n|\n\n)", text)
        assert 0.2 < time.monotonic() - began < 5


async def test_last_event_id_wins_over_the_cursor_in_the_url(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    first = (await bob.poll())["cursor"]
    await ann.say(chat, "one")
    second = (await bob.poll())["cursor"]
    await ann.say(chat, "two")
    for url, header, bodies in (
        (first, second, ["two"]),
        (second, first, ["one", "two"]),
        ("nonsense", second, ["two"]),
    ):
        async with bob.sse(url, headers={"Last-Event-ID": header}) as stream:
            assert stream.hello["cursor"] == header
            assert [(await stream.event())["data"]["body"] for _ in bodies] == bodies


async def test_http_1_0_gets_the_same_stream_without_chunks(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    cursor = (await bob.poll())["cursor"]
    await ann.say(chat, "old")
    async with raw_sse(bob, f"?cursor={cursor}", version="1.0") as (raw, head):
        assert "transfer-encoding" not in head.lower()
        text = (await raw.until(b"\n\n")).decode()
        assert text.startswith("retry: ")
        assert (await raw.until(b"\n\n")).startswith(b"id: " + cursor.encode() + b"\nevent: hello\ndata: {")
        old = await raw.until(b"\n\n")
        assert re.fullmatch(rb'id: \S+\nevent: message.created\ndata: \{.*"body":"old".*\}\n\n', old)
        await ann.say(chat, "live")
        assert b'"body":"live"' in await raw.until(b"\n\n")
        await bob.call("POST", "/auth/logout", expect=204)
        assert b"event: session.revoked" in await raw.to_the_end()


async def test_a_stream_that_ends_is_a_whole_answer(house: House) -> None:
    (ann,) = await house.people(1)
    async with raw_sse(ann) as (raw, _):
        await lines_until(raw, "hello")
        await ann.call("POST", "/auth/logout", expect=204)
        lines = await lines_until(raw, "session.revoked")
        assert lines[1] == "event: session.revoked"
        assert (await raw.until(b"0\r\n\r\n")) == b"0\r\n\r\n"


@pytest.mark.parametrize("transport", ["ws", "sse", "poll"])
async def test_topics_choose_what_a_session_is_told(house: House, transport: str) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    everything = ["all", "messages", "messages,feed", f"post:{uuid.uuid4()},messages"]
    nothing = ["notifications", "feed", f"post:{uuid.uuid4()}", f"notifications,feed,post:{uuid.uuid4()}"]
    for topics in everything + nothing:
        expected = ["message.created"] if topics in everything else []
        cursor = (await bob.poll())["cursor"]
        await ann.say(chat)
        if transport == "poll":
            answer = await bob.poll(cursor, topics=topics)
            told = [event["type"] for event in answer["events"]]
            assert [type_ for type_ in told if type_ != "receipt.delivered"] == expected, topics
            rest = (await bob.poll(answer["cursor"]))["events"]
            assert "message.created" not in [event["type"] for event in rest], "left out counts as read"
        elif transport == "ws":
            async with bob.ws(cursor, topics=topics) as socket:
                await socket.tell("ping")
                told = []
                while (frame := await socket.receive())["type"] != "reply":
                    told.append(frame["type"])
                assert [type_ for type_ in told if type_ != "receipt.delivered"] == expected, topics
        else:
            one = await bob.sign_in()
            async with one.sse(cursor, topics=topics) as stream:
                await one.call("POST", "/auth/logout", expect=204)
                told = [block.event for block in await stream.closed()]
                shown = [type_ for type_ in told if type_ != "receipt.delivered"]
                assert shown == [*expected, "session.revoked"], topics
                assert expected or told == ["session.revoked"], "always"


@pytest.mark.parametrize(
    "topics",
    ["", "nonsense", "all,messages", "messages,", "Messages", "messages feed", "always", "post:", "post:1"],
)
async def test_topics_that_are_none_are_422_on_every_transport(house: House, topics: str) -> None:
    (ann,) = await house.people(1)
    for path in ("/realtime/sse", "/realtime/poll"):
        answer = await ann.call(
            "GET",
            path,
            params={"topics": topics, "wait": "0"} if "poll" in path else {"topics": topics},
            expect=422,
        )
        assert answer.json["errors"][0]["pointer"] == "topics"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with ann.ws(topics=topics):
            pass
    assert refused.value.status == 422


async def test_too_many_connections_are_refused_each_in_its_own_way(house: House) -> None:
    async with house.instance(max_connections_per_user=3) as api:
        ann, bob = await house.people(at=api)
        cursor = (await ann.poll())["cursor"]
        async with ann.ws(), ann.sse():
            waiting = asyncio.create_task(ann.poll(cursor, wait=30))
            async with asyncio.timeout(10):
                while (answer := await ann.call("GET", "/realtime/poll?wait=0")).status != 429:
                    pass
            assert answer.json["code"] == "too_many_connections"
            assert int(answer.headers["Retry-After"]) >= 1
            assert (await ann.call("GET", "/realtime/sse")).status == 429
            async with ann.api.http.ws_connect(
                f"{api.url}/api/v1/realtime/ws", headers={"Authorization": f"Bearer {ann.token}"}
            ) as refused:
                assert (await refused.receive()).type is aiohttp.WSMsgType.CLOSE
                assert refused.close_code == 4429
            async with bob.ws() as other:
                assert await other.command("ping") == {}
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        async with asyncio.timeout(10):
            while True:
                async with ann.api.http.get(
                    f"{api.url}/api/v1/realtime/sse", headers={"Authorization": f"Bearer {ann.token}"}
                ) as again:
                    if again.status == 200:
                        break


async def test_no_more_streams_than_allowed_begin_at_the_same_moment(house: House) -> None:
    async with house.instance(max_connections_per_user=3) as api:
        (ann,) = await house.people(1, at=api)
        headers = {"Authorization": f"Bearer {ann.token}"}
        answers = await asyncio.gather(
            *[api.http.get(f"{api.url}/api/v1/realtime/sse", headers=headers) for _ in range(12)]
        )
        try:
            assert sorted(answer.status for answer in answers) == 3 * [200] + 9 * [429]
        finally:
            for answer in answers:
                answer.close()


async def test_an_instance_holds_as_many_connections_as_it_is_told_to(house: House) -> None:
    async with house.instance(max_connections=2) as api:
        ann, bob, eve = await house.people(3, at=api)
        async with ann.ws(), bob.sse():
            await eve.call("GET", "/realtime/poll?wait=0", expect=429)
            await eve.call("GET", "/realtime/sse", expect=429)
            assert (await eve.call("GET", "/users/me")).status == 200
