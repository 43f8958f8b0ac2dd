"""Rate limits: who is counted, what they are told, on several instances and without Redis."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from domain.ids import UserId, new_id
from handlers.accounts import ROUTES
from handlers.schemas.accounts import SignIn
from handlers.serving import Verdict
from server.ratelimits import RateLimits, address_group
from storage.redis import connect
from tests.support.edge import EdgeApp, edge_app
from tests.support.services import OwnRedis

NOON = 1_000_000_040.0  # 20 s into a minute

LIMITS: Any = {
    "read": {"user": "3/minute", "address": "5/minute"},
    "auth": {"address": "4/minute", "account": "2/minute"},
}


@pytest.fixture
async def app(database_url: str, redis_url: str) -> AsyncIterator[EdgeApp]:
    async with edge_app(database_url, redis_url, limits=LIMITS) as running:
        yield running


async def test_past_the_limit_is_429_with_what_a_client_needs_to_know(app: EdgeApp) -> None:
    answers = [await app.call("GET", "/api/v1/things", as_user="ada") for _ in range(4)]
    assert [a.status for a in answers] == [200, 200, 200, 429]
    first, last = answers[0], answers[3]
    assert first.headers["RateLimit-Policy"] == '"user";q=3;w=60, "address";q=5;w=60'
    assert first.headers["RateLimit"] == '"user";r=2;t=40'
    assert last.headers["RateLimit"] == '"user";r=0;t=40'
    assert last.headers["Retry-After"] == "40"
    assert (last.json["code"], last.headers["Content-Type"]) == ("rate_limited", "application/problem+json")


async def test_users_have_their_own_allowance_and_share_their_addresss(app: EdgeApp) -> None:
    for _ in range(3):
        assert (await app.call("GET", "/api/v1/things", as_user="ada")).status == 200
    assert [(await app.call("GET", "/api/v1/things", as_user="bob")).status for _ in range(3)] == [
        200,
        200,
        429,
    ]


async def test_guessing_tokens_spends_the_addresss_allowance(app: EdgeApp) -> None:
    bad = {"Authorization": "Bearer guess"}
    statuses = [(await app.call("GET", "/api/v1/things", headers=bad)).status for _ in range(6)]
    assert statuses == [401] * 5 + [429]


async def test_a_login_is_limited_by_account_however_its_name_is_written(app: EdgeApp) -> None:
    statuses = [
        (await app.call("POST", "/api/v1/login", json={"name": name})).status
        for name in ("Ada", "ADA", "ada", "bob")
    ]
    assert statuses == [204, 204, 429, 204]
    assert (await app.call("POST", "/api/v1/login", json={"name": "carol"})).status == 429  # the address


async def test_a_login_is_limited_as_signing_in_looks_it_up() -> None:
    (route,) = (route for route in ROUTES if route.path.endswith("/auth/token"))
    assert route.account is not None
    written = ("ada@example.com", " Ada@Example.com", "ADA@EXAMPLE.COM\u2003\n")
    limited = {route.account(SignIn(username=name, password=SecretStr("secret"))) for name in written}
    assert limited == {"ada@example.com"}


async def test_refusals_are_counted_without_naming_anyone(app: EdgeApp) -> None:
    for _ in range(4):
        await app.call("GET", "/api/v1/things", as_user="ada")
    text = (await asyncio.to_thread(app.metrics.render)).decode()
    assert 'parley_rate_limited_total{limit="read",scope="user"} 1.0' in text
    assert app.tokens["ada"] not in text


@asynccontextmanager
async def limiter(url: str, prefix: str, **more: Any) -> AsyncIterator[RateLimits]:
    redis = connect(url)
    refused: Counter[tuple[str, str]] = Counter()
    try:
        yield RateLimits(
            redis.connection_pool,
            prefix=prefix,
            limited=lambda limit, scope: refused.update([(limit, scope)]),
            **{"allowances": LIMITS, "clock": lambda: NOON, **more},
        )
    finally:
        await redis.aclose()


def left(verdict: Verdict) -> int:
    found = re.search(r"r=(\d+)", verdict.headers["RateLimit"])
    assert found is not None
    return int(found[1])


async def test_instances_count_together(redis_url: str) -> None:
    prefix, user = f"test:{uuid.uuid4().hex}:", UserId(new_id())
    async with limiter(redis_url, prefix) as one, limiter(redis_url, prefix) as two:
        verdicts = [await instance.spend("read", user=user) for instance in (one, two, one, two)]
    assert [left(v) for v in verdicts] == [2, 1, 0, 0]
    assert [v.allowed for v in verdicts] == [True, True, True, False]


async def test_a_new_window_starts_anew(redis_url: str) -> None:
    now = NOON
    async with limiter(redis_url, f"test:{uuid.uuid4().hex}:", clock=lambda: now) as limits:
        user = UserId(new_id())
        assert [(await limits.spend("read", user=user)).allowed for _ in range(4)] == [
            True,
            True,
            True,
            False,
        ]
        now += 40
        assert (await limits.spend("read", user=user)).allowed


async def test_counters_end_by_themselves(redis_url: str) -> None:
    prefix = f"test:{uuid.uuid4().hex}:"
    async with limiter(redis_url, prefix) as limits:
        await limits.spend("read", address="192.0.2.1")
    redis = connect(redis_url)
    names = [name async for name in redis.scan_iter(match=f"{prefix}*")]
    assert len(names) == 1
    assert 0 < await redis.ttl(names[0]) <= 60
    await redis.aclose()


async def test_without_redis_an_instance_counts_for_itself(own_redis: OwnRedis) -> None:
    async with limiter(own_redis.url, "test:") as limits:
        own_redis.kill()
        user = UserId(new_id())
        assert [(await limits.spend("read", user=user)).allowed for _ in range(4)] == [
            True,
            True,
            True,
            False,
        ]


@pytest.mark.allow_blocking
async def test_a_frozen_redis_holds_up_one_request_and_not_every_one(own_redis: OwnRedis) -> None:
    async with limiter(own_redis.url, "test:", timeout=0.2, rest_seconds=30) as limits:
        await limits.spend("read", address="192.0.2.1")
        own_redis.freeze()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(50):
            await limits.spend("read", address="192.0.2.2")
        assert loop.time() - began < 2
        own_redis.thaw()


async def test_redis_is_used_again_once_it_is_back(own_redis: OwnRedis) -> None:
    async with limiter(own_redis.url, "test:", rest_seconds=0) as limits:
        user = UserId(new_id())
        await asyncio.to_thread(own_redis.kill)
        assert left(await limits.spend("read", user=user)) == 2
        await asyncio.to_thread(own_redis.start)
        assert [left(await limits.spend("read", user=user)) for _ in range(2)] == [2, 1]


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("", "unknown"),
        ("nonsense", "unknown"),
    ],
)
def test_an_ipv6_customer_counts_as_one_address(address: str, group: str) -> None:
    assert address_group(address) == group
