"""A conversation, over every transport."""

from __future__ import annotations

import asyncio
import uuid

from tests.acceptance.conftest import Start
from tests.support.clients import Api, Person


async def test_a_message_reaches_both_sides_on_every_transport(ann: Person, bob: Person) -> None:
    conversation = await ann.direct_with(bob)
    start = (await bob.poll())["cursor"]
    async with ann.ws() as socket, bob.sse(start) as stream:
        sent = await socket.say(conversation, "hello")
        assert (await socket.event("message.created"))["data"] == sent
        assert (await stream.event("message.created"))["data"] == sent
    polled = await bob.poll(start, wait=5)
    assert [event["data"] for event in polled["events"] if event["type"] == "message.created"] == [sent]


async def test_a_cursor_goes_on_across_transports_and_instances(
    start: Start, ann: Person, bob: Person
) -> None:
    conversation = await ann.direct_with(bob)
    other = bob.at(await start())
    seen: list[str] = []
    async with bob.ws() as socket:
        await ann.say(conversation, "one")
        event = await socket.event("message.created")
        seen.append(event["data"]["body"])
    await ann.say(conversation, "two")
    async with other.sse(event["cursor"]) as stream:
        event = await stream.event("message.created")
        seen.append(event["data"]["body"])
    await ann.say(conversation, "three")
    events, cursor = await bob.poll_until(event["cursor"], 1)
    seen += [e["data"]["body"] for e in events if e["type"] == "message.created"]
    await ann.say(conversation, "four")
    async with other.ws(cursor) as socket:
        seen.append((await socket.event("message.created"))["data"]["body"])
    assert seen == ["one", "two", "three", "four"]


async def test_a_retried_send_is_one_message_on_any_instance(start: Start, ann: Person, bob: Person) -> None:
    conversation = await ann.direct_with(bob)
    elsewhere = ann.at(await start())
    client_id = str(uuid.uuid4())
    async with ann.ws() as here, elsewhere.ws() as there:
        first, second = await asyncio.gather(
            here.say(conversation, "once", client_id), there.say(conversation, "once", client_id)
        )
    assert first["seq"] == second["seq"] == 1
    assert len((await bob.get(f"/conversations/{conversation}/messages"))["items"]) == 1


async def test_messages_of_one_connection_keep_their_order(api: Api, ann: Person, bob: Person) -> None:
    conversation = await ann.direct_with(bob)
    async with ann.ws() as socket, bob.ws() as other:
        for n in range(200):
            await socket.tell(
                "message.send",
                {"conversation_id": conversation, "body": str(n), "client_id": str(uuid.uuid4())},
            )
        events = await other.events(200, "message.created")
    assert [event["data"]["body"] for event in events] == [str(n) for n in range(200)]
    assert [event["data"]["seq"] for event in events] == list(range(1, 201))


async def test_typing_and_presence_show_on_another_instance(start: Start, ann: Person, bob: Person) -> None:
    conversation = await ann.direct_with(bob)
    elsewhere = bob.at(await start())
    async with ann.ws() as here, elsewhere.ws() as there:
        statuses = (await there.command("presence.subscribe", {"user_ids": [ann.id]}))["statuses"]
        assert [status["user_id"] for status in statuses] == [ann.id]
        await here.command("typing.start", {"conversation_id": conversation})
        started = await there.event("typing.started")
        assert started["cursor"] is None
        assert started["data"] == {"conversation_id": conversation, "user_id": ann.id}
        await here.say(conversation, "typed")
        await there.event("typing.stopped")
        await here.ws.close()
        gone = await there.event("presence.changed")
        while gone["data"]["status"] != "offline":
            gone = await there.event("presence.changed")
        assert gone["data"]["user_id"] == ann.id
