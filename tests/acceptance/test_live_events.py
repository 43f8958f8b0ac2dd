"""Typing and presence as clients see them: over REST, WebSocket and SSE, on two instances."""

from __future__ import annotations

import uuid

import pytest

from tests.acceptance.conftest import Start
from tests.support.clients import Api, Person, Socket

QUIET = ["presence.changed", "typing.started", "typing.stopped"]


async def follow(socket: Socket, *people: Person) -> list[str]:
    reply = await socket.command("presence.subscribe", {"user_ids": [person.id for person in people]})
    return [status["status"] for status in reply["statuses"]]


async def follow_online(socket: Socket, person: Person) -> None:
    """Follows somebody who is connected: what another instance says of them may take a moment."""
    if await follow(socket, person) == ["offline"]:
        assert (await socket.event("presence.changed"))["data"]["status"] == "online"


async def nothing_live(socket: Socket, sender: Person, conversation: str) -> None:
    """Passes over what comes until the next message; nothing of it was live."""
    await sender.say(conversation, "end")
    while (event := await socket.event())["type"] != "message.created":
        assert event["type"] not in QUIET, event


async def test_typing_over_rest_is_shown_on_every_stream(start: Start, ann: Person, bob: Person) -> None:
    conversation = await ann.direct_with(bob)
    cursor = (await bob.poll())["cursor"]
    elsewhere = bob.at(await start())
    async with bob.ws() as socket, elsewhere.sse() as stream, ann.ws() as own:
        bodies: list[dict[str, str] | None] = [{}, None]
        for body in bodies:
            await ann.call("POST", f"/conversations/{conversation}/typing", json=body, expect=204)
        expected = {"conversation_id": conversation, "user_id": ann.id}
        event = await socket.event()
        assert (event["type"], event["cursor"], event["data"]) == ("typing.started", None, expected)
        assert event["topic"] == {"kind": "conversation", "id": conversation}
        block = await stream.receive()
        while block.event == "heartbeat":
            block = await stream.receive()
        assert (block.event, block.id, block.json["data"]) == ("typing.started", None, expected)
        await ann.say(conversation, "done")
        assert (await socket.event("typing.stopped"))["data"] == expected
        assert (await stream.event("typing.stopped"))["data"] == expected
        await nothing_live(own, bob, conversation)
    assert {event["type"] for event in (await bob.poll(cursor))["events"]} == {"message.created"}


async def test_typing_is_only_for_members(api: Api, ann: Person, bob: Person, carol: Person) -> None:
    conversation = await ann.direct_with(bob)
    path = f"/conversations/{conversation}/typing"
    await carol.call("POST", path, expect=404)
    await ann.call("POST", f"/conversations/{uuid.uuid4()}/typing", expect=404)
    await ann.call("POST", "/conversations/nonsense/typing", expect=404)
    await api.call("POST", path, expect=401)
    async with carol.ws() as socket:
        for op in ("typing.start", "typing.stop"):
            assert (await socket.failing(op, {"conversation_id": conversation}))["status"] == 404
            assert (await socket.failing(op, {}))["status"] == 422


@pytest.mark.parametrize("blocker", ["ann", "bob"])
async def test_a_block_hides_typing_and_presence_from_each_other(
    start: Start, ann: Person, bob: Person, carol: Person, blocker: str
) -> None:
    group = await ann.group_with(bob, carol)
    elsewhere = bob.at(await start())
    async with ann.ws() as anns, elsewhere.ws() as bobs, carol.ws() as carols:
        await follow_online(bobs, ann)
        await follow_online(anns, bob)
        one, other = (ann, bob) if blocker == "ann" else (bob, ann)
        await one.call("PUT", f"/users/{other.username}/block", expect=204)
        for socket, hidden in ((bobs, ann), (anns, bob)):
            assert (await socket.event("presence.changed"))["data"] == {
                "user_id": hidden.id,
                "status": "offline",
                "last_seen_at": None,
            }
            assert await follow(socket, hidden) == ["offline"]
        for socket, who in ((anns, ann), (bobs, bob)):
            await socket.command("typing.start", {"conversation_id": group})
            assert (await carols.event("typing.started"))["data"]["user_id"] == who.id
        await nothing_live(bobs, carol, group)
        await nothing_live(anns, carol, group)
        await one.call("DELETE", f"/users/{other.username}/block", expect=204)
        for socket in (bobs, anns):
            assert (await socket.event("presence.changed"))["data"]["status"] == "online"


async def test_presence_can_be_turned_off(start: Start, ann: Person, bob: Person) -> None:
    conversation = await ann.direct_with(bob)
    elsewhere = bob.at(await start())
    async with ann.ws(), elsewhere.ws() as bobs:
        await follow_online(bobs, ann)
        await ann.call("PATCH", "/users/me", json={"settings": {"presence": False}}, expect=200)
        assert (await bobs.event("presence.changed"))["data"] == {
            "user_id": ann.id,
            "status": "offline",
            "last_seen_at": None,
        }
        async with ann.ws():
            pass
        await nothing_live(bobs, ann, conversation)
        await ann.call("PATCH", "/users/me", json={"settings": {"presence": True}}, expect=200)
        assert (await bobs.event("presence.changed"))["data"]["status"] == "online"


async def test_polls_and_streams_make_one_present(api: Api, ann: Person, bob: Person, carol: Person) -> None:
    cursor = (await ann.poll())["cursor"]
    async with carol.ws() as socket, bob.sse():
        assert await follow(socket, bob) == ["online"]
        await ann.poll(cursor, wait=1)
        assert await follow(socket, ann) == ["online"], "between two polls too"


async def test_a_deleted_account_is_gone_for_those_who_followed_it(ann: Person, bob: Person) -> None:
    async with ann.ws(), bob.ws() as bobs:
        assert await follow(bobs, ann) == ["online"]
        await ann.call("DELETE", "/users/me", json={"password": ann.password}, expect=204)
        assert (await bobs.event("presence.changed"))["data"] == {
            "user_id": ann.id,
            "status": "offline",
            "last_seen_at": None,
        }


async def test_following_has_limits_and_ends(ann: Person, bob: Person) -> None:
    async with ann.ws() as anns:
        many = {"user_ids": [str(uuid.uuid4()) for _ in range(201)]}
        problem = await anns.failing("presence.subscribe", many)
        assert (problem["status"], problem["errors"][0]["pointer"]) == (422, "/user_ids")
        ids: list[str] = []
        for _ in range(5):
            ids = [str(uuid.uuid4()) for _ in range(200)]
            statuses = (await anns.command("presence.subscribe", {"user_ids": ids}))["statuses"]
            assert [status["user_id"] for status in statuses] == ids
            assert {(s["status"], s["last_seen_at"]) for s in statuses} == {("offline", None)}
        assert (await anns.failing("presence.subscribe", {"user_ids": [bob.id]}))["status"] == 422
        await anns.command("presence.unsubscribe", {"user_ids": ids})
        assert await follow(anns, bob) == ["offline"]
        await anns.command("presence.unsubscribe", {"user_ids": [bob.id, str(uuid.uuid4())]})
        conversation = await ann.direct_with(bob)
        async with bob.ws():
            await nothing_live(anns, bob, conversation)
