"""The OpenAPI document against the server: whatever is sent, no 5xx, and no answer that the document does not allow.

``make fuzz`` sends much more of it, other requests each time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.routes import ROUTES
from server import openapi
from tests.property.conftest import Served
from tests.support import fuzzing
from tests.support.clients import Person
from tests.support.contract import Contract

DOCUMENT = openapi.build(ROUTES)
WITH_BODY = [
    (method.upper(), path)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if "requestBody" in operation
]
FEWEST = {"coverage": 1000, "fuzzing": 200, "stateful": 20}
"""Requests a phase has to make: one that makes none finds nothing."""

REFUSED = {
    # Page cursors are opaque; only one that was given out is good.
    "get_users": [422], "get_blocks": [422], "get_sessions": [422], "get_conversations": [422], "get_members": [422],
    # Two directions at once.
    "get_messages": [422],
    # `topics` is a comma list; a WebSocket needs an upgrade, which this fuzzer does not ask for.
    "get_poll": [422], "get_sse": [422], "get_websocket": [400, 422],
    # Bytes of a password, syntax of an email address and of a username, blanks.
    "post_register": [422], "patch_me": [422], "patch_conversation": [422],
    # Users and media that are not there; what a kind of conversation has.
    "post_conversation": [422], "post_members": [422], "post_message": [422],
    # 42.0 is a whole number to JSON schemas, and none to a server that takes "1" for none.
    "post_read": [422], "post_delivered": [422], "post_typing": [422],
    # 64 bytes, not characters; oneself.
    "put_reaction": [422], "delete_reaction": [422], "put_block": [422],
    # An Idempotency-Key that was used for another body.
    "post_ticket": [422],
}  # fmt: skip
"""Operations with rules that no JSON schema can state, and what they answer there."""


@dataclass(frozen=True, slots=True)
class World:
    """A few people in a few conversations."""

    served: Served
    people: list[Person]
    known: dict[str, list[str | int]]

    def token(self) -> str:
        """A good token of the first of them."""
        return self.served.loop.run(self.people[0].sign_in()).token


@pytest.fixture(scope="module")
def world(served: Served) -> World:
    async def begin() -> World:
        ann, bob, carol = [await served.api.register() for _ in range(3)]
        ours, theirs, direct = (
            await ann.group_with(bob),
            await bob.group_with(carol),
            await ann.direct_with(bob),
        )
        for conversation, person in ((ours, ann), (ours, bob), (direct, bob), (theirs, carol)):
            await person.say(conversation)
        people: list[str | int] = [ann.username, bob.username, carol.id, "nobody"]
        known: dict[str, list[str | int]] = {
            "path.conversation_id": [ours, ours, direct, theirs],
            "path.seq": [1, 1, 2, 99],
            "path.user": people,
            "path.emoji": ["👍", "x"],
            "body.members[*]": people,
            "body.username": [*people, "new.name", "NEW_NAME"],
        }
        return World(served, [ann, bob, carol], known)

    return served.loop.run(begin())


@pytest.mark.timeout(180 + fuzzing.EXAMPLES * 10)
@pytest.mark.parametrize("phase", FEWEST)
@pytest.mark.usefixtures("quiet")
def test_no_operation_answers_outside_the_document(world: World, phase: str) -> None:
    schema = fuzzing.fuzzer(
        DOCUMENT, world.served.api.url, phase=phase, known=world.known, refused=REFUSED, token=world.token
    )
    answered, found = fuzzing.run(schema, world.served.contract)
    assert not found, f"with FUZZ_SEED={fuzzing.SEED}:\n" + "\n".join(map(str, found))
    assert answered >= FEWEST[phase]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
BODIES = (
    st.binary(max_size=60)
    | JUNK.map(json.dumps).map(str.encode)
    | st.sampled_from(
        [b"[" * 100_000, b'{"a":' * 50_000, b'"\\ud800"', b"1e999", b"-" * 9, b'{"members":1' + b"0" * 5000]
    )
)
TYPES = st.sampled_from(
    [
        "application/json",
        "application/x-www-form-urlencoded",
        "text/plain",
        "x/y; charset=z",
        "application/a+json",
    ]
)


@pytest.mark.parametrize(("method", "template"), WITH_BODY)
@settings(
    max_examples=fuzzing.EXAMPLES or fuzzing.FEW,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=BODIES, media_type=TYPES)
@pytest.mark.usefixtures("quiet")
def test_no_bytes_for_a_body_break_anything(
    world: World, method: str, template: str, body: bytes, media_type: str
) -> None:
    path = template
    for name in openapi.path_names(template):
        path = path.replace(f"{{{name}}}", str(world.known.get(f"path.{name}", ["x"])[0]))
    answer: Any = world.served.loop.run(
        world.served.api.call(
            method,
            "/" + path,
            token=world.people[1].token,
            data=body,
            headers={"Content-Type": media_type},
        )
    )
    assert answer.status < 500


def test_a_fuzzer_finds_what_the_document_does_not_allow(world: World) -> None:
    """Against a document that says less than is true."""
    narrow = json.loads(json.dumps(DOCUMENT))
    del narrow["paths"]["/api/v1/users"]["get"]["responses"]["422"]
    narrow["paths"] = {"/api/v1/users": narrow["paths"]["/api/v1/users"]}
    schema = fuzzing.fuzzer(
        narrow, world.served.api.url, phase="coverage", known=world.known, refused=REFUSED, token=world.token
    )
    _, found = fuzzing.run(schema, Contract(narrow))
    assert {each.operation for each in found} == {"GET /api/v1/users"}
    assert any("422" in each.what for each in found)
