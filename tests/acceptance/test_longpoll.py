"""Long polling, as a client without sockets or streams finds it."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.clients import Json, Person
from tests.support.house import House

pytestmark = pytest.mark.asyncio(loop_scope="module")


def bodies(answer: Json) -> list[str]:
    """The texts of the messages in an answer; whatever else it holds is left out."""
    return [event["data"]["body"] for event in answer["events"] if event["type"] == "message.created"]


async def waiting(person: Person, cursor: str, *, others: int = 0, **params: object) -> asyncio.Task[Json]:
    """A poll that has begun to wait: the metrics say so."""
    poll = asyncio.create_task(person.poll(cursor, **{"wait": 30, **params}))  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while await polls_under_way(person) <= others:
            assert not poll.done(), await poll
    return poll


async def polls_under_way(person: Person) -> int:
    text = (await person.api.call("GET", "//metrics")).text
    (line,) = [each for each in text.split("\n") if each.startswith('parley_connections{transport="poll"}')]
    return int(float(line.split(" ")[1]))


async def test_without_a_cursor_the_answer_is_at_once_and_from_now(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    await ann.say(chat, "before")
    began = time.monotonic()
    answer = await bob.poll(wait=55)
    assert time.monotonic() - began < 3
    assert set(answer) == {"events", "cursor", "more"}
    assert (answer["events"], answer["more"]) == ([], False)
    await ann.say(chat, "after")
    assert bodies(await bob.poll(answer["cursor"])) == ["after"]


async def test_it_waits_for_something_and_answers_as_soon_as_it_is_there(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    cursor = (await bob.poll())["cursor"]
    poll = await waiting(bob, cursor)
    began = time.monotonic()
    sent = await ann.say(chat, "here")
    answer = await poll
    assert time.monotonic() - began < 2
    (event,) = answer["events"]
    assert (event["type"], event["topic"], event["data"]) == (
        "message.created",
        {"kind": "conversation", "id": chat},
        {name: value for name, value in sent.items() if name != "status"},
    )
    assert answer["more"] is False


async def test_where_nothing_comes_it_answers_empty_after_its_time(house: House) -> None:
    (ann,) = await house.people(1)
    cursor = (await ann.poll())["cursor"]
    began = time.monotonic()
    answer = await ann.poll(cursor, wait=1)
    assert 0.95 < time.monotonic() - began < 3
    assert (answer["events"], answer["more"]) == ([], False)


async def test_what_the_topics_leave_out_does_not_end_the_wait(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    cursor = (await bob.poll())["cursor"]
    poll = asyncio.create_task(bob.poll(cursor, wait=1, topics="notifications"))
    await ann.say(chat, "not asked for")
    answer = await poll
    assert answer["events"] == []
    assert bodies(await bob.poll(answer["cursor"])) == [], "the cursor has read what was left out"


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("wait", ["0", "55"], ["-1", "56", "1.5", "x", "", "1e1", " 1", "+1"]),
        ("limit", ["1", "500"], ["0", "501", "-1", "x", "", "1.0"]),
    ],
)
async def test_numbers_out_of_range_are_422_and_never_clamped(
    house: House, name: str, good: list[str], bad: list[str]
) -> None:
    (ann,) = await house.people(1)
    for value in good:
        await ann.call("GET", "/realtime/poll", params={name: value}, expect=200)
    for value in bad:
        answer = await ann.call("GET", "/realtime/poll", params={name: value}, expect=422)
        assert [error["pointer"] for error in answer.json["errors"]] == [name], value


@pytest.mark.parametrize("stored", [False, True], ids=["from memory", "from the database"])
async def test_pages_follow_each_other_without_gap_or_repeat(house: House, stored: bool) -> None:
    async with house.instance(ring_events=1 if stored else 1000) as api:
        ann, bob = await house.people(at=api)
        chat, other = await ann.direct_with(bob), await ann.group_with()
        start = (await bob.poll())["cursor"]
        for n in range(7):
            await ann.say(chat, str(n))
            await ann.say(other, "not for bob")
        cursor, pages, cursors = start, [], []
        while True:
            answer = await bob.poll(cursor, limit=3, topics="messages")
            cursor = answer["cursor"]
            if answer["more"]:
                assert cursor == answer["events"][-1]["cursor"]
            pages.append(len(answer["events"]))
            cursors += [event["cursor"] for event in answer["events"]]
            if not answer["more"]:
                break
        assert pages[:2] == [3, 3]
        whole = await bob.poll(start)
        messages = [event for event in whole["events"] if event["type"] == "message.created"]
        assert bodies(whole) == [str(n) for n in range(7)]
        assert [c for c in cursors if c in {m["cursor"] for m in messages}] == [m["cursor"] for m in messages]
        assert len(set(cursors)) == len(cursors)
        exact = await bob.poll(start, limit=len(whole["events"]))
        assert exact["events"] == whole["events"]


async def test_with_exactly_the_limit_there_is_no_more(house: House) -> None:
    ann, bob = await house.people()
    chat, other = await ann.direct_with(bob), await ann.group_with()
    start = (await ann.poll())["cursor"]
    await ann.say(chat, "0")
    await ann.say(other, "1")
    await bob.say(await bob.group_with(), "not for ann")
    assert [(await ann.poll(start, limit=n))["more"] for n in (1, 2, 3)] == [True, False, False]
    answer = await ann.poll(start, limit=2)
    assert answer["cursor"] != answer["events"][-1]["cursor"], "how far the log was read"


async def test_the_same_cursor_gives_the_same_again(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    start = (await bob.poll())["cursor"]
    sent = [(await ann.say(chat, str(n)))["id"] for n in range(3)]
    for at in (house.api, house.other, house.api):
        answer = await bob.at(at).poll(start, wait=5)
        messages = [event for event in answer["events"] if event["type"] == "message.created"]
        assert [event["data"]["id"] for event in messages] == sent


async def test_parallel_polls_are_independent(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    first = (await bob.poll())["cursor"]
    await ann.say(chat, "one")
    second = (await bob.poll())["cursor"]

    async def follow(cursor: str) -> list[str]:
        seen: list[str] = []
        while "end" not in seen:
            answer = await bob.poll(cursor, wait=30)
            cursor = answer["cursor"]
            seen += bodies(answer)
        return seen

    followers = [asyncio.create_task(follow(cursor)) for cursor in (first, second, second, first)]
    async with asyncio.timeout(10):
        while await polls_under_way(bob) < 4:
            pass
    for body in ("two", "three", "end"):
        await ann.say(chat, body)
    assert await asyncio.gather(*followers) == [
        ["one", "two", "three", "end"],
        ["two", "three", "end"],
        ["two", "three", "end"],
        ["one", "two", "three", "end"],
    ]


async def test_who_has_an_acknowledgement_sees_it_at_once(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    cursor = (await bob.poll())["cursor"]
    async with ann.ws() as socket:
        for n in range(40):
            sent = await (socket.say(chat, str(n)) if n % 2 else ann.say(chat, str(n)))
            answer = await bob.poll(cursor, wait=0, topics="messages")
            assert str(n) in bodies(answer), sent
            cursor = answer["cursor"]


async def test_what_is_only_live_is_in_no_answer(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    poll = await waiting(bob, (await bob.poll())["cursor"])
    for _ in range(2):
        await ann.call("POST", f"/conversations/{chat}/typing", expect=204)
    await ann.say(chat, "typed")
    assert [event["type"] for event in (await poll)["events"]] == ["message.created"]


async def test_a_poll_of_an_ended_sign_in_answers_401(house: House) -> None:
    async with house.instance(access_token_seconds=1) as api:
        (ann,) = await house.people(1, at=api)
        cursor = (await ann.poll())["cursor"]
        began = time.monotonic()
        answer = await ann.call("GET", f"/realtime/poll?cursor={cursor}&wait=30", expect=401)
        assert time.monotonic() - began < 3
        assert "WWW-Authenticate" in answer.headers
        assert answer.json["code"] == "token_expired", "to be refreshed, not signed in anew"
        other = await ann.at(house.api).sign_in()
        poll = asyncio.create_task(
            other.call("GET", "/realtime/poll", params={"cursor": cursor, "wait": "30"}, expect=401)
        )
        async with asyncio.timeout(10):
            while not await polls_under_way(other):
                pass
        await other.call("POST", "/auth/logout", expect=204)
        assert (await poll).json["code"] == "session_revoked"


async def test_a_client_that_goes_away_leaves_no_poll_behind(house: House) -> None:
    (ann,) = await house.people(1)
    poll = await waiting(ann, (await ann.poll())["cursor"])
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll
    async with asyncio.timeout(10):
        while await polls_under_way(ann):
            pass


async def test_asking_with_a_cursor_marks_delivered_and_answering_does_not(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    start = (await bob.poll())["cursor"]
    first = await ann.say(chat, "one")
    answer = await bob.poll(start)
    assert bodies(answer) == ["one"]

    async def status(seq: int) -> str:
        return str((await ann.get(f"/conversations/{chat}/messages/{seq}"))["status"])

    async with ann.ws(topics="messages") as socket:
        assert await status(first["seq"]) == "sent", "an answer acknowledges nothing"
        second = await ann.say(chat, "two")
        await bob.poll(answer["cursor"])
        receipt = await socket.event("receipt.delivered")
        assert receipt["data"] == {"conversation_id": chat, "user_id": bob.id, "seq": first["seq"]}
        assert await status(first["seq"]) == "delivered"
        assert await status(second["seq"]) == "sent"
