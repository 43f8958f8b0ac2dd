"""The service's own pages on a running instance."""

from __future__ import annotations

import asyncio
import re

from handlers.ops import COMMANDS
from handlers.routes import ROUTES
from server import asyncapi, openapi
from server.commands import new_epoch
from server.settings import Settings
from tests.acceptance.conftest import Start
from tests.support.clients import Api, Person
from tests.support.services import OwnPostgres, OwnRedis


async def test_the_documents_are_served_as_they_were_made(api: Api) -> None:
    document = await api.call("GET", "/openapi.json", expect=200)
    assert document.json == openapi.build(ROUTES)
    protocol = await api.call("GET", "/asyncapi.json", expect=200)
    assert protocol.json == asyncapi.build(COMMANDS)


async def test_the_docs_page_and_its_files_come_from_this_server(api: Api) -> None:
    for path in ("//api/docs/", "//api/docs"):
        page = await api.call("GET", path, expect=200)
        assert page.headers["Content-Type"].startswith("text/html")
        policy = page.headers["Content-Security-Policy"]
        assert "script-src 'self';" in policy
        assert "unsafe-eval" not in policy
    for name, kind in (("swagger-ui-bundle.js", "text/javascript"), ("docs.css", "text/css")):
        async with api.http.get(f"{api.url}/api/docs/{name}") as response:
            assert response.status == 200
            assert response.content_type in (kind, "application/javascript")
            assert len(await response.read()) > 100
    for name in ("other.js", "..%2f..%2fmain.py", "%2e%2e%2fmain.py"):
        async with api.http.get(f"{api.url}/api/docs/{name}") as response:
            assert response.status == 404


async def test_health_says_alive_and_readiness_tells_each_part(api: Api) -> None:
    assert (await api.call("GET", "//healthz", expect=200)).json == {"status": "ok"}
    ready = (await api.call("GET", "//readyz", expect=200)).json
    assert ready["status"] == "ok"
    assert {"database", "redis", "log", "secret_key", "drain"} <= set(ready["parts"])
    assert {part["status"] for part in ready["parts"].values()} == {"ok"}


async def test_without_redis_it_is_degraded_and_ready(start: Start, own_redis: OwnRedis) -> None:
    api = await start(redis_url=own_redis.url)
    assert (await api.call("GET", "//readyz", expect=200)).json["status"] == "ok"
    await asyncio.to_thread(own_redis.kill)
    async with asyncio.timeout(10):
        while (answer := await api.call("GET", "//readyz", expect=200)).json["status"] != "degraded":
            pass
    assert answer.json["parts"]["redis"]["status"] == "down"
    async with asyncio.timeout(10):
        while "parley_redis_up 0.0" not in (await api.call("GET", "//metrics", expect=200)).text:
            pass
    await api.register()  # all that is durable works


async def test_without_postgresql_it_is_not_ready_and_says_so(
    start: Start, own_postgres: OwnPostgres
) -> None:
    api = await start(database_url=own_postgres.url)
    person: Person = await api.register()
    await asyncio.to_thread(own_postgres.stop)
    async with asyncio.timeout(20):
        while (answer := await api.call("GET", "//readyz")).status != 503:
            pass
    assert answer.json["status"] == "down"
    assert answer.json["parts"]["database"]["status"] == "down"
    lags = [await _metric(api, "parley_log_lag_seconds") for _ in range(2)]
    assert lags[0] < lags[1], "it grows while the log cannot be read"
    assert (await api.call("GET", "//healthz", expect=200)).json == {"status": "ok"}
    refused = await person.call("GET", "/conversations", expect=503)
    assert refused.json["code"] == "unavailable"
    assert int(refused.headers["Retry-After"]) >= 1


async def _metric(api: Api, name: str) -> float:
    text = (await api.call("GET", "//metrics", expect=200)).text
    (value,) = re.findall(rf"^{name} (\S+)$", text, flags=re.MULTILINE)
    return float(value)


async def test_after_a_new_epoch_clients_are_told_to_read_anew(
    api: Api, ann: Person, settings: Settings
) -> None:
    cursor = (await ann.poll())["cursor"]
    await new_epoch(settings)
    async with asyncio.timeout(10):
        while not (events := (await ann.poll(cursor))["events"]):
            pass
    assert [(event["type"], event["reason"]) for event in events] == [("resync", "epoch_changed")]


async def test_metrics_are_for_prometheus_and_name_nobody(api: Api, ann: Person, bob: Person) -> None:
    await ann.say(await ann.direct_with(bob), "words nobody may see in a graph")
    answer = await api.call("GET", "//metrics", expect=200)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert (
        'parley_http_requests_total{method="POST",route="/api/v1/auth/register",status="201"}' in answer.text
    )
    for private in (ann.id, ann.username, bob.id, "words"):
        assert private not in answer.text


async def test_labels_of_metrics_are_the_servers_words_whatever_a_client_sends(api: Api, ann: Person) -> None:
    async with ann.ws() as socket:
        for n in range(10):
            await socket.tell(f"mine.{ann.username}.{n}")
        assert (await socket.closed()).code == 4400
    text = (await api.call("GET", "//metrics", expect=200)).text
    assert ann.username not in text
    assert 'parley_commands_total{op="unknown",outcome="unknown_op"} 10.0' in text
    assert 'parley_connections_closed_total{reason="abuse",transport="websocket"} 1.0' in text
