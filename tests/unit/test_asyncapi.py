"""The AsyncAPI document follows from the catalogue and the commands, and tells frames as they are sent."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from domain.ids import DEFAULT_TENANT
from domain.log import StoredEvent, Topic, TopicKind
from handlers.ops import COMMANDS
from realtime.events import CATALOGUE, LIVE_ONLY, Event
from server import asyncapi

DOCUMENT = asyncapi.build(COMMANDS)
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
PLACE = {"conversation_id": str(uuid.uuid4())}
PROBLEM = {"type": "t", "title": "t", "status": 400, "detail": "d", "code": "c"}


def accepts(message: str, frame: object) -> bool:
    registry: Registry[Any] = Registry().with_resource("urn:doc", DRAFT202012.create_resource(DOCUMENT))
    schema = json.loads(json.dumps(MESSAGES[message]["payload"]).replace('"#/', '"urn:doc#/'))
    return Draft202012Validator(schema, registry=registry).is_valid(frame)


def follow(reference: str) -> Any:
    found: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_every_event_type_and_every_command_is_in_the_document() -> None:
    assert {*CATALOGUE, *LIVE_ONLY} <= {message["name"] for message in MESSAGES.values()}
    receiving = [o for o in DOCUMENT["operations"].values() if o["action"] == "receive"]
    ops = {follow(follow(o["messages"][0]["$ref"])["$ref"])["name"] for o in receiving}
    assert ops == {"message.send", *COMMANDS}


def test_every_reference_leads_somewhere() -> None:
    waiting: list[Any] = [DOCUMENT]
    count = 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if isinstance(item.get("$ref"), str):
                follow(item["$ref"])
                count += 1
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    assert count > 100


def test_every_payload_is_a_json_schema() -> None:
    for message in MESSAGES.values():
        Draft202012Validator.check_schema(message["payload"])
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_an_event_as_it_is_sent_fits_its_message_and_no_other() -> None:
    data = {"conversation_id": str(uuid.uuid4()), "seq": 1, "deleted_at": "2026-01-01T00:00:00.000000Z"}
    stored = StoredEvent(
        7, DEFAULT_TENANT, Topic(TopicKind.CONVERSATION, uuid.uuid4()), "message.deleted", datetime.now(UTC),
        json.dumps(data).encode(),
    )  # fmt: skip
    frame = json.loads(Event(stored, 1).envelope)
    assert accepts("MessageDeleted", frame)
    assert not accepts("MessageCreated", frame)
    assert not accepts("MessageDeleted", {**frame, "more": 1})
    assert not accepts("MessageDeleted", {**frame, "cursor": None})
    assert not accepts("MessageDeleted", {**frame, "data": {**data, "seq": "1"}})


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        ("Heartbeat", {"type": "heartbeat", "cursor": "c"}),
        ("TokenExpiring", {"type": "token.expiring", "expires_in": 60}),
        ("PingCommand", {"id": "1", "op": "ping"}),
        ("PingReply", {"type": "reply", "id": "1", "ok": True, "data": {}}),
        ("ConversationReadCommand", {"id": "1", "op": "conversation.read", "data": {**PLACE, "seq": 0}}),
        ("ErrorReply", {"type": "reply", "id": None, "ok": False, "error": PROBLEM}),
        ("ErrorReply", {"type": "reply", "id": "1", "ok": False, "error": {**PROBLEM, "retry_after_ms": 20}}),
    ],
)
def test_frames_fit(message: str, frame: object) -> None:
    assert accepts(message, frame)


def test_a_command_that_needs_data_is_not_complete_without() -> None:
    assert not accepts("MessageSendCommand", {"id": "1", "op": "message.send"})
    assert not accepts("MessageSendCommand", {"id": "1", "op": "message.send", "data": {"body": "x"}})
