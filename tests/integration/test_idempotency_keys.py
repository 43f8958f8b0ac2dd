"""Idempotency keys, on real PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from domain.ids import DEFAULT_TENANT, UserId
from server.embedded import EmbeddedServices
from services.idempotency import KeptAnswer
from storage.database import Database
from tests.conftest import Databases
from tests.support.edge import SECRET_THING, Answered, EdgeApp, edge_app
from tests.support.services import OwnRedis

pytestmark = pytest.mark.asyncio(loop_scope="module")

THINGS = "/api/v1/things"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    databases: Databases, template_database: str, services: EmbeddedServices
) -> AsyncIterator[EdgeApp]:
    url = databases.create(template_database)
    async with edge_app(url, services.redis_url) as running:
        yield running
    databases.drop(url)


@pytest.fixture
def app(shared: EdgeApp) -> EdgeApp:
    shared.created.clear()
    shared.gate.clear()
    shared.entered.clear()
    return shared


def new_key() -> str:
    return f"key-{uuid.uuid4()}"


async def create(
    app: EdgeApp, key: str, name: str = "thing", *, as_user: str = "ada", **more: Any
) -> Answered:
    headers = {"Idempotency-Key": key}
    return await app.call(
        "POST", more.pop("path", THINGS), as_user=as_user, json={"name": name}, headers=headers
    )


async def test_the_first_answer_is_given_again_and_nothing_happens_twice(app: EdgeApp) -> None:
    key = new_key()
    first, second = [await create(app, key) for _ in range(2)]
    assert (first.status, second.status) == (201, 201)
    assert first.body == second.body
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.headers["Content-Type"] == first.headers["Content-Type"]
    assert app.created == ["thing"]
    assert "parley_idempotent_replays_total 1.0" in (await asyncio.to_thread(app.metrics.render)).decode()


async def test_both_names_of_the_header_and_a_trailing_slash_are_the_same(app: EdgeApp) -> None:
    key = new_key()
    first = await create(app, key)
    second = await app.call(
        "POST", THINGS + "/", as_user="ada", json={"name": "thing"}, headers={"X-Idempotency-Key": key}
    )
    assert second.body == first.body
    assert second.headers["Idempotent-Replayed"] == "true"


async def test_without_a_key_every_request_counts(app: EdgeApp) -> None:
    answers = [await app.call("POST", THINGS, as_user="ada", json={"name": "thing"}) for _ in range(2)]
    assert answers[0].json["id"] != answers[1].json["id"]


async def test_a_key_is_its_users_own(app: EdgeApp) -> None:
    key = new_key()
    ours, theirs = await create(app, key), await create(app, key, as_user="bob")
    assert ours.json["id"] != theirs.json["id"]
    assert "Idempotent-Replayed" not in theirs.headers


async def test_the_same_key_for_something_else_is_422(app: EdgeApp) -> None:
    key = new_key()
    await create(app, key)
    other_body = await create(app, key, "other")
    other_path = await create(app, key, path=f"{THINGS}/{uuid.uuid4()}/parts")
    for answer in (other_body, other_path):
        assert (answer.status, answer.json["code"]) == (422, "idempotency_key_reused")
    assert app.created == ["thing"]


async def test_a_refusal_is_not_kept(app: EdgeApp) -> None:
    key = new_key()
    assert (await create(app, key, "forbidden")).status == 403
    assert (await create(app, key, "x" * 11)).status == 422
    assert (await create(app, key, "good")).status == 201


async def test_while_the_first_runs_the_second_is_409(app: EdgeApp) -> None:
    key = new_key()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(create(app, key, "slow"))
        await app.entered.wait()
        second = await create(app, key, "slow")
        assert (second.status, second.json["code"]) == (409, "idempotency_in_progress")
        assert int(second.headers["Retry-After"]) >= 1
        app.gate.set()
    assert first.result().status == 201
    assert (await create(app, key, "slow")).body == first.result().body
    assert app.created == ["slow"]


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_must_be_1_to_255_characters(app: EdgeApp, key: str) -> None:
    answer = await create(app, key)
    assert answer.status == 422
    assert answer.pointers == ["Idempotency-Key"]
    assert app.created == []


async def test_a_key_must_be_utf8(app: EdgeApp) -> None:
    body = b'{"name": "thing"}'
    answer = await app.raw(
        b"POST /api/v1/things HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nIdempotency-Key: caf\xe9\r\nContent-Length: %d\r\n\r\n%b"
        % (app.tokens["ada"].encode(), len(body), body)
    )
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert b"Idempotency-Key" in answer
    assert app.created == []


@pytest.mark.parametrize("key", ["k", "k" * 255, "clé ✓ with spaces"])
async def test_any_text_of_that_length_is_a_key(app: EdgeApp, key: str) -> None:
    first, second = [await create(app, key + uuid.uuid4().hex if len(key) < 200 else key) for _ in range(2)]
    assert (first.status, second.status) == (201, 201)


async def test_a_kept_answer_comes_before_visibility(app: EdgeApp) -> None:
    """Who created something and lost sight of it since still learns that it was stored."""
    assert app.kept is not None
    assert app.uow is not None
    key = new_key()
    path = f"{THINGS}/{uuid.uuid4()}/parts"
    first = await create(app, key, path=path)
    assert first.status == 201
    # The same answer, kept for a place that nobody may see now.
    hidden = f"{THINGS}/{SECRET_THING}/parts"
    assert (await create(app, new_key(), path=hidden)).status == 404
    from services.idempotency import answer_of, claim, fingerprint, store
    from services.unit_of_work import Transaction

    keep = KeptAnswer(
        DEFAULT_TENANT,
        UserId(uuid.UUID(app.tokens["ada"])),
        new_key(),
        fingerprint("POST", hidden, b'{"name": "thing"}'),
    )

    async def work(tx: Transaction) -> None:
        assert await claim(tx.connection, keep) is None
        await store(tx.connection, keep, answer_of(201))

    await app.uow.run(work)
    again = await create(app, keep.key, path=hidden)
    assert (again.status, again.headers["Idempotent-Replayed"]) == (201, "true")


async def test_an_answer_is_kept_for_24_hours_and_then_cleared_away(app: EdgeApp) -> None:
    assert app.kept is not None
    key = new_key()
    first = await create(app, key)
    await set_age(app, key, "23 hours 59 minutes")
    assert (await create(app, key)).body == first.body
    assert await app.kept.purge() == 0
    await set_age(app, key, "24 hours 1 second")
    fresh = await create(app, key, "other")
    assert fresh.status == 201
    assert "Idempotent-Replayed" not in fresh.headers
    assert (await create(app, key, "other")).body == fresh.body
    await set_age(app, key, "25 hours")
    assert await app.kept.purge() == 1


async def set_age(app: EdgeApp, key: str, age: str) -> None:
    database: Database | None = app.database
    assert database is not None
    async with database.connection() as connection:
        changed = await connection.execute(
            "UPDATE idempotency_keys SET created_at = now() - $2::text::interval WHERE key = $1", key, age
        )
    assert changed == "UPDATE 1"


async def test_a_client_that_leaves_finds_the_answer_when_it_asks_again(app: EdgeApp) -> None:
    key = new_key()
    first = asyncio.create_task(create(app, key, "slow"))
    await app.entered.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    app.gate.set()
    answer = await create(app, key, "slow")
    for _ in range(50):
        if answer.status != 409:
            break
        answer = await create(app, key, "slow")
    assert answer.status == 201
    assert app.created == ["slow"]


async def test_many_at_once_do_it_once(app: EdgeApp) -> None:
    key = new_key()
    answers = await asyncio.gather(*(create(app, key) for _ in range(20)))
    assert {a.status for a in answers} <= {201, 409}
    assert len({a.body for a in answers if a.status == 201}) == 1
    assert app.created == ["thing"]


async def test_without_redis_the_row_alone_protects(database_url: str, own_redis: OwnRedis) -> None:
    """Whoever comes second waits for the first to commit, and is then given its answer."""
    async with edge_app(database_url, own_redis.url) as app:
        key = new_key()
        own_redis.kill()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(create(app, key, "slow"))]
            await app.entered.wait()
            tasks += [group.create_task(create(app, key, "slow")) for _ in range(2)]
            await waiting_for_a_lock(app, 2)
            app.gate.set()
        answers = [task.result() for task in tasks]
    assert [a.status for a in answers] == [201, 201, 201]
    assert len({a.body for a in answers}) == 1
    assert [a.headers.get("Idempotent-Replayed") for a in answers] == [None, "true", "true"]
    assert app.created == ["slow"]


async def waiting_for_a_lock(app: EdgeApp, count: int) -> None:
    """Until so many statements of this database wait for another one."""
    database: Database | None = app.database
    assert database is not None
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(5), database.connection() as connection:
        while await connection.fetchval(waiting) < count:
            pass
