"""The shipped nginx before two real instances: what a client sees of REST, streams, TLS and its own address."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.deployment import (
    API,
    LOOPBACK,
    Instance,
    Proxy,
    client_of,
    new_conversation,
    nginx_missing,
    running_instances,
    running_proxy,
    sign_up,
)

pytestmark = [
    pytest.mark.skipif(nginx_missing() is not None, reason=str(nginx_missing())),
    pytest.mark.allow_blocking,
]

SPOOFED = "203.0.113.7"
SOON = 10.0


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Instance]]:
    with running_instances(
        tmp_path_factory.mktemp("deploy"), PARLEY_TRUSTED_PROXIES=f"{LOOPBACK}/32"
    ) as made:
        yield made


@pytest.fixture(scope="module")
def proxy(instances: list[Instance]) -> Iterator[Proxy]:
    with running_proxy([each.address for each in instances]) as made:
        yield made


@pytest.fixture
async def anonymous(proxy: Proxy) -> AsyncIterator[aiohttp.ClientSession]:
    async with client_of(proxy.url, proxy.trust()) as session:
        yield session


@pytest.fixture
async def client(anonymous: aiohttp.ClientSession) -> aiohttp.ClientSession:
    """A session of a user who has just registered, through the proxy."""
    await sign_up(anonymous)
    return anonymous


async def send(session: aiohttp.ClientSession, conversation: str, body: str) -> None:
    async with session.post(f"{API}/conversations/{conversation}/messages", json={"body": body}) as answer:
        assert answer.status == 201, await answer.text()


async def next_event(stream: aiohttp.StreamReader) -> dict[str, Any]:
    """The data of the next SSE block that has any."""
    while True:
        block = await stream.readuntil(b"\n\n")
        for line in block.splitlines():
            if line.startswith(b"data:"):
                found: dict[str, Any] = json.loads(line.removeprefix(b"data:"))
                return found


async def raw_answer(port: int, request: bytes) -> bytes:
    """What plain bytes are answered with, up to the end of the connection."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), SOON)
    finally:
        writer.close()
        await writer.wait_closed()


async def address_seen(url: str, name: str, trust: ssl.SSLContext | None = None) -> str:
    """The address that an instance takes a client for, who comes from the loopback address `name` and lies about it."""
    headers = {"X-Forwarded-For": SPOOFED, "Forwarded": "for=203.0.113.8", "X-Real-IP": "203.0.113.9"}
    async with client_of(url, trust, local_address=name) as session:
        session.headers.update(headers)
        await sign_up(session)
        async with session.get(f"{API}/auth/sessions") as answer:
            (current,) = [each for each in (await answer.json())["items"] if each["current"]]
            return str(current["ip"])


async def test_rest_works_over_tls(client: aiohttp.ClientSession) -> None:
    conversation = await new_conversation(client)
    await send(client, conversation, "hello")
    async with client.get(f"{API}/conversations/{conversation}/messages?after_seq=0") as answer:
        assert answer.status == 200
        assert "hello" in [message["body"] for message in (await answer.json())["items"]]


async def test_websocket_is_upgraded_and_carries_both_directions(client: aiohttp.ClientSession) -> None:
    conversation = await new_conversation(client)
    async with client.ws_connect(f"{API}/realtime/ws", protocols=["parley.v1"]) as ws:
        assert ws.protocol == "parley.v1"
        assert (await ws.receive_json(timeout=SOON))["type"] == "hello"
        message = {
            "conversation_id": conversation,
            "body": "by socket",
            "client_id": "0192f0c1-2345-7abc-8def-0123456789ab",
        }
        await ws.send_json({"id": "1", "op": "message.send", "data": message})
        seen: set[str] = set()
        while not {"reply", "message.created"} <= seen:
            seen.add((await ws.receive_json(timeout=SOON))["type"])


async def test_server_sent_events_arrive_one_by_one(client: aiohttp.ClientSession) -> None:
    """Nothing follows the first event until it has arrived, so a proxy that waits for more would wait for ever."""
    conversation = await new_conversation(client)
    async with client.get(f"{API}/realtime/sse") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert (await asyncio.wait_for(next_event(stream.content), SOON))["type"] == "hello"
        for body in ("one", "two"):
            await send(client, conversation, body)
            while True:
                event = await asyncio.wait_for(next_event(stream.content), SOON)
                if event["type"] == "message.created" and event["data"]["body"] == body:
                    break
        # Cut, not ended: nginx hears a TLS goodbye in the middle of a stream only when it next writes to it.
        await client.close()


async def test_long_poll_waits_its_time_and_ends_early_for_an_event(client: aiohttp.ClientSession) -> None:
    conversation = await new_conversation(client)
    await send(client, conversation, "before")

    async def poll(cursor: str, wait: int) -> dict[str, Any]:
        query = {"cursor": cursor, "wait": str(wait)} if cursor else {}
        async with client.get(f"{API}/realtime/poll", params=query) as answer:
            assert answer.status == 200, await answer.text()
            found: dict[str, Any] = await answer.json()
            return found

    cursor = (await poll("", 0))["cursor"]
    began = time.monotonic()
    empty = await poll(cursor, 1)
    assert empty["events"] == []
    assert time.monotonic() - began >= 0.95

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(asyncio.wait_for(poll(empty["cursor"], 50), SOON))
        await send(client, conversation, "after")
    assert "after" in [event["data"].get("body") for event in waiting.result()["events"]]


def test_streams_are_not_buffered_and_outlast_the_longest_poll(proxy: Proxy) -> None:
    """By the proxy's own rule: the server asks for no buffering too, so the streams above cannot show it."""
    configuration = proxy.configuration.read_text()
    realtime = configuration.partition("location ^~ /api/v1/realtime/ {")[2].partition("}")[0]
    (seconds,) = [
        int(line.split()[1].rstrip("s;")) for line in realtime.splitlines() if "proxy_read_timeout" in line
    ]
    assert seconds > 55
    assert "proxy_buffering off;" in realtime


async def test_client_address_is_what_the_proxy_saw(proxy: Proxy) -> None:
    assert await address_seen(proxy.url, "127.0.0.5", proxy.trust()) == "127.0.0.5"


async def test_forwarded_address_is_not_believed_from_others(instances: list[Instance]) -> None:
    assert await address_seen(instances[0].url, "127.0.0.6") == "127.0.0.6"


async def test_address_given_by_a_named_load_balancer_is_passed_on(instances: list[Instance]) -> None:
    with running_proxy([each.address for each in instances], PROXY_BEHIND="127.0.0.5") as behind:
        assert await address_seen(behind.url, "127.0.0.5", behind.trust()) == SPOOFED
        assert await address_seen(behind.url, "127.0.0.7", behind.trust()) == "127.0.0.7"


async def test_pages_are_redirected_to_tls(proxy: Proxy, anonymous: aiohttp.ClientSession) -> None:
    async with anonymous.get(f"{proxy.http_url}/api/docs/?a=1&b=%20", allow_redirects=False) as answer:
        assert answer.status == 308
        assert answer.headers["Location"] == f"{proxy.url}/api/docs/?a=1&b=%20"
    plain_to_tls_port = await raw_answer(proxy.https_port, b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert plain_to_tls_port.startswith(b"HTTP/1.1 308 ")


async def test_what_cannot_be_redirected_is_refused_on_plain_http(
    proxy: Proxy, client: aiohttp.ClientSession
) -> None:
    async with client.post(f"{proxy.http_url}{API}/conversations", json={}, allow_redirects=False) as answer:
        assert answer.status == 403
        assert answer.content_type == "application/problem+json"
        assert (await answer.json())["code"] == "https_required"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await client.ws_connect(f"{proxy.http_url}{API}/realtime/ws")
    assert refused.value.status == 403


async def test_health_and_certificate_challenges_work_on_plain_http(
    proxy: Proxy, anonymous: aiohttp.ClientSession
) -> None:
    for path in ("/healthz", "/readyz"):
        async with anonymous.get(f"{proxy.http_url}{path}", allow_redirects=False) as answer:
            assert answer.status == 200
    challenge = proxy.acme / ".well-known" / "acme-challenge" / "token"
    challenge.parent.mkdir(parents=True)
    challenge.write_text("token.thumbprint")
    async with anonymous.get(f"{proxy.http_url}/.well-known/acme-challenge/token") as answer:
        assert answer.status == 200
        assert await answer.text() == "token.thumbprint"


async def test_metrics_of_an_instance_are_not_shown_outside(anonymous: aiohttp.ClientSession) -> None:
    for path in ("/metrics", "/metrics/"):
        async with anonymous.get(path) as answer:
            assert answer.status == 404
            assert (await answer.json(content_type="application/problem+json"))["code"] == "not_found"


async def test_long_credentials_pass(client: aiohttp.ClientSession) -> None:
    """A cookie and a query that fill most of what the server itself takes in one line."""
    headers = {"Cookie": f"other={'c' * 7500}"}
    async with client.get(f"{API}/users/me", headers=headers) as answer:
        assert answer.status == 200
    async with client.get(f"/healthz?{'q' * 7500}") as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"NOT HTTP AT ALL\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n", 400, "malformed"),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "too_large"),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405, "method_not_allowed"),
    ],
    ids=["not HTTP", "huge header", "huge address", "trace"],
)
async def test_proxy_refuses_in_the_contracts_form(
    proxy: Proxy, request_bytes: bytes, status: int, code: str
) -> None:
    head, _, body = (await raw_answer(proxy.http_port, request_bytes)).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["instance"].startswith("/")
    assert len(problem["request_id"]) == 32


@pytest.mark.parametrize(
    "path", ["/healthz", "/metrics"], ids=["answer of the server", "answer of the proxy"]
)
async def test_callers_request_id_is_kept_where_it_is_sane(
    anonymous: aiohttp.ClientSession, path: str
) -> None:
    for given in ("order-7:retry/2", 'quote"inside'):
        async with anonymous.get(path, headers={"X-Request-ID": given}) as answer:
            kept = answer.headers.getall("X-Request-ID")
            assert (kept == [given]) == ('"' not in given)


async def test_body_over_the_limit_is_refused_in_the_contracts_form(client: aiohttp.ClientSession) -> None:
    async with client.post(f"{API}/conversations", data=io.BytesIO(b"x" * 3_000_000)) as answer:
        assert answer.status == 413
        assert (await answer.json(content_type="application/problem+json"))["code"] == "too_large"


def test_secrets_in_queries_stay_out_of_the_logs(proxy: Proxy) -> None:
    with socket.create_connection((LOOPBACK, proxy.http_port), timeout=SOON) as connection:
        request = b"GET /healthz?ticket=hush-hush HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        connection.sendall(request)
        while connection.recv(4096):
            pass
    lines = [json.loads(line) for line in proxy.log.read_text().splitlines() if line.startswith("{")]
    assert "/healthz" in [line["path"] for line in lines]
    assert "hush-hush" not in proxy.log.read_text()
