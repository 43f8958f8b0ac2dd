"""The OpenAPI document follows from the routes, and says all of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from handlers.endpoint import Call, Reply, Route
from handlers.routes import ROUTES
from handlers.schemas.common import NoBody, NoQuery
from server import openapi
from tests.support.contract import Contract, check_answer
from tests.support.edge import EdgeApp, routes

DOCUMENT = openapi.build(ROUTES)


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def test_every_route_is_in_the_document_and_nothing_else() -> None:
    assert set(operations(DOCUMENT)) == {(route.method, route.path) for route in ROUTES}
    assert len(ROUTES) > 30


def test_the_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    errors = list(OpenAPIV31SpecValidator(json.loads(openapi.encode(DOCUMENT))).iter_errors())
    assert errors == []


def test_every_reference_leads_somewhere() -> None:
    text = json.loads(openapi.encode(DOCUMENT))
    references: list[str] = []
    waiting: list[Any] = [text]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            references += [item["$ref"]] if isinstance(item.get("$ref"), str) else []
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    assert references
    for reference in references:
        found = text
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_path_parameters_are_described_with_their_types() -> None:
    for (_, path), operation in operations(DOCUMENT).items():
        described = {p["name"]: p["schema"] for p in operation.get("parameters", ()) if p["in"] == "path"}
        assert set(described) == set(openapi.path_names(path))
        for name, schema in described.items():
            if name.endswith("_id"):
                assert schema["format"] == "uuid"


def test_a_field_that_may_be_left_out_is_not_said_to_be_null_by_default() -> None:
    described = DOCUMENT["components"]["schemas"]["ConversationPatch"]["properties"]
    assert described["pinned"] == {"title": "Pinned", "type": "boolean"}
    assert {"type": "null"} in described["muted_until"]["anyOf"]
    assert "default" not in described["muted_until"]


def test_what_a_route_takes_decides_which_errors_it_documents() -> None:
    found = operations(openapi.build(routes(EdgeApp())))
    create = found["POST", "/api/v1/things"]
    assert set(create["responses"]) == {"201", "400", "401", "404", "409", "413", "422", "429", "503"}
    assert create["security"] == [{"bearer": []}]
    assert [p["name"] for p in create["parameters"]] == ["Idempotency-Key"]
    assert create["requestBody"]["required"] is True
    anyone = found["GET", "/api/v1/open"]
    assert set(anyone["responses"]) == {"200", "400", "404", "429", "503"}
    assert anyone["security"] == []
    listing = found["GET", "/api/v1/things"]
    parameters = {p["name"]: p for p in listing["parameters"]}
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
    assert parameters["cursor"]["schema"]["type"] == "string"
    form = found["POST", "/api/v1/login"]
    assert set(form["requestBody"]["content"]) == {"application/json", "application/x-www-form-urlencoded"}


def test_every_error_has_an_example_of_each_code() -> None:
    conflicts = DOCUMENT["components"]["responses"]["Problem409"]
    examples = conflicts["content"]["application/problem+json"]["examples"]
    assert {"conflict", "client_id_reused", "idempotency_in_progress", "already_taken"} <= set(examples)
    for code, example in examples.items():
        assert (example["value"]["code"], example["value"]["status"]) == (code, 409)


def test_every_tag_is_described_in_words_of_its_own() -> None:
    assert all(tag["description"] != tag["name"] for tag in DOCUMENT["tags"])


def test_two_handlers_of_one_name_are_refused() -> None:
    async def get_thing(call: Call[NoBody, NoQuery]) -> Reply:
        return Reply(204)

    pair = [Route("GET", f"/api/v1/{n}", get_thing, "", "Tests") for n in "ab"]
    with pytest.raises(ValueError, match="get_thing"):
        openapi.build(pair)


GOOD = {"Content-Type": "application/json", "X-Request-ID": "1"}
PROBLEM = {**GOOD, "Content-Type": "application/problem+json"}
THING = '{"id": "0192f0c0-0000-7000-8000-000000000002", "name": "a"}'


def checked(method: str, path: str, status: int, headers: dict[str, str], body: str) -> None:
    check_answer(openapi.build(routes(EdgeApp())), method, path, status, headers, body)


def test_the_checker_accepts_what_the_document_says() -> None:
    checked("POST", "/api/v1/things", 201, GOOD, THING)
    checked("GET", "http://127.0.0.1:1/api/v1/things/x/?limit=1", 200, GOOD, THING)
    checked("HEAD", "/api/v1/things/x", 200, GOOD, "")


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (202, GOOD, THING),
        (201, {"Content-Type": "application/json"}, THING),
        (201, {**GOOD, "Content-Type": "text/html"}, THING),
        (201, GOOD, "{"),
        (201, GOOD, '{"id": "0192f0c0-0000-7000-8000-000000000002"}'),
        (201, GOOD, '{"id": "x", "name": "a"}'),
        (201, GOOD, THING.replace("}", ', "more": 1}')),
        (404, GOOD, THING),
        (401, PROBLEM, '{"type": "t", "title": "t", "status": 401, "detail": "d", "code": "c"}'),
    ],
)
def test_the_checker_refuses_what_the_document_does_not_say(
    status: int, headers: dict[str, str], body: str
) -> None:
    with pytest.raises(AssertionError):
        checked("POST", "/api/v1/things", status, headers, body)


def test_the_checker_refuses_an_answer_from_an_undocumented_place() -> None:
    with pytest.raises(AssertionError):
        checked("GET", "/api/v1/secret", 200, GOOD, "{}")
    with pytest.raises(AssertionError):
        checked("GET", "/api/v1/secret", 404, {"Content-Type": "text/html"}, "<html>")
    contract = Contract(openapi.build(routes(EdgeApp())))
    contract.answer(
        "GET", "/api/v1/secret", 404, PROBLEM,
        '{"type": "t", "title": "t", "status": 404, "detail": "d", "code": "not_found"}',
    )  # fmt: skip
    assert contract.seen == set()
