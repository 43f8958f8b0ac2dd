"""Retries of what creates, on two running instances: one effect, one answer."""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any

import pytest

from handlers.endpoint import API
from handlers.routes import ROUTES
from tests.acceptance.conftest import Start
from tests.support.clients import Answer, Api, Person
from tests.support.services import OwnRedis


def keyed(key: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": key or f"key-{uuid.uuid4()}"}


def replayed(answer: Answer) -> bool:
    return answer.headers.get("Idempotent-Replayed") == "true"


async def bodies(ann: Person, bob: Person) -> dict[str, Any]:
    """A body for every place that takes an Idempotency-Key."""
    group = await ann.group_with()
    return {
        "/conversations": {"kind": "group", "title": "A group", "members": [bob.username]},
        f"/conversations/{group}/members": {"members": [bob.username]},
        f"/conversations/{group}/messages": {"body": "hello"},
        "/realtime/tickets": {},
    }


async def test_a_retry_is_given_the_first_answer_wherever_it_lands(start: Start) -> None:
    one, two = await start(), await start()
    ann, bob = await one.register(), await one.register()
    for path, body in (await bodies(ann, bob)).items():
        headers = keyed()
        first = await ann.call("POST", path, json=body, headers=headers)
        second = await ann.at(two).call("POST", path, json=body, headers=headers)
        assert first.status in (200, 201)
        assert (second.status, second.text, replayed(second)) == (first.status, first.text, True)
        assert not replayed(first)
        other = await ann.call("POST", path, json={**body, "title": "x"}, headers=headers)
        assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")


async def test_every_place_that_takes_a_key_is_tried_here(ann: Person, bob: Person) -> None:
    tried = {API + re.sub(r"[0-9a-f-]{36}", "{conversation_id}", path) for path in await bodies(ann, bob)}
    assert tried == {route.path for route in ROUTES if route.idempotent}


async def test_a_message_is_stored_once_however_often_it_is_sent(ann: Person, bob: Person) -> None:
    conversation = await ann.direct_with(bob)
    path = f"/conversations/{conversation}/messages"
    headers = keyed()
    answers = await asyncio.gather(
        *(ann.call("POST", path, json={"body": "once"}, headers=headers) for _ in range(8))
    )
    assert {answer.status for answer in answers} <= {201, 409}
    assert [message["body"] for message in (await bob.get(path))["items"]] == ["once"]


async def test_who_has_left_still_learns_that_the_message_was_stored(
    ann: Person, bob: Person, carol: Person
) -> None:
    group = await ann.group_with(bob, carol)
    path = f"/conversations/{group}/messages"
    headers, client_id = keyed(), str(uuid.uuid4())
    by_key = await bob.call("POST", path, json={"body": "by key"}, headers=headers, expect=201)
    by_id = await bob.call("POST", path, json={"body": "by id", "client_id": client_id}, expect=201)
    await bob.call("DELETE", f"/conversations/{group}/members/{bob.username}", expect=204)
    await bob.call("GET", path, expect=404)
    again = await bob.call("POST", path, json={"body": "by key"}, headers=headers, expect=201)
    assert (again.text, replayed(again)) == (by_key.text, True)
    again = await bob.call("POST", path, json={"body": "by id", "client_id": client_id}, expect=200)
    assert (again.json["id"], replayed(again)) == (by_id.json["id"], True)
    await bob.call("POST", path, json={"body": "new"}, headers=keyed(), expect=404)


async def test_a_refused_request_may_be_tried_again_with_its_key(
    ann: Person, bob: Person, carol: Person
) -> None:
    group = await ann.group_with(bob)
    path = f"/conversations/{group}/messages"
    headers = keyed()
    await carol.call("POST", path, json={"body": "let me in"}, headers=headers, expect=404)
    await ann.call("POST", f"/conversations/{group}/members", json={"members": [carol.username]}, expect=200)
    answer = await carol.call("POST", path, json={"body": "let me in"}, headers=headers, expect=201)
    assert not replayed(answer)


@pytest.mark.parametrize("when", ["flushed", "gone"])
async def test_redis_may_lose_everything_and_nothing_happens_twice(
    start: Start, own_redis: OwnRedis, when: str
) -> None:
    api: Api = await start(redis_url=own_redis.url)
    ann, bob = await api.register(), await api.register()
    path = f"/conversations/{await ann.direct_with(bob)}/messages"
    headers = keyed()
    first = await ann.call("POST", path, json={"body": "once"}, headers=headers, expect=201)
    await asyncio.to_thread(own_redis.flush if when == "flushed" else own_redis.kill)
    second = await ann.call("POST", path, json={"body": "once"}, headers=headers, expect=201)
    assert (second.text, replayed(second)) == (first.text, True)
    assert len((await bob.get(path))["items"]) == 1
