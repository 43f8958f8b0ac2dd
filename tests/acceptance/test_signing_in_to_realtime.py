"""Who is let in to the realtime endpoints: header, ticket and cookie, and from which pages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.support.clients import Api, Person, Stream
from tests.support.house import House
from tests.support.raw import RawWebSocket, upgrade_headers

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRANSPORTS = ["ws", "sse", "poll"]


async def knock(
    api: Api, transport: str, query: Mapping[str, str] | None = None, **headers: str
) -> tuple[int, Mapping[str, str], str]:
    """Asks to be let in: the status (200 and 101 are in), the headers, and the body of a refusal."""
    url = f"{api.url}/api/v1/realtime/{transport}"
    if transport == "ws":
        headers |= {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
    # A jar would keep the cookie for other tests, and a connection that is kept would have become a WebSocket.
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        query = {**(query or {}), **({"wait": "0"} if transport == "poll" else {})}
        async with http.get(url, params=query, headers=headers) as answer:
            body = "" if answer.status in (101, 200) else await answer.text()
            return answer.status, answer.headers.copy(), body


def let_in(transport: str) -> int:
    return 101 if transport == "ws" else 200


async def ticket_of(person: Person) -> str:
    return str((await person.post("/realtime/tickets"))["ticket"])


async def cookie_of(person: Person) -> tuple[str, str]:
    """A cookie, as it is sent back, and the ticket that came with it."""
    answer = await person.call("POST", "/realtime/tickets", json={"cookie": True}, expect=201)
    return answer.headers["Set-Cookie"].partition(";")[0], answer.json["ticket"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_without_a_good_credential_it_is_401_before_anything_else(house: House, transport: str) -> None:
    ann, bob = await house.people()
    over = await ann.sign_in()
    await over.call("POST", "/auth/logout", expect=204)
    cookie, _ = await cookie_of(ann)
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": f"Bearer {over.token}"},
        {"Authorization": f"Basic {ann.token}"},
        {"Authorization": f"Bearer {ann.refresh_token}"},
        {"Authorization": f"Bearer {cookie.partition('=')[2]}"},
        {"Cookie": f"parley_realtime={bob.token}"},
        {"Cookie": "parley_realtime=nonsense"},
    ]
    for headers in wrong:
        status, answered, body = await knock(house.api, transport, None, **headers)
        assert status == 401, (headers, body)
        assert answered["WWW-Authenticate"].startswith("Bearer")
        assert answered["Content-Type"].startswith("application/problem+json")
        assert "Upgrade" not in answered


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_token_in_the_query_string_is_refused_under_any_name(house: House, transport: str) -> None:
    (ann,) = await house.people(1)
    for name in ("ticket", "token", "access_token", "jwt", "authorization", "cookie", "parley_realtime"):
        for value in (ann.token, f"Bearer {ann.token}"):
            assert (await knock(house.api, transport, {name: value}))[0] == 401, name


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_ticket_is_good_once_on_any_transport_and_instance(house: House, transport: str) -> None:
    (ann,) = await house.people(1)
    ticket = await ticket_of(ann)
    assert (await knock(house.other, transport, {"ticket": ticket}))[0] == let_in(transport)
    for again in TRANSPORTS:
        for api in (house.api, house.other):
            assert (await knock(api, again, {"ticket": ticket}))[0] == 401


async def test_of_many_who_come_with_one_ticket_one_is_let_in(house: House) -> None:
    (ann,) = await house.people(1)
    ticket = await ticket_of(ann)
    knocks = [knock(api, "poll", {"ticket": ticket}) for api in (house.api, house.other) for _ in range(6)]
    assert sorted(status for status, _, _ in await asyncio.gather(*knocks)) == [200] + 11 * [401]


async def test_a_ticket_is_good_for_thirty_seconds(house: House) -> None:
    (ann,) = await house.people(1)
    made = await ann.post("/realtime/tickets")
    assert made["expires_in"] == 30
    await house.sql("UPDATE realtime_tickets SET expires_at = expires_at - interval '29 seconds'")
    assert (await knock(house.api, "poll", {"ticket": made["ticket"]}))[0] == 200
    late = await ticket_of(ann)
    await house.sql("UPDATE realtime_tickets SET expires_at = expires_at - interval '30 seconds'")
    assert (await knock(house.api, "poll", {"ticket": late}))[0] == 401


async def test_a_ticket_is_as_good_as_who_asked_for_it(house: House) -> None:
    ann, bob = await house.people()
    over = await ann.sign_in()
    ticket = await ticket_of(over)
    await over.call("POST", "/auth/logout", expect=204)
    assert (await knock(house.api, "poll", {"ticket": ticket}))[0] == 401
    ticket = await ticket_of(ann)
    async with ann.api.http.ws_connect(f"{house.other.url}/api/v1/realtime/ws?ticket={ticket}") as ws:
        assert (await ws.receive_json())["user_id"] == ann.id
        await bob.say(await bob.direct_with(ann), "to whom it belongs")
        assert (await ws.receive_json())["type"] == "conversation.created"
        assert (await ws.receive_json())["data"]["body"] == "to whom it belongs"
        await ann.call("POST", "/auth/logout", expect=204)
        async with asyncio.timeout(1):
            while (await ws.receive()).type is not aiohttp.WSMsgType.CLOSE:
                pass
        assert ws.close_code == 4401


async def test_a_stream_of_a_ticket_ends_with_the_token_and_one_of_the_cookie_does_not(house: House) -> None:
    async with house.instance(access_token_seconds=2) as api:
        (ann,) = await house.people(1, at=api)
        ticket = await ticket_of(ann)
        cookie, _ = await cookie_of(ann)
        headers = {"Cookie": cookie}
        url = f"{api.url}/api/v1/realtime/sse"
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
            http.get(f"{url}?ticket={ticket}") as by_ticket,
            http.get(url, headers=headers) as by_cookie,
        ):
            short, lasting = Stream(by_ticket), Stream(by_cookie)
            blocks = await short.closed(5)
            assert [block.event for block in blocks] == ["hello", "token.expiring", "session.revoked"]
            assert blocks[-1].id is None
            await ann.call("GET", "/users/me", expect=401)
            assert (await lasting.receive()).event == "hello"
            bob = await api.register()
            await bob.direct_with(ann)
            block = await lasting.receive()
            assert block.event == "conversation.created"
            # As EventSource does it, long after the token has expired:
            again = await ann.at(api).api.http.get(url, headers=headers | {"Last-Event-ID": str(block.id)})
            assert again.status == 200
            again.close()


async def test_the_cookie_has_the_attributes_that_keep_it_to_realtime(house: House) -> None:
    (ann,) = await house.people(1)
    answer = await ann.call("POST", "/realtime/tickets", json={"cookie": True}, expect=201)
    name, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert name.startswith("parley_realtime=")
    assert sorted(attributes) == ["HttpOnly", "Path=/api/v1/realtime", "SameSite=Strict"]
    for body in ({"cookie": False}, {}, None):
        answer = await ann.call("POST", "/realtime/tickets", json=body, expect=201)
        assert "Set-Cookie" not in answer.headers
    for wrong in ({"cookie": "yes"}, {"cookie": True, "colour": "red"}):
        await ann.call("POST", "/realtime/tickets", json=wrong, expect=422)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_cookie_reconnects_beside_a_spent_ticket_until_the_session_ends(
    house: House, transport: str
) -> None:
    (ann,) = await house.people(1)
    cookie, ticket = await cookie_of(ann)
    beside = {"ticket": ticket}
    assert (await knock(house.api, transport, beside))[0] == let_in(transport)
    for api in (house.api, house.other):
        for query in ({}, beside, {"ticket": "nonsense"}):
            assert (await knock(api, transport, query, Cookie=cookie))[0] == let_in(transport)
    await ann.call("POST", "/auth/logout", expect=204)
    for query in ({}, beside):
        assert (await knock(house.api, transport, query, Cookie=cookie))[0] == 401


async def test_a_ticket_lets_in_where_the_cookie_is_over(house: House) -> None:
    (ann,) = await house.people(1)
    over = await ann.sign_in()
    cookie, _ = await cookie_of(over)
    await over.call("POST", "/auth/logout", expect=204)
    assert (await knock(house.api, "sse", {"ticket": await ticket_of(ann)}, Cookie=cookie))[0] == 200


async def test_a_reconnecting_event_source_misses_and_repeats_nothing(house: House) -> None:
    ann, bob = await house.people()
    chat = await ann.direct_with(bob)
    cookie, ticket = await cookie_of(bob)
    headers: dict[str, str] = {}
    seen: list[str] = []
    for round_ in range(3):
        # The browser asks for the same URL again: the ticket in it is spent from the second time on.
        api = house.other if round_ % 2 else house.api
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
            http.get(
                f"{api.url}/api/v1/realtime/sse?ticket={ticket}", headers=headers | {"Cookie": cookie}
            ) as answer,
        ):
            assert answer.status == 200
            stream = Stream(answer)
            await stream.receive()
            await ann.say(chat, f"live {round_}")
            while not seen or seen[-1] != f"live {round_}":
                seen.append((await stream.event("message.created"))["data"]["body"])
        headers = {"Last-Event-ID": str(stream.last_event_id)}
        await ann.say(chat, f"missed {round_}")
    assert seen == ["live 0", "missed 0", "live 1", "missed 1", "live 2"]


async def test_neither_ticket_nor_cookie_opens_anything_else(house: House) -> None:
    (ann,) = await house.people(1)
    cookie, ticket = await cookie_of(ann)
    for method, path in (
        ("GET", "/users/me"),
        ("GET", "/conversations"),
        ("POST", "/conversations"),
        ("POST", "/realtime/tickets"),
        ("POST", "/auth/logout"),
    ):
        await house.api.call(method, f"{path}?ticket={ticket}", headers={"Cookie": cookie}, expect=401)
    assert (await knock(house.api, "poll", {"ticket": ticket}))[0] == 200, "and it was not spent by that"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_foreign_page_is_turned_away_before_anything_is_looked_at(
    house: House, transport: str
) -> None:
    (ann,) = await house.people(1)
    cookie, ticket = await cookie_of(ann)
    bearer = f"Bearer {ann.token}"
    own = urlsplit(house.api.url).netloc
    for origin in (
        "https://evil.example",
        "null",
        f"http://{own}.evil.example",
        f"http://evil.example:{own.partition(':')[2]}",
        "http://127.0.0.1:1",
    ):
        for headers in ({"Authorization": bearer}, {"Cookie": cookie}, {}):
            status, answered, body = await knock(
                house.api, transport, {"ticket": ticket}, Origin=origin, **headers
            )
            assert (status, "origin_refused" in body) == (403, True), origin
            assert "Upgrade" not in answered
    for origin in (f"http://{own}", house.api.url):
        assert (await knock(house.api, transport, Origin=origin, Cookie=cookie))[0] == let_in(transport)
    # No foreign page has spent it.
    assert (await knock(house.api, transport, {"ticket": ticket}))[0] == let_in(transport)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_page_that_the_settings_name_is_let_in(house: House, transport: str) -> None:
    async with house.instance(allowed_origins=("https://app.example.com",)) as api:
        (ann,) = await house.people(1, at=api)
        bearer = f"Bearer {ann.token}"
        for origin, status in (
            ("https://app.example.com", let_in(transport)),
            ("http://app.example.com", 403),
            ("https://app.example.com.evil.example", 403),
            ("https://app.example.com:8443", 403),
            (api.url, let_in(transport)),
        ):
            assert (await knock(api, transport, Origin=origin, Authorization=bearer))[0] == status, origin


async def test_what_is_wrong_is_said_in_the_order_of_the_contract(house: House) -> None:
    """Foreign origin, then credential, then what the request asks for."""
    (ann,) = await house.people(1)
    raw = await RawWebSocket.to(house.api.url)
    try:
        wrong = {"Sec-WebSocket-Protocol": "other"}
        refused = upgrade_headers(ann, Origin="https://evil.example", **wrong)
        assert (await raw.get("/api/v1/realtime/ws?topics=x", refused))[0] == 403
    finally:
        raw.close()
    assert (await knock(house.api, "ws", {"topics": "x"}, **wrong))[0] == 401
    assert (await knock(house.api, "poll", {"topics": "x", "limit": "0"}))[0] == 401
