"""Frames that no client would send: only what the contract and the standard know comes back, and the server goes on."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from handlers.ops import COMMANDS
from server import asyncapi
from tests.property.conftest import Served
from tests.support import fuzzing
from tests.support.clients import SECONDS, Person
from tests.support.raw import CLOSE, PING, PONG, TEXT, raw_ws
from tests.support.wire import parse_ws

Json = dict[str, Any]
DOCUMENT = asyncapi.build(COMMANDS)
KIB64 = 64 * 1024
MASK = b"\x01\x80\xff\x7f"

few = settings(
    max_examples=fuzzing.EXAMPLES or 40,
    deadline=None,
    derandomize=not fuzzing.EXAMPLES,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.timeout(180 + fuzzing.EXAMPLES * 2)]

CODES = {1000, 1002, 1003, 1007, 1009, 4400}
"""What a connection may be ended with for what its peer sent: the standard's own, and the contract's."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A frame as bytes on the wire, right or wrong. ``size``: the length it claims, where that is not the truth."""

    opcode: int
    payload: bytes = b""
    final: bool = True
    reserved: int = 0
    masked: bool = True
    size: int | None = None
    width: int | None = None

    def encode(self) -> bytes:
        size = len(self.payload) if self.size is None else self.size
        width = self.width or (0 if size < 126 else 2 if size < 1 << 16 else 8)
        head = self.final << 7 | self.reserved << 4 | self.opcode
        flag = {0: size & 0x7F, 2: 126, 8: 127}[width] | self.masked << 7
        length = {0: b"", 2: struct.pack("!H", size & 0xFFFF), 8: struct.pack("!Q", size)}[width]
        if not self.masked:
            return bytes((head, flag)) + length + self.payload
        key = (MASK * (len(self.payload) // 4 + 1))[: len(self.payload)]
        masked = bytes(a ^ b for a, b in zip(self.payload, key, strict=True))
        return bytes((head, flag)) + length + MASK + masked

    def __repr__(self) -> str:
        return f"Raw({self.encode()[:60].hex()} … {len(self.payload)})"


COMMAND = json.dumps({"id": "c", "op": "ping"}).encode()
CLOSES = st.sampled_from(
    [0, 999, 1000, 1001, 1004, 1005, 1006, 1007, 1015, 1016, 2999, 3000, 4400, 4999, 65535]
)
PAYLOADS = (
    st.binary(max_size=130)
    | st.just(COMMAND)
    | st.sampled_from([b"", b"\xff", b"\xc3", b'{"id":"\xed\xa0\x80","op":"ping"}', b"x" * 125, b"x" * 126])
    | st.builds(lambda code, reason: struct.pack("!H", code) + reason, CLOSES, st.binary(max_size=5))
)
FRAMES = st.builds(Raw, st.sampled_from([TEXT, PING, PONG]), PAYLOADS) | st.builds(
    Raw,
    st.integers(0, 15),
    PAYLOADS,
    final=st.booleans(),
    reserved=st.sampled_from([0, 0, 0, 1, 2, 4, 7]),
    masked=st.sampled_from([True, True, False]),
    size=st.sampled_from([None] * 5 + [0, 126, KIB64, KIB64 + 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]),
    width=st.sampled_from([None] * 3 + [2, 8]),
)


@pytest.fixture(scope="module")
def ann(served: Served) -> Person:
    return served.loop.run(served.api.register())


@pytest.fixture(scope="module")
def chat(served: Served, ann: Person) -> str:
    return served.loop.run(ann.group_with())


def ends_within_a_frame(data: bytes) -> bool:
    """Whether more bytes are due behind these (RFC 6455, section 5.2), where no frame before is refused."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            return True
        flag = data[at + 1] & 0x7F
        width = {126: 2, 127: 8}.get(flag, 0)
        size = int.from_bytes(data[at + 2 : at + 2 + width], "big") if width else flag
        at += 2 + width + (4 if data[at + 1] & 0x80 else 0) + size
    return at > len(data)


async def check(person: Person, data: bytes) -> None:
    """Sends these bytes and a goodbye: only what the contract knows comes back, and one goodbye at the end."""
    data += Raw(CLOSE, struct.pack("!H", 1000)).encode()
    async with raw_ws(person) as raw:
        await raw.write(data)
        if unfinished := ends_within_a_frame(data):
            raw.connection.shutdown(socket.SHUT_WR)  # or the server waits for the rest
        frames = [*parse_ws(await raw.to_the_end())]
    if frames and frames[-1][0] == CLOSE:
        payload = frames.pop()[1]
        code = struct.unpack("!H", payload[:2])[0] if payload else 1000
        assert code in CODES, code
    else:
        assert unfinished
    assert {opcode for opcode, _ in frames} <= {TEXT, PING, PONG}
    told = [json.loads(payload) for opcode, payload in frames if opcode == TEXT]
    assert unfinished or told[0]["type"] == "hello"
    for frame in told[1:]:
        hold_against_the_document(frame)


def hold_against_the_document(frame: Json) -> None:
    assert frame["type"] in ("reply", "heartbeat"), frame
    if frame["type"] == "reply" and not frame["ok"]:
        payload = {
            **DOCUMENT["components"]["messages"]["ErrorReply"]["payload"],
            "components": DOCUMENT["components"],
        }
        Draft202012Validator(payload).validate(frame)
        assert 400 <= frame["error"]["status"] < 500, frame


@few
@given(frames=st.lists(FRAMES, min_size=1, max_size=5))
@example(frames=[Raw(TEXT, b"", final=False), Raw(0, COMMAND)])
@example(frames=[Raw(TEXT, b"x", final=False), Raw(PING, b"between"), Raw(0, b"")])
@example(frames=[Raw(TEXT, b"x", size=2**63)])
@example(frames=[Raw(TEXT, b"x", final=False), Raw(0, b"x", size=2**64 - 1)])
@example(frames=[Raw(PING, b"x" * 126)])
@example(frames=[Raw(2, b"closes with 1003"), Raw(3, b"would close with 1002")])
@example(frames=[Raw(CLOSE, b"\x03")])
@example(frames=[Raw(TEXT, COMMAND, reserved=4)])
@example(frames=[Raw(CLOSE, struct.pack("!H", 1000) + b"\xff")])
def test_no_frames_get_more_than_a_reply_or_a_close(served: Served, ann: Person, frames: list[Raw]) -> None:
    served.loop.run(check(ann, b"".join(frame.encode() for frame in frames)))
    assert served.loop.run(replies(ann, ['{"id": "still", "op": "ping"}'])) == [
        {"type": "reply", "id": "still", "ok": True, "data": {}}
    ]


@few
@given(data=st.binary(min_size=1, max_size=200))
def test_no_bytes_behind_an_upgrade_break_anything(served: Served, ann: Person, data: bytes) -> None:
    served.loop.run(check(ann, data))


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([Raw(TEXT, COMMAND, reserved=4)], 1002),
        ([Raw(TEXT, COMMAND, reserved=2)], 1002),
        ([Raw(3, b"")], 1002),
        ([Raw(11, b"")], 1002),
        ([Raw(PING, b"x" * 126)], 1002),
        ([Raw(PING, b"x", final=False)], 1002),
        ([Raw(0, b"x")], 1002),
        ([Raw(TEXT, b"x", final=False), Raw(TEXT, b"x")], 1002),
        ([Raw(CLOSE, b"\x03")], 1002),
        ([Raw(CLOSE, struct.pack("!H", 1005))], 1002),
        ([Raw(CLOSE, struct.pack("!H", 1000) + b"\xff")], 1007),
        ([Raw(TEXT, b"", size=2**63)], 1009),
        ([Raw(TEXT, b"", size=2**63 - 1)], 1009),
        ([Raw(TEXT, b"", size=KIB64 + 1)], 1009),
        ([Raw(2, b"x")], 1003),
        ([Raw(CLOSE, struct.pack("!H", 4321))], 1000),
    ],
)
def test_each_wrong_frame_has_its_close_code(
    served: Served, ann: Person, frames: list[Raw], code: int
) -> None:
    async def work() -> int | None:
        async with raw_ws(ann) as raw:
            await raw.write(b"".join(frame.encode() for frame in frames))
            return (await raw.closed()).code

    assert served.loop.run(work()) == code


NUMBERS = st.integers() | st.floats() | st.sampled_from([2**53, 2**63, 2**64, -(2**63) - 1, 10**400])
TEXTS = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["\ud800", "\udfff\ud800", "\x00", "x" * 5000]
)
SHAPES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
OPS = st.sampled_from([*COMMANDS, "message.send", "", "Ping"])


@st.composite
def commands(draw: st.DrawFn) -> str:
    """A command, or nearly one: with what it asks for, with something else, written in an odd way."""
    here = st.just("CHAT")
    fields: dict[str, st.SearchStrategy[Any]] = {
        "conversation_id": here | SHAPES, "seq": st.just(1) | SHAPES, "body": st.just("x") | SHAPES,
        "client_id": st.uuids().map(str) | SHAPES, "emoji": st.just("👍") | SHAPES, "cursor": TEXTS | SHAPES,
        "user_ids": st.lists(st.uuids().map(str), max_size=3) | SHAPES, "access_token": TEXTS | SHAPES,
        "reply_to_seq": st.just(1) | SHAPES, "attachments": SHAPES,
    }  # fmt: skip
    names = draw(st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True))
    data = {name: draw(fields[name]) for name in names}
    frame = {
        "id": draw(TEXTS | st.just("c")),
        "op": draw(OPS),
        "data": draw(st.just(data) | st.just(data) | SHAPES),
    }
    text = json.dumps(frame, ensure_ascii=True)
    odd = draw(st.integers(0, 9))
    if odd == 0:
        return json.dumps(draw(SHAPES))
    if odd == 1:
        return text[: draw(st.integers(0, len(text)))]
    if odd == 2:  # twice the same key
        return text[:-1] + f', "op": {json.dumps(draw(OPS))}}}'
    if odd == 3:
        return text.replace('"data": ', '"data": ' + "[" * draw(st.sampled_from([1, 500, 1024, 30_000])), 1)
    return text


async def replies(person: Person, texts: list[str]) -> list[Json]:
    """A reply to each of these, in that order."""
    async with raw_ws(person, "?topics=notifications") as raw:
        assert (await raw.receive())["type"] == "hello"
        for text in texts:
            await raw.send(TEXT, text.encode())
        told: list[Json] = []
        while len(told) < len(texts):
            frame = await raw.receive()
            hold_against_the_document(frame)
            if frame["type"] == "reply":
                told.append(frame)
        return told


@few
@given(texts=st.lists(commands(), min_size=1, max_size=8))
@example(texts=["[" * 60_000])
@example(texts=['{"id":"a","op":"ping","data":' + "[" * 500 + "]" * 500 + "}"])
@example(texts=['{"id":"a","op":"ping","data":' + "[" * 5000 + "]" * 5000 + "}"])
@example(texts=['{"id":"\\ud800","op":"ping"}', '{"id":"a","op":"\\udfff"}'])
@example(texts=['{"id":"a","op":"ping","data":{"\\ud800":1}}'])
@example(texts=['{"id":"a","op":"conversation.read","data":{"conversation_id":"CHAT","seq":1e400}}'])
@example(
    texts=['{"id":"a","op":"conversation.read","data":{"conversation_id":"CHAT","seq":99999999999999999999}}']
)
@example(texts=['{"id":"a","id":"b","op":"dance","op":"ping"}'])
def test_every_text_has_its_reply_and_none_is_the_servers_fault(
    served: Served, ann: Person, chat: str, texts: list[str]
) -> None:
    told = served.loop.run(replies(ann, [text.replace("CHAT", chat) for text in texts]))
    assert len(told) == len(texts)


def test_after_all_that_nobody_is_left_connected(served: Served, ann: Person) -> None:
    """Each connection above is gone from the hub: what is refused must not stay."""

    async def open_connections() -> float:
        text = (await served.api.call("GET", "//metrics")).text
        lines = [
            line
            for line in text.splitlines()
            if line.startswith("parley_connections{") and "websocket" in line
        ]
        assert lines, text[:2000]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    async def work() -> None:
        async with asyncio.timeout(SECONDS):
            while await open_connections():
                pass

    served.loop.run(work())
