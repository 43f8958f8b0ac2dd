"""What every answer carries: security headers, CORS, request log, metrics, draining, and who the client is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
import structlog

from server.embedded import EmbeddedServices
from server.settings import Settings
from tests.conftest import Databases
from tests.support.edge import Answered, EdgeApp, edge_app

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRIEND = "https://app.example.com"
OPEN = "/api/v1/open"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    databases: Databases, template_database: str, services: EmbeddedServices
) -> AsyncIterator[EdgeApp]:
    """Trusts the loopback as its proxy, and one origin."""
    settings = Settings(allowed_origins=(FRIEND,), trusted_proxies=("127.0.0.0/8", "10.0.0.0/8"))  # type: ignore[arg-type]
    url = databases.create(template_database)
    async with edge_app(url, services.redis_url, settings=settings) as running:
        yield running
    databases.drop(url)


@pytest.fixture
def app(shared: EdgeApp) -> EdgeApp:
    shared.gate.clear()
    shared.entered.clear()
    shared.draining = False
    return shared


async def metrics_of(app: EdgeApp) -> str:
    return (await asyncio.to_thread(app.metrics.render)).decode()


async def test_every_answer_has_the_security_headers_errors_too(app: EdgeApp) -> None:
    for path in (OPEN, "/nothing", "/api/v1/broken", "/api/v1/things"):
        headers = (await app.call("GET", path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] == "parley"
        assert "Strict-Transport-Security" not in headers


async def test_over_https_browsers_are_told_to_stay_there(app: EdgeApp) -> None:
    answer = await app.call(
        "GET", OPEN, headers={"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    )
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
    assert answer.body.startswith(b"203.0.113.9 https ")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("203.0.113.9:4711, 10.1.2.3", "203.0.113.9"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("10.9.9.9", "10.9.9.9"),
        ("garbage, 10.1.2.3", "10.1.2.3"),
        ("", "127.0.0.1"),
        (", ,", "127.0.0.1"),
    ],
)
async def test_the_client_is_the_first_address_from_the_right_that_is_no_proxy(
    app: EdgeApp, forwarded: str, client: str
) -> None:
    answer = await app.call("GET", OPEN, headers={"X-Forwarded-For": forwarded})
    assert answer.body.split()[0].decode() == client


@pytest.mark.parametrize(
    ("hops", "schemes", "scheme"),
    [
        ("203.0.113.9, 10.1.2.3", "https, http", "https"),
        ("1.1.1.1, 203.0.113.9, 10.1.2.3", "https, http, https", "http"),
        ("203.0.113.9, 10.1.2.3", "https", "https"),
        ("203.0.113.9", "gopher", "http"),
    ],
)
async def test_the_scheme_is_read_where_the_client_is(
    app: EdgeApp, hops: str, schemes: str, scheme: str
) -> None:
    answer = await app.call("GET", OPEN, headers={"X-Forwarded-For": hops, "X-Forwarded-Proto": schemes})
    assert answer.body.split()[1].decode() == scheme


async def test_an_untrusted_peer_is_not_believed(database_url: str, redis_url: str) -> None:
    async with edge_app(database_url, redis_url) as app:
        headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        answer = await app.call("GET", OPEN, headers=headers)
    assert answer.body.startswith(b"127.0.0.1 http ")


def cors(answer: Answered) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k.startswith("Access-Control-")}


async def test_a_named_origin_may_read_answers_and_errors(app: EdgeApp) -> None:
    for path in (OPEN, "/api/v1/things", "/nothing"):
        answer = await app.call("GET", path, headers={"Origin": FRIEND})
        assert answer.headers["Access-Control-Allow-Origin"] == FRIEND
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert "RateLimit" in answer.headers["Access-Control-Expose-Headers"]
        assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://app.example.com", "https://[", "x"]
)
async def test_another_origin_may_not(app: EdgeApp, origin: str) -> None:
    answer = await app.call("GET", OPEN, headers={"Origin": origin})
    assert answer.status == 200
    assert cors(answer) == {}


async def test_a_preflight_is_answered_for_friends_and_refused_for_others(app: EdgeApp) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for path in ("/api/v1/things", OPEN):
        friend = await app.call("OPTIONS", path, headers={"Origin": FRIEND, **ask})
        assert friend.status == 204
        assert "POST" in friend.headers["Access-Control-Allow-Methods"]
        assert "Authorization" in friend.headers["Access-Control-Allow-Headers"]
        assert friend.headers["Access-Control-Allow-Origin"] == FRIEND
    other = await app.call("OPTIONS", OPEN, headers={"Origin": "https://evil.example", **ask})
    assert (other.status, other.json["code"]) == (403, "origin_refused")
    assert cors(other) == {}
    assert (await app.call("OPTIONS", OPEN)).status == 405


async def test_the_servers_own_origin_needs_no_setting(app: EdgeApp) -> None:
    host = app.url.removeprefix("http://")
    for origin in (f"http://{host}", f"https://{host}"):
        answer = await app.call("GET", OPEN, headers={"Origin": origin})
        assert answer.headers["Access-Control-Allow-Origin"] == origin


async def test_while_draining_everything_is_served_and_connections_close(app: EdgeApp) -> None:
    before = await app.call("GET", OPEN)
    assert before.headers.get("Connection", "keep-alive") != "close"
    app.draining = True
    for path, status in ((OPEN, 200), ("/nothing", 404)):
        answer = await app.call("GET", path)
        assert (answer.status, answer.headers["Connection"]) == (status, "close")
    raw = await app.raw(b"GET /api/v1/open HTTP/1.1\r\nHost: a\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 200 ")


async def test_requests_are_counted_by_template_and_never_by_what_was_asked(app: EdgeApp) -> None:
    await app.call("GET", "/api/v1/things/0192f0c0-0000-7000-8000-000000000009", as_user="ada")
    await app.call("GET", "/nobody/knows/this")
    await app.call("PROPFIND", OPEN)
    text = await metrics_of(app)
    assert re.search(
        r'parley_http_requests_total{method="GET",route="/api/v1/things/{id}",status="200"} [1-9]', text
    )
    assert 'route="unmatched",status="404"' in text
    assert 'method="other"' in text
    assert "0192f0c0" not in text
    assert "nobody" not in text
    assert "PROPFIND" not in text
    assert 'parley_http_request_seconds_count{method="GET",route="/api/v1/open"}' in text
    assert "process_resident_memory_bytes" in text


async def test_a_stream_is_counted_but_its_length_is_no_duration(app: EdgeApp) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(app.call("GET", "/api/v1/waits"))
        await app.entered.wait()
        assert re.search(r"parley_http_requests_in_progress 1\.0", await metrics_of(app))
        app.gate.set()
    assert waiting.result().status == 204
    text = await metrics_of(app)
    assert 'parley_http_requests_total{method="GET",route="/api/v1/waits",status="204"}' in text
    assert 'parley_http_request_seconds_count{method="GET",route="/api/v1/waits"}' not in text
    assert re.search(r"parley_http_requests_in_progress 0\.0", text)


async def test_a_client_that_leaves_is_counted_as_gone(app: EdgeApp) -> None:
    leaving = asyncio.create_task(app.call("GET", "/api/v1/waits"))
    await app.entered.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    gone = 'parley_http_requests_total{method="GET",route="/api/v1/waits",status="499"} 1.0'
    async with asyncio.timeout(5):
        while gone not in await metrics_of(app):
            pass


async def test_the_log_tells_each_request_without_secrets(app: EdgeApp) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        await app.call(
            "GET",
            "/api/v1/things?limit=5&ticket=S3CRET&q=private+words",
            as_user="ada",
            headers={"X-Request-ID": "abc"},
        )
        await app.call("POST", "/api/v1/things", as_user="ada", json={"name": "my words"})
    first, second = [line for line in lines if line["event"] == "request"]
    assert (first["method"], first["path"], first["status"]) == ("GET", "/api/v1/things", 200)
    assert (first["request_id"], first["client"], first["user"]) == ("abc", "127.0.0.1", app.tokens["ada"])
    assert first["query"] == "limit=5&ticket=…&q=…"
    assert first["ms"] >= 0
    assert second["route"] == "/api/v1/things"
    told = str(lines).replace(f"'user': '{app.tokens['ada']}'", "")
    for secret in ("S3CRET", "private", "my words", app.tokens["ada"]):
        assert secret not in told


async def test_an_unexpected_error_is_logged_with_its_place(app: EdgeApp) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = await app.call("GET", "/api/v1/broken")
    failed = next(line for line in lines if line["event"] == "request_failed")
    assert failed["request_id"] == answer.headers["X-Request-ID"]
    assert failed["error"] == "RuntimeError"
    assert "in broken" in failed["trace"]


async def test_a_slow_header_line_does_not_hold_up_others(app: EdgeApp) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", int(app.url.rpartition(":")[2]))
    writer.write(b"GET /api/v1/op")
    await writer.drain()
    assert (await app.call("GET", OPEN)).status == 200
    writer.close()


async def test_a_refused_upgrade_is_an_answer_like_any_other(app: EdgeApp) -> None:
    assert app.session is not None
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await app.session.ws_connect(app.url + "/api/v1/things")
    assert refused.value.status == 401
