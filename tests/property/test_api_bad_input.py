"""The OpenAPI document against the server: whatever is sent, no 5xx, and no answer that the document does not allow."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from handlers.routes import ROUTES
from server import openapi
from server.app import create_app
from server.embedded import EmbeddedServices
from server.protocol import Runner
from server.settings import Settings
from tests.conftest import Databases
from tests.support.clients import Answer, Api, Person
from tests.support.contract import Contract
from tests.support.loop import LoopThread
from tests.support.schema_values import JUNK, TEXT, SchemaValues

DOCUMENT = openapi.build(ROUTES)
STREAMS = {route.path for route in ROUTES if route.stream}
OPERATIONS = sorted(
    (method.upper(), path)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if path not in STREAMS
)
WITH_BODY = [o for o in OPERATIONS if "requestBody" in DOCUMENT["paths"][o[1]][o[0].lower()]]
CONVERSATIONS = [o for o in OPERATIONS if "{conversation_id}" in o[1]]
CONTRACT = Contract(DOCUMENT)
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))
"""Requests an operation; more of them find more, a few keep the suite fast."""

slow_is_fine = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


@dataclass
class World:
    """One instance with a few people in a few conversations."""

    loop: LoopThread
    api: Api
    values: SchemaValues
    conversations: list[str]
    people: list[Person]

    def call(self, method: str, path: str, **options: Any) -> Answer:
        return self.loop.run(self.api.call(method, "/" + path, **options))

    def fresh(self) -> Person:
        """Somebody with a good token: what is fuzzed also signs people out."""
        person = self.people[0]
        if self.call("GET", "/api/v1/users/me", token=person.token).status == 401:
            self.people[0] = person = self.loop.run(self.api.register())
        return person


@pytest.fixture(scope="module")
def world(
    services: EmbeddedServices, databases: Databases, template_database: str, loop_thread: LoopThread
) -> Iterator[World]:
    url = databases.create(template_database)
    stack = AsyncExitStack()
    chosen = Settings(rate_limits=False, bcrypt_rounds=4, secret_key=SecretStr("k" * 16 + "ey" * 16))

    async def begin() -> World:
        app = await create_app(chosen, database_url=url, redis_url=services.redis_url)
        runner = Runner(app, shutdown_timeout=0.2)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        http = await stack.enter_async_context(aiohttp.ClientSession())

        def watch(method: str, address: str, answer: Answer) -> None:
            CONTRACT.answer(method, address, answer.status, answer.headers, answer.text)

        api = Api(http, f"http://127.0.0.1:{runner.addresses[0][1]}", watch)
        ann, bob, carol = [await api.register() for _ in range(3)]
        ours = await ann.group_with(bob)
        theirs = await bob.group_with(carol)
        direct = await ann.direct_with(bob)
        for conversation, person in ((ours, ann), (ours, bob), (direct, bob), (theirs, carol)):
            await person.say(conversation)
        conversations = [ours, ours, direct, theirs]
        people = [ann.username, bob.username, carol.id, ann.id, "nobody"]
        known = {
            "conversation_id": conversations,
            "id": conversations,
            "user": people,
            "members": people,
            "username": [*people, "new.name", "NEW_NAME"],
            "user_ids": people,
            "emoji": ["👍", "x", "👩‍👩‍👧"],
        }
        return World(loop_thread, api, SchemaValues(DOCUMENT, known), conversations, [ann, bob, carol])

    made = loop_thread.run(begin())
    yield made
    loop_thread.run(stack.aclose())
    databases.drop(url)


@pytest.mark.parametrize(("method", "template"), OPERATIONS)
@slow_is_fine
@given(data=st.data())
def test_no_operation_answers_outside_the_document(
    world: World, method: str, template: str, data: st.DataObject
) -> None:
    operation = DOCUMENT["paths"][template][method.lower()]
    path = template
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    for parameter in operation.get("parameters", ()):
        name, where = parameter["name"], parameter["in"]
        if where != "path" and data.draw(st.booleans()):
            continue
        value = data.draw(world.values.of(parameter["schema"], name))
        text = value if isinstance(value, str) else json.dumps(value)
        if where == "path":
            path = path.replace(f"{{{name}}}", quote(text, safe="") or "%20")
        elif where == "query":
            query[name] = text
        elif text.isascii() and text.isprintable():
            headers[name] = text
    body = None
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        body = json.dumps(data.draw(world.values.of(schema))).encode()
        headers["Content-Type"] = "application/json"
    token = world.fresh().token if operation["security"] else None
    url = path + (f"?{urlencode(query)}" if query else "")
    answer = world.call(method, url, token=token, data=body, headers=headers)
    assert answer.status < 500


@pytest.mark.parametrize(("method", "template"), WITH_BODY)
@slow_is_fine
@given(data=st.data())
def test_no_bytes_for_a_body_break_anything(
    world: World, method: str, template: str, data: st.DataObject
) -> None:
    bodies = (
        st.binary(max_size=60) | TEXT.map(str.encode) | JUNK.map(lambda value: json.dumps(value).encode())
    )
    types = st.sampled_from(
        ["application/json", "application/x-www-form-urlencoded", "text/plain", "x/y; charset=z"]
    )
    path = template
    for name in openapi.path_names(template):
        path = path.replace(f"{{{name}}}", "1" if name == "seq" else data.draw(st.uuids().map(str)))
    answer = world.call(
        method,
        path,
        token=world.fresh().token,
        data=data.draw(bodies),
        headers={"Content-Type": data.draw(types)},
    )
    assert answer.status < 500


@pytest.mark.parametrize(("method", "template"), CONVERSATIONS)
def test_what_is_not_there_and_what_is_not_ones_own_look_the_same(
    world: World, method: str, template: str
) -> None:
    """404 for a stranger's conversation, for one that is not there, and for a malformed id; never its data."""
    stranger = world.loop.run(world.api.register())
    told = []
    for conversation in (*world.conversations, "0192f0c0-0000-7000-8000-00000000dead", "malformed"):
        path = template.replace("{conversation_id}", conversation).replace("{seq}", "1")
        path = path.replace("{user}", stranger.username).replace("{emoji}", "👍")
        answer = world.call(method, path, token=stranger.token, json={"unknown": 1})
        assert answer.status == 404, answer.text
        told.append({k: v for k, v in answer.json.items() if k not in ("instance", "request_id")})
    assert all(each == told[0] for each in told)
