"""How browsers sign in to realtime: tickets and the cookie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from typing import Any

import aiohttp

from tests.acceptance.conftest import Start
from tests.support.clients import Api, Person


@asynccontextmanager
async def stream_with(api: Api, path: str, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
    async with api.http.get(f"{api.url}/api/v1{path}", timeout=aiohttp.ClientTimeout(), **more) as response:
        yield response


async def test_a_ticket_opens_one_connection_on_any_instance(api: Api, start: Start, ann: Person) -> None:
    other = await start()
    ticket = await ann.post("/realtime/tickets")
    assert set(ticket) == {"ticket", "expires_in"}
    assert ticket["expires_in"] == 30
    async with stream_with(other, f"/realtime/sse?ticket={ticket['ticket']}") as response:
        assert response.status == 200
    for server in (api, other):
        told = (await server.call("GET", f"/realtime/poll?ticket={ticket['ticket']}", expect=401)).json
        assert told["code"] == "ticket_invalid"
    await api.call("POST", "/realtime/tickets", expect=401)
    await api.call("GET", f"/realtime/poll?ticket={ann.token}", expect=401)
    await api.call("GET", f"/users/me?ticket={(await ann.post('/realtime/tickets'))['ticket']}", expect=401)


async def test_the_cookie_reconnects_as_long_as_the_session_lives(api: Api, ann: Person) -> None:
    answer = await ann.call("POST", "/realtime/tickets", json={"cookie": True}, expect=201)
    cookie = answer.headers["Set-Cookie"]
    pair, *attributes = cookie.split("; ")
    assert set(attributes) == {"Path=/api/v1/realtime", "HttpOnly", "SameSite=Strict"}
    headers = {"Cookie": pair}
    spent = answer.json["ticket"]
    for _ in range(2):  # the ticket in the URL is the one the page was given at first
        async with stream_with(api, f"/realtime/sse?ticket={spent}", headers=headers) as response:
            assert response.status == 200
    await api.call("GET", "/users/me", headers=headers, expect=401)
    await api.call("POST", "/realtime/tickets", headers=headers, expect=401)
    async with stream_with(api, "/realtime/sse", headers=headers) as response:
        await ann.call("POST", "/auth/logout", expect=204)
        async with asyncio.timeout(1):
            assert b"session.revoked" in await response.content.read()
    await api.call("GET", "/realtime/poll", headers=headers, expect=401)


async def test_the_cookie_is_for_tls_alone_where_the_client_spoke_it(start: Start) -> None:
    api = await start(trusted_proxies=(IPv4Network("127.0.0.1/32"),))
    ann = await api.register()
    headers = {"X-Forwarded-Proto": "https"}
    answer = await ann.call("POST", "/realtime/tickets", json={"cookie": True}, headers=headers, expect=201)
    assert "; Secure" in answer.headers["Set-Cookie"]


async def test_a_ticket_takes_an_idempotency_key(ann: Person) -> None:
    headers = {"Idempotency-Key": "once"}
    first = await ann.call("POST", "/realtime/tickets", headers=headers, expect=201)
    again = await ann.call("POST", "/realtime/tickets", headers=headers, expect=201)
    assert first.json == again.json
    assert again.headers["Idempotent-Replayed"] == "true"
