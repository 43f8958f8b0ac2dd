"""The OpenAPI 3.1 document, made from the route table and the models: one source for what is served and said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, Literal

import orjson
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import WithDefaultSchema

from domain.errors import ParleyError
from handlers.endpoint import Route
from handlers.problems import MEDIA_TYPE, problem_of
from handlers.reading import FORM
from handlers.schemas.common import MAX_INT64, NoBody, NoQuery, Problem
from handlers.serving import MAX_KEY

Json = dict[str, Any]
Mode = Literal["validation", "serialization"]

TITLE = "Parley"
VERSION = "1"
REF = "#/components/schemas/{model}"

ABOUT = """The realtime backend of a social product: accounts, conversations and messages over REST, and everything that
happens in them live over WebSocket, Server-Sent Events or long polling, on one cursor.

Sign in with `POST /api/v1/auth/token` and send the access token as `Authorization: Bearer`. Errors are
`application/problem+json` (RFC 9457) with a stable `code`. Every POST that creates takes an `Idempotency-Key`.
The frames of the WebSocket and the events are in the AsyncAPI document at `/api/v1/asyncapi.json`."""

INFO: Json = {
    "title": TITLE,
    "version": VERSION,
    "description": ABOUT,
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}

TAGS = {
    "Accounts": "Signing up, signing in, staying signed in, signing out.",
    "Users": "Profiles and the directory.",
    "Social": "Who has to do with whom.",
    "Conversations": "Direct and group conversations, and who is in them.",
    "Messages": "What is said, edited, deleted and read in a conversation.",
    "Realtime": "Three transports, one cursor: a session may go on from any to any other.",
    "Administration": "For accounts with permissions.",
    "Service": "Health, metrics and the contract itself.",
}

SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "An access token."},
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "A single-use ticket of `POST /api/v1/realtime/tickets`; realtime GETs only.",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": "parley_realtime",
        "description": "Set with a ticket where `cookie` was true; realtime GETs only.",
    },
}

SHARED_HEADERS: Json = {
    "RequestId": {"description": "The id of this request in the server's log.", "schema": {"type": "string"}},
    "RetryAfter": {
        "description": "Seconds until a retry makes sense.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "RateLimit": {"description": "What is left of the tightest limit.", "schema": {"type": "string"}},
    "RateLimitPolicy": {"description": "The limits that count this request.", "schema": {"type": "string"}},
    "Replayed": {
        "description": "`true` where this answer was given before.",
        "schema": {"type": "string", "const": "true"},
    },
    "Challenge": {"description": "How to sign in (RFC 6750).", "schema": {"type": "string"}},
}

ERROR_STATUSES = (400, 401, 403, 404, 409, 413, 422, 429, 503)

IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "A retry with the same key, path and body is given the first answer again for 24 hours, with "
        "`Idempotent-Replayed: true`. `X-Idempotency-Key` is the same."
    ),
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
}


def build(routes: Sequence[Route]) -> Json:
    """The document. Raises ValueError where two routes share a handler's name: it is the operation's id."""
    return _Builder(routes).document()


def encode(document: Json) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


class _Schemas(GenerateJsonSchema):
    """Names no default of null: in a PATCH null is a value, and what is left out stays as it is."""

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        return {k: v for k, v in described.items() if k != "default" or v is not None}


class _Builder:
    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes
        wanted: list[tuple[type[BaseModel], Mode]] = [(Problem, "serialization")]
        for route in routes:
            wanted += [(model, "validation") for model in (route.body, route.query) if model is not None]
            wanted += [(model, "serialization") for model in route.answers.values() if model is not None]
        refs, definitions = models_json_schema(
            list(dict.fromkeys(wanted)), ref_template=REF, schema_generator=_Schemas
        )
        self._refs = refs
        self._schemas: Json = definitions.get("$defs", {})

    def document(self) -> Json:
        paths: Json = {}
        seen: dict[str, str] = {}
        for route in self._routes:
            operation = self._operation(route)
            where = f"{route.method} {route.path}"
            if (other := seen.setdefault(operation["operationId"], where)) != where:
                raise ValueError(f"{where} and {other} have handlers of one name: {operation['operationId']}")
            paths.setdefault(route.path, {})[route.method.lower()] = operation
        used = dict.fromkeys(route.tag for route in self._routes)
        return {
            "openapi": "3.1.1",
            "info": INFO,
            "servers": [{"url": "/"}],
            "tags": [{"name": tag, "description": TAGS.get(tag, tag)} for tag in used],
            "paths": paths,
            "components": {
                "schemas": self._reachable(paths),
                "responses": dict(_problem_responses()),
                "headers": SHARED_HEADERS,
                "securitySchemes": SECURITY,
            },
        }

    def _operation(self, route: Route) -> Json:
        operation: Json = {
            "operationId": route.handler.__name__,
            "summary": route.summary,
            "tags": [route.tag],
            "security": _security(route),
            "responses": self._responses(route),
        }
        if route.description:
            operation["description"] = route.description
        if parameters := [*_path_parameters(route.path), *self._query_parameters(route), *_headers(route)]:
            operation["parameters"] = parameters
        if route.body is not None and route.body is not NoBody:
            operation["requestBody"] = self._request_body(route, route.body)
        return operation

    def _request_body(self, route: Route, model: type[BaseModel]) -> Json:
        schema = self._refs[model, "validation"]
        content = {"application/json": {"schema": schema}}
        if route.form:
            content[FORM] = {"schema": schema}
        return {"required": any(f.is_required() for f in model.model_fields.values()), "content": content}

    def _query_parameters(self, route: Route) -> Iterator[Json]:
        if route.query is None or route.query is NoQuery:
            return
        schema = self._schemas[self._refs[route.query, "validation"]["$ref"].rpartition("/")[2]]
        for name, described in schema.get("properties", {}).items():
            plain = {k: v for k, v in described.items() if k not in ("title", "description")}
            parameter: Json = {
                "name": name,
                "in": "query",
                "required": name in schema.get("required", ()),
                "schema": _without_null(plain),
            }
            if "description" in described:
                parameter["description"] = described["description"]
            yield parameter

    def _responses(self, route: Route) -> Json:
        responses: Json = {}
        for status, model in sorted(route.answers.items()):
            responses[str(status)] = self._answer(route, status, model)
        for status in sorted(_error_statuses(route)):
            responses.setdefault(str(status), {"$ref": f"#/components/responses/Problem{status}"})
        return responses

    def _answer(self, route: Route, status: int, model: type[BaseModel] | None) -> Json:
        headers = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
        if route.idempotent and status < 300:
            headers["Idempotent-Replayed"] = {"$ref": "#/components/headers/Replayed"}
        if status == 503:
            headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
        answer: Json = {"description": HTTPStatus(status).phrase, "headers": headers}
        if model is not None:
            answer["content"] = {"application/json": {"schema": self._refs[model, "serialization"]}}
        elif status not in (101, 204):
            media_type = route.produces.partition(";")[0]
            # A stream of events is no text to whoever reads it, event by event.
            shapeless = media_type in ("application/json", "text/event-stream")
            anything: Json = {} if shapeless else {"type": "string"}
            answer["content"] = {media_type: {"schema": anything}}
        return answer

    def _reachable(self, paths: Json) -> Json:
        """The schemas that something refers to: those of queries became parameters."""
        kept: Json = {}
        waiting: list[Any] = [paths, {"$ref": REF.format(model="Problem")}]
        while waiting:
            item = waiting.pop()
            if isinstance(item, dict):
                ref = item.get("$ref")
                if isinstance(ref, str) and ref.startswith("#/components/schemas/"):
                    name = ref.rpartition("/")[2]
                    if name not in kept:
                        kept[name] = self._schemas[name]
                        waiting.append(kept[name])
                waiting.extend(item.values())
            elif isinstance(item, list):
                waiting.extend(item)
        return dict(sorted(kept.items()))


def path_names(path: str) -> list[str]:
    return re.findall(r"{(\w+)}", path)


def _path_parameters(path: str) -> Iterator[Json]:
    for name in path_names(path):
        schema: Json = {"type": "string", "minLength": 1}
        if name == "id" or name.endswith("_id"):
            schema = {"type": "string", "format": "uuid"}
        elif name == "seq":
            schema = {"type": "integer", "minimum": 1, "maximum": MAX_INT64}
        parameter: Json = {"name": name, "in": "path", "required": True, "schema": schema}
        if name == "user":
            parameter["description"] = "A username or an id."
        yield parameter


def _headers(route: Route) -> Iterator[Json]:
    if route.idempotent:
        yield IDEMPOTENCY_KEY


def _security(route: Route) -> list[Json]:
    if route.sign_in is not None:
        return [{"bearer": []}, {"cookie": []}, {"ticket": []}]
    return [{"bearer": []}] if route.auth else []


def _error_statuses(route: Route) -> Iterable[int]:
    """The errors a route can answer: those that follow from what it takes, and its own."""
    statuses = set(route.errors)
    if not route.path.startswith("/api/v1/"):
        return statuses
    statuses |= {400, 404, 503}  # unreadable HTTP; a workspace that is not there; a part that is away
    if route.auth or route.sign_in is not None:
        statuses.add(401)
    if route.sign_in is not None:
        statuses.add(403)
    if route.body is not None:
        statuses |= {413, 422}
    if route.query is not None and route.query is not NoQuery:
        statuses.add(422)
    if route.idempotent:
        statuses |= {409, 413, 422}
    if route.limit != "none":
        statuses.add(429)
    return statuses


def _problem_responses() -> Iterator[tuple[str, Json]]:
    for status in ERROR_STATUSES:
        headers = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}
        if status in (429, 503):
            headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
        if status == 429:
            headers["RateLimit"] = {"$ref": "#/components/headers/RateLimit"}
            headers["RateLimit-Policy"] = {"$ref": "#/components/headers/RateLimitPolicy"}
        if status == 401:
            headers["WWW-Authenticate"] = {"$ref": "#/components/headers/Challenge"}
        known = [error for error in _all_errors() if error.status == status]
        examples = {error.code: {"value": _example(error)} for error in sorted(known, key=lambda e: e.code)}
        yield (
            f"Problem{status}",
            {
                "description": f"{HTTPStatus(status).phrase}: " + ", ".join(f"`{code}`" for code in examples),
                "headers": headers,
                "content": {
                    MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}, "examples": examples}
                },
            },
        )


def _all_errors(base: type[ParleyError] = ParleyError) -> Iterator[type[ParleyError]]:
    yield base
    for error in base.__subclasses__():
        yield from _all_errors(error)


def _example(error: type[ParleyError]) -> Json:
    made = ParleyError(error.title)
    made.status, made.code, made.title = error.status, error.code, error.title
    problem = problem_of(
        made, instance="/api/v1/conversations", request_id="7d1f6cf35b6d4a0bb9d4c9f4a0c8a1e2"
    )
    return problem.model_dump(exclude_none=True, mode="json")


def _without_null(schema: Json) -> Json:
    """A query parameter is there or not there; null cannot be sent."""
    if "anyOf" not in schema:
        return schema
    kept = [each for each in schema["anyOf"] if each.get("type") != "null"]
    rest = {k: v for k, v in schema.items() if k not in ("anyOf", "default")}
    return {**kept[0], **rest} if len(kept) == 1 else {"anyOf": kept, **rest}
