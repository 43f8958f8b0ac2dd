"""What conversations tell to open connections, and to those that come back."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.support.clients import Person

Json = dict[str, Any]


async def all_events(person: Person, cursor: str) -> list[Json]:
    """Everything up to now, by replay."""
    events: list[Json] = []
    while True:
        answer = await person.poll(cursor)
        events += answer["events"]
        cursor = answer["cursor"]
        if not answer["more"]:
            return events


def kinds(events: list[Json]) -> list[str]:
    return [event["type"] for event in events]


async def test_who_joined_later_is_not_told_of_what_came_before(
    ann: Person, bob: Person, carol: Person
) -> None:
    start = (await carol.poll())["cursor"]
    group = await ann.group_with(bob)
    await ann.say(group, "old")
    async with carol.ws() as late, carol.sse() as stream, bob.ws() as early:
        await ann.post(f"/conversations/{group}/members", {"members": [carol.username]}, expect=200)
        path = f"/conversations/{group}/messages"
        await ann.call("PATCH", f"{path}/1", json={"body": "a secret of old"}, expect=200)
        await bob.call("PUT", f"{path}/1/reactions/ok", expect=204)
        await bob.call("DELETE", f"{path}/1/reactions/ok", expect=204)
        await ann.call("DELETE", f"{path}/1", expect=204)
        await ann.say(group, "new")
        told = [await early.event() for _ in range(6)]
        assert kinds(told) == [
            "member.added",
            "message.updated",
            "reaction.added",
            "reaction.removed",
            "message.deleted",
            "message.created",
        ]
        for events in (
            [await late.event() for _ in range(3)],
            [await stream.event() for _ in range(3)],
            await all_events(carol, start),
        ):
            assert kinds(events) == ["member.added", "member.added", "message.created"]
            assert [e["topic"]["kind"] for e in events] == ["conversation", "user", "conversation"]
            assert "a secret of old" not in str(events)


async def test_who_leaves_is_told_nothing_more(ann: Person, bob: Person, carol: Person) -> None:
    group = await ann.group_with(bob, carol)
    start = (await bob.poll())["cursor"]
    async with bob.ws() as leaver, carol.ws() as stayer:
        await bob.call("DELETE", f"/conversations/{group}/members/{bob.username}", expect=204)
        await ann.say(group, "behind your back")
        assert kinds([await stayer.event() for _ in range(2)]) == ["member.removed", "message.created"]
        direct = await ann.direct_with(bob)
        events = [await leaver.event() for _ in range(3)]
        assert kinds(events) == ["member.removed", "member.removed", "conversation.created"]
        assert events[-1]["data"]["id"] == direct
    assert kinds(await all_events(bob, start)) == kinds(events)


async def test_a_deleted_text_is_in_no_replay(ann: Person, bob: Person) -> None:
    direct = await ann.direct_with(bob)
    start = (await bob.poll())["cursor"]
    path = f"/conversations/{direct}/messages/1"
    await ann.say(direct, "regretted")
    await ann.call("PATCH", path, json={"body": "regretted too"}, expect=200)
    async with bob.ws(start) as socket:
        seen = [await socket.event() for _ in range(2)]
        assert [e["data"]["body"] for e in seen] == ["regretted", "regretted too"]
        await ann.call("DELETE", path, expect=204)
        assert (await socket.event())["type"] == "message.deleted"
    events = await all_events(bob, start)
    assert kinds(events) == ["message.created", "message.updated", "message.deleted"]
    assert "regretted" not in str(events)
    assert [e["data"].get("body") for e in events] == [None, None, None]
    async with bob.sse(start) as stream:
        assert "regretted" not in str([await stream.event() for _ in range(3)])


async def test_the_trailing_receipt_is_told_within_two_seconds(ann: Person, bob: Person) -> None:
    direct = await ann.direct_with(bob)
    for _ in range(4):
        await ann.say(direct)
    async with ann.ws() as socket:
        for seq in (1, 2, 3, 4):
            await bob.call("POST", f"/conversations/{direct}/read", json={"seq": seq}, expect=204)
        async with asyncio.timeout(5):
            first = await socket.event("receipt.read")
            last = await socket.event("receipt.read")
        assert (first["data"]["seq"], last["data"]["seq"]) == (1, 4)
        assert last["data"]["user_id"] == bob.id
