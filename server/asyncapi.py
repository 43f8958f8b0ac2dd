"""The AsyncAPI 3.0 document of the realtime protocol, made from the catalogue of events and the table of commands.

The frames of the WebSocket, the events of the SSE stream and the entries of a poll are one envelope.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from domain.log import TopicKind
from domain.resources import Message
from handlers.commands import Command
from handlers.endpoint import API
from handlers.schemas.commands import ExpiresIn, SendMessage
from handlers.schemas.common import ReplyProblem
from realtime.events import CATALOGUE, LIVE_ONLY, group_of
from realtime.live import PresenceStatus, PresenceStatuses, TypingChanged

Json = dict[str, Any]

REF = "#/components/schemas/{model}"

ABOUT = """A session is a cursor into one log. Every durable event has a cursor of its own; whoever comes back with it,
on any of the three transports (the third, long polling, is in the OpenAPI document) and any instance, goes on right
after it, without a gap or a repeat. Live-only events have `"cursor": null`. A heartbeat's cursor says how far
everything has been given.

Sign in with `Authorization: Bearer`, with a ticket of `POST /api/v1/realtime/tickets` as `?ticket=`, or with the
cookie that comes with one."""

LIVE_DATA: Mapping[str, type[BaseModel]] = {
    "typing.started": TypingChanged,
    "typing.stopped": TypingChanged,
    "presence.changed": PresenceStatus,
}
REPLIES: Mapping[str, type[BaseModel]] = {
    "message.send": Message,
    "message.edit": Message,
    "presence.subscribe": PresenceStatuses,
    "auth.refresh": ExpiresIn,
}
"""What a reply's ``data`` holds; of commands that are not here, nothing."""

CURSOR: Json = {"type": "string", "description": "A place in the log; opaque."}


def build(commands: Mapping[str, Command[Any]]) -> Json:
    """The document. ``message.send`` is added to the commands: it is carried out apart from the others."""
    ops: dict[str, type[BaseModel]] = {
        "message.send": SendMessage,
        **{op: command.data for op, command in commands.items()},
    }
    schemas, refs = _schemas(ops)
    sent = {**_events(refs), **_controls(refs), **_replies(ops, refs)}
    taken = dict(_commands(ops, refs))
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Parley, realtime", "version": "1", "description": ABOUT},
        "defaultContentType": "application/json",
        "channels": _channels(sent, taken),
        "operations": _operations(sent, taken),
        "components": {"messages": {**sent, **taken}, "schemas": schemas},
    }


def _schemas(ops: Mapping[str, type[BaseModel]]) -> tuple[Json, dict[type[BaseModel], Json]]:
    given: list[type[BaseModel]] = [model for model, _ in CATALOGUE.values()]
    given += [*LIVE_DATA.values(), *REPLIES.values(), ReplyProblem]
    wanted: list[tuple[type[BaseModel], Any]] = [(model, "serialization") for model in dict.fromkeys(given)]
    wanted += [(model, "validation") for model in dict.fromkeys(ops.values())]
    refs, definitions = models_json_schema(wanted, ref_template=REF)
    return definitions.get("$defs", {}), {model: refs[model, mode] for model, mode in wanted}


def _events(refs: Mapping[type[BaseModel], Json]) -> Json:
    """One message for each event type, in its envelope."""
    models = {type_: model for type_, (model, _) in CATALOGUE.items()} | dict(LIVE_DATA)
    return {_name(type_): _event(type_, refs[model]) for type_, model in models.items()}


def _event(type_: str, data: Json) -> Json:
    live = type_ in LIVE_ONLY
    return {
        "name": type_,
        "title": type_,
        "summary": f"Given where `topics` takes in `{LIVE_ONLY[type_] if live else group_of(type_)}`."
        + (" Live only: no cursor, never replayed." if live else ""),
        "payload": _object(
            cursor={"type": "null"} if live else CURSOR,
            type={"const": type_},
            topic=_object(
                kind={"enum": [kind.label for kind in TopicKind]}, id={"type": "string", "format": "uuid"}
            ),
            at={"type": "string", "format": "date-time"},
            data=data,
        ),
    }


def _controls(refs: Mapping[type[BaseModel], Json]) -> Json:
    """What tells of the connection itself."""
    milliseconds = {"type": "integer", "minimum": 0}
    seconds = {"type": "integer", "minimum": 0}
    frames = {
        "hello": (
            "The first frame: where this session begins.",
            {
                "cursor": CURSOR,
                "session_id": {"type": "string"},
                "user_id": {"type": "string", "format": "uuid"},
                "heartbeat_seconds": {"type": "number"},
            },
        ),
        "heartbeat": ("Everything up to this cursor has been given.", {"cursor": CURSOR}),
        "resync": (
            "The cursor given could not be used: read everything anew, and go on from this one.",
            {
                "reason": {"enum": ["cursor_expired", "epoch_changed", "cursor_invalid"]},
                "cursor": CURSOR,
            },
        ),
        "token.expiring": ("The access token ends soon: send `auth.refresh`.", {"expires_in": seconds}),
        "drain": ("SSE only: this instance is leaving.", {"reconnect_after_ms": milliseconds}),
    }
    told = {
        _name(type_): {
            "name": type_,
            "title": type_,
            "summary": summary,
            "payload": _object(type={"const": type_}, **fields),
        }
        for type_, (summary, fields) in frames.items()
    }
    told["ErrorReply"] = {
        "name": "reply",
        "title": "A command that failed, or a frame that is none",
        "payload": _object(
            type={"const": "reply"},
            id={"type": ["string", "null"], "description": "The command's own; null where it has none."},
            ok={"const": False},
            error=refs[ReplyProblem],
        ),
    }
    return told


def _commands(
    ops: Mapping[str, type[BaseModel]], refs: Mapping[type[BaseModel], Json]
) -> Iterator[tuple[str, Json]]:
    for op, model in ops.items():
        payload = _object(
            id={"type": "string", "description": "Comes back with the reply."}, op={"const": op}
        )
        payload["properties"]["data"] = refs[model]
        if any(field.is_required() for field in model.model_fields.values()):
            payload["required"].append("data")
        yield f"{_name(op)}Command", {"name": op, "title": op, "payload": payload}


def _replies(ops: Mapping[str, type[BaseModel]], refs: Mapping[type[BaseModel], Json]) -> Json:
    """One reply for each command that carried out."""
    nothing: Json = {"type": "object", "maxProperties": 0}
    return {
        f"{_name(op)}Reply": {
            "name": "reply",
            "title": f"{op}: done",
            "payload": _object(
                type={"const": "reply"},
                id={"type": "string"},
                ok={"const": True},
                data=refs[REPLIES[op]] if op in REPLIES else nothing,
            ),
        }
        for op in ops
    }


def _channels(sent: Iterable[str], taken: Iterable[str]) -> Json:
    on_streams = [name for name in sent if not name.endswith("Reply")]
    return {
        "websocket": {
            "address": f"{API}/realtime/ws",
            "title": "WebSocket",
            "description": "Subprotocol `parley.v1`. One envelope, reply or control object in each text frame.",
            "messages": _references([*sent, *taken]),
            "bindings": {"ws": {"method": "GET", "query": _query(), "bindingVersion": "0.1.0"}},
        },
        "sse": {
            "address": f"{API}/realtime/sse",
            "title": "Server-Sent Events",
            "description": "`id:` is the cursor, `event:` the type, `data:` this object in one line.",
            "messages": _references(on_streams),
            "bindings": {"http": {"bindingVersion": "0.3.0"}},
        },
    }


def _query() -> Json:
    return {
        "type": "object",
        "properties": {
            "cursor": CURSOR,
            "topics": {"type": "string", "default": "all"},
            "ticket": {"type": "string"},
        },
    }


def _operations(sent: Iterable[str], taken: Iterable[str]) -> Json:
    """Seen from the server: it receives commands, and sends all else."""
    operations: Json = {
        "pushEvents": _operation("send", "websocket", (n for n in sent if not n.endswith("Reply"))),
        "streamEvents": _operation("send", "sse", (n for n in sent if not n.endswith("Reply"))),
    }
    for name in taken:
        base = name.removesuffix("Command")
        operations[f"take{base}"] = {
            **_operation("receive", "websocket", [name]),
            "reply": {
                "channel": {"$ref": "#/channels/websocket"},
                "messages": [
                    {"$ref": f"#/channels/websocket/messages/{reply}"}
                    for reply in (f"{base}Reply", "ErrorReply")
                ],
            },
        }
    return operations


def _operation(action: str, channel: str, names: Iterable[str]) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
    }


def _references(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _object(**fields: Json) -> Json:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _name(type_: str) -> str:
    """``message.created`` as ``MessageCreated``: names in the document hold no dots."""
    return "".join(part.capitalize() for part in type_.replace("_", ".").split("."))
