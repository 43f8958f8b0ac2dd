"""What every request passes through: the order of checks, bodies, queries, methods, errors."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from server.embedded import EmbeddedServices
from tests.conftest import Databases
from tests.support.edge import SECRET_THING, EdgeApp, edge_app

THING = "0192f0c0-0000-7000-8000-000000000002"
JSON = {"Content-Type": "application/json"}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(
    databases: Databases, template_database: str, services: EmbeddedServices
) -> AsyncIterator[EdgeApp]:
    """One for all tests here: none of them leaves anything behind that another could see."""
    url = databases.create(template_database)
    async with edge_app(url, services.redis_url) as running:
        yield running
    databases.drop(url)


def is_problem(answer: Any, status: int, code: str) -> bool:
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["status"] == answer.status
    assert answer.json["request_id"] == answer.headers["X-Request-ID"]
    assert {"type", "title", "detail", "instance"} <= set(answer.json)
    return bool(answer.status == status and answer.json["code"] == code)


async def test_a_request_without_a_token_is_401_before_anything_else(app: EdgeApp) -> None:
    for path in (f"/api/v1/things/{THING}", "/api/v1/things/not-an-id", f"/api/v1/things/{THING}?limit=x"):
        answer = await app.call("GET", path)
        assert is_problem(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="parley"'
    answer = await app.call("POST", "/api/v1/things", data=b"{")
    assert answer.status == 401


async def test_a_bad_token_is_named_as_such(app: EdgeApp) -> None:
    for credential in ("Bearer bad", "bearer  bad"):
        answer = await app.call("GET", f"/api/v1/things/{THING}", headers={"Authorization": credential})
        assert is_problem(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="parley", error="invalid_token"'
    for credential in ("Basic YTpi", "Bearer", "Bearer "):
        answer = await app.call("GET", f"/api/v1/things/{THING}", headers={"Authorization": credential})
        assert answer.status == 401


@pytest.mark.parametrize(
    "id", ["1", "x" * 300, "{" + THING + "}", THING.replace("-", ""), "%00", THING + "%20"]
)
async def test_a_malformed_id_is_the_404_of_a_thing_that_is_not_there(app: EdgeApp, id: str) -> None:
    malformed = await app.call("GET", f"/api/v1/things/{id}", as_user="ada")
    hidden = await app.call("GET", f"/api/v1/things/{SECRET_THING}?limit=0", as_user="ada")
    assert is_problem(malformed, 404, "not_found")
    assert is_problem(hidden, 404, "not_found")
    told = [
        {k: v for k, v in a.json.items() if k not in ("request_id", "instance")} for a in (malformed, hidden)
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize("body", [b"{", b'{"unknown": 1}', b"", b"x" * (2 << 20)])
async def test_a_stranger_hears_404_whatever_the_body_is(app: EdgeApp, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    path = f"/api/v1/things/{SECRET_THING}/parts"
    answer = await app.call("POST", path, as_user="ada", data=body, headers=headers)
    assert is_problem(answer, 404, "not_found")
    answer = await app.call(
        "POST", path, as_user="ada", data=body, headers={**headers, "Idempotency-Key": "k" * 256}
    )
    assert is_problem(answer, 404, "not_found")


async def test_what_is_not_json_is_400(app: EdgeApp) -> None:
    bodies = [
        b"", b"{", b"{'name': 1}", b'{"name": "a"} trailing', b'\xff\xfe{"name": "a"}', b'{"name": "\xff"}',
        b'{"name": "\\ud800"}', b'{"size": NaN}', b'{"size": Infinity, "name": "a"}', b"[" * 100_000,
        b'{"name": "a", "size": 1' + b"0" * 5000 + b"}", b'{"name": "a\x01"}',
    ]  # fmt: skip
    for body in bodies:
        answer = await app.call(
            "POST", "/api/v1/things", as_user="ada", data=body, headers={"Content-Type": "application/json"}
        )
        assert is_problem(answer, 400, "malformed"), body[:40]
        assert "errors" not in answer.json


async def test_only_json_in_utf8_is_read(app: EdgeApp) -> None:
    good = b'{"name": "a"}'
    refused = (
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
    )
    for media_type in refused:
        headers = {"Content-Type": media_type}
        answer = await app.call("POST", "/api/v1/things", as_user="ada", data=good, headers=headers)
        assert is_problem(answer, 400, "unsupported_media_type")
    for media_type in ("application/json; charset=UTF-8", "APPLICATION/JSON", "application/merge-patch+json"):
        headers = {"Content-Type": media_type}
        answer = await app.call("POST", "/api/v1/things", as_user="ada", data=good, headers=headers)
        assert answer.status == 201


async def test_each_wrong_field_is_named(app: EdgeApp) -> None:
    body = {"name": "x" * 11, "size": "1", "tags": ["a", 1], "a~b/c": None, "extra": {"deep": 1}}
    answer = await app.call("POST", "/api/v1/things", as_user="ada", json=body)
    assert is_problem(answer, 422, "invalid")
    assert sorted(answer.pointers) == ["/a~0b~1c", "/extra", "/name", "/size", "/tags/1"]
    assert all(error["detail"] for error in answer.json["errors"])


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/name"), ([], ""), ("text", ""), ({"name": None}, "/name"), ({"name": 1}, "/name"),
        ({"name": "a", "size": 1.5}, "/size"), ({"name": "a", "size": True}, "/size"),
        ({"name": "a", "size": 10**30}, "/size"), ({"name": "a\x00b"}, "/name"),
        ({"name": "a", "tags": ["ok", "\x00"]}, "/tags/1"),
    ],
)  # fmt: skip
async def test_a_wrong_body_is_422_with_its_pointer(app: EdgeApp, body: Any, pointer: str) -> None:
    answer = await app.call("POST", "/api/v1/things", as_user="ada", json=body)
    assert is_problem(answer, 422, "invalid")
    assert answer.pointers == [pointer]


async def test_null_is_not_an_object(app: EdgeApp) -> None:
    answer = await app.call("POST", "/api/v1/things", as_user="ada", data=b"null", headers=JSON)
    assert is_problem(answer, 422, "invalid")
    assert answer.pointers == [""]


async def test_what_was_sent_is_never_repeated_in_an_error(app: EdgeApp) -> None:
    answer = await app.call(
        "POST", "/api/v1/things", as_user="ada", json={"name": 12345678987, "size": "s3cret"}
    )
    assert answer.status == 422
    assert b"12345678987" not in answer.body
    assert b"s3cret" not in answer.body


async def test_many_wrong_fields_do_not_make_a_long_answer(app: EdgeApp) -> None:
    body = {f"field{n}": n for n in range(5000)}
    answer = await app.call("POST", "/api/v1/things", as_user="ada", json=body)
    assert answer.status == 422
    assert len(answer.json["errors"]) == 50


async def test_a_body_over_the_limit_is_413_also_when_it_does_not_say_its_length(app: EdgeApp) -> None:
    body = json.dumps({"name": "a", "tags": ["x" * (1 << 20)]}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    for data in (body, chunks()):
        answer = await app.call("POST", "/api/v1/things", as_user="ada", data=data, headers=JSON)
        assert is_problem(answer, 413, "too_large")


async def test_a_small_body_that_unpacks_to_a_large_one_is_413(app: EdgeApp) -> None:
    import gzip

    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 1 << 20
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = await app.call("POST", "/api/v1/things", as_user="ada", data=bomb, headers=headers)
    assert is_problem(answer, 413, "too_large")


async def test_a_body_that_is_not_what_its_encoding_says_is_400(app: EdgeApp) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = await app.call("POST", "/api/v1/things", as_user="ada", data=b"not gzip at all", headers=headers)
    assert is_problem(answer, 400, "malformed")


async def test_an_empty_body_will_do_where_nothing_is_required(app: EdgeApp) -> None:
    assert (await app.call("POST", "/api/v1/optional")).body == b"False"
    assert (await app.call("POST", "/api/v1/optional", json={"flag": True})).body == b"True"


async def test_a_form_is_read_where_the_route_takes_one(app: EdgeApp) -> None:
    assert (await app.call("POST", "/api/v1/login", data={"name": "ada"})).status == 204
    assert (await app.call("POST", "/api/v1/login", json={"name": "ada"})).status == 204
    answer = await app.call("POST", "/api/v1/login", data={"name": "ada", "other": "x"})
    assert answer.pointers == ["/other"]
    twice = await app.call(
        "POST",
        "/api/v1/login",
        data=b"name=a&name=b",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert is_problem(twice, 422, "invalid")
    bad = await app.call(
        "POST",
        "/api/v1/login",
        data=b"name=%ff",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert is_problem(bad, 400, "malformed")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=-1", "limit=1.0", "limit=", "limit=%201", "limit=1_0", "limit=9" * 5, "limit=x",
     "limit=1&limit=2", "cursor=", "cursor=%00", "limit=٣", "limit=" + "9" * 400, "cursor=" + "a" * 513],
)  # fmt: skip
async def test_a_parameter_out_of_range_is_422_and_never_clamped(app: EdgeApp, query: str) -> None:
    answer = await app.call("GET", f"/api/v1/things?{query}", as_user="ada")
    assert is_problem(answer, 422, "invalid")
    assert answer.pointers in (["limit"], ["cursor"])


async def test_parameters_have_defaults_and_unknown_ones_are_ignored(app: EdgeApp) -> None:
    assert (await app.call("GET", "/api/v1/things?whatever=1&whatever=2", as_user="ada")).body == b"20 None"
    assert (await app.call("GET", "/api/v1/things?limit=100&cursor=abc", as_user="ada")).body == b"100 abc"


async def test_a_trailing_slash_is_accepted(app: EdgeApp) -> None:
    assert (await app.call("GET", f"/api/v1/things/{THING}/", as_user="ada")).status == 200
    assert (await app.call("POST", "/api/v1/things/", as_user="ada", json={"name": "a"})).status == 201


async def test_head_is_answered_like_get_without_a_body(app: EdgeApp) -> None:
    path = f"/api/v1/things/{THING}"
    get, head = [await app.call(method, path, as_user="ada") for method in ("GET", "HEAD")]
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(get.body))
    assert (await app.call("HEAD", "/api/v1/waits")).status == 405


async def test_another_method_is_405_with_what_is_allowed(app: EdgeApp) -> None:
    answer = await app.call("DELETE", "/api/v1/things", as_user="ada")
    assert is_problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST"


async def test_an_unknown_path_is_a_404_problem_also_for_browsers(app: EdgeApp) -> None:
    for accept in ("text/html", "*/*"):
        answer = await app.call("GET", "/nothing/<script>", headers={"Accept": accept})
        assert is_problem(answer, 404, "not_found")


async def test_an_unexpected_error_is_a_500_that_tells_nothing(app: EdgeApp) -> None:
    answer = await app.call("GET", "/api/v1/broken", headers={"Accept": "text/html"})
    assert is_problem(answer, 500, "internal")
    assert b"secret detail" not in answer.body
    assert b"Traceback" not in answer.body


async def test_an_error_after_the_answer_began_cuts_the_connection(app: EdgeApp) -> None:
    import aiohttp

    with pytest.raises(aiohttp.ClientError):
        await app.call("GET", "/api/v1/late")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(500)) + b"\r\n",
        b"POST /api/v1/optional HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_a_400_problem(app: EdgeApp, raw: bytes) -> None:
    head, _, body = (await app.raw(raw)).partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert problem["code"] == "malformed"
    assert b"X-Request-ID: %b" % problem["request_id"].encode() in head


async def test_http_1_0_without_a_host_is_served(app: EdgeApp) -> None:
    answer = await app.raw(b"GET /api/v1/open HTTP/1.0\r\n\r\n")
    assert b" 200 " in answer.partition(b"\r\n")[0]


async def test_the_request_id_is_the_callers_where_it_is_sane(app: EdgeApp) -> None:
    assert (await app.call("GET", "/api/v1/open", headers={"X-Request-ID": "abc-1.2"})).headers[
        "X-Request-ID"
    ] == "abc-1.2"
    for bad in ("a b", "x" * 129, '"quoted"', "-leading", "é"):
        given = (await app.call("GET", "/api/v1/open", headers={"X-Request-ID": bad})).headers["X-Request-ID"]
        assert uuid.UUID(given).hex == given


async def test_a_tenant_is_found_by_its_host_and_an_unknown_one_is_404(app: EdgeApp) -> None:
    acme = await app.call("GET", "/api/v1/open", headers={"Host": "acme.parley.test"})
    assert acme.body.endswith(b"acee")
    other = await app.call("GET", "/api/v1/open", headers={"Host": "other.parley.test"})
    assert is_problem(other, 404, "not_found")


def expecting(app: EdgeApp, token: str, length: int, expectation: bytes = b"100-continue") -> bytes:
    return (
        b"POST /api/v1/things HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nExpect: %b\r\nContent-Length: %d\r\n\r\n"
        % (token.encode(), expectation, length)
    )


async def test_a_body_is_asked_for_only_once_it_is_wanted(app: EdgeApp) -> None:
    body = b'{"name": "a"}'
    reader, writer = await asyncio.open_connection("127.0.0.1", int(app.url.rpartition(":")[2]))
    writer.write(expecting(app, app.tokens["ada"], len(body)))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")
    writer.close()
    for token, length, status in (("bad", 10, b"401"), (app.tokens["ada"], 1 << 30, b"413")):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(app.url.rpartition(":")[2]))
        writer.write(expecting(app, token, length))
        assert (await reader.readline()).split()[1] == status
        writer.close()


async def test_an_unknown_expectation_is_not_a_reason_to_refuse(app: EdgeApp) -> None:
    answer = await app.raw(expecting(app, app.tokens["ada"], 13, b"tea") + b'{"name": "a"}')
    assert answer.startswith(b"HTTP/1.1 201 ")
