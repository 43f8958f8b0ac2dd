"""Cursors and tickets that nobody was given: a resync, a 422 or a 401 as the contract says, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import json
import string
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from realtime.codec import decode_cursor, encode_cursor
from tests.property.conftest import Served
from tests.support import fuzzing
from tests.support.clients import SECONDS, Person, Stream
from tests.support.raw import RawSocket, RawWebSocket, raw_ws, upgrade_headers

Json = dict[str, Any]
U64 = st.integers(0, 2**64 - 1)
BASE64 = string.ascii_letters + string.digits + "-_"
PLACE = "PLACE"
"""Stands for a cursor that was given out, in what is made of one before any is there."""

few = settings(
    max_examples=fuzzing.EXAMPLES or 60,
    deadline=None,
    derandomize=not fuzzing.EXAMPLES,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.timeout(180 + fuzzing.EXAMPLES * 2)]


class Spoiled:
    """What becomes of a good token when something happens to it on the way."""

    def __init__(self, name: str, at: int, text: str) -> None:
        self.name, self.at, self.text = name, at, text

    def of(self, good: str) -> str:
        at = self.at % len(good)
        return {
            "cut": good[:at],
            "shortened": good[at:] if at else good[1:],
            "longer": good[:at] + self.text + good[at:],
            "changed": good[:at] + (self.text or "x")[0] + good[at + 1 :],
            "swapped": good.swapcase(),
            "twice": good + good,
            "flipped": flipped(good, self.at),
        }[self.name]

    def __repr__(self) -> str:
        return f"Spoiled({self.name!r}, {self.at}, {self.text!r})"


def flipped(good: str, at: int) -> str:
    raw = bytearray(base64.urlsafe_b64decode(good + "=" * (-len(good) % 4)))
    raw[at // 8 % len(raw)] ^= 1 << at % 8
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
SPOILED = st.builds(
    Spoiled,
    st.sampled_from(["cut", "shortened", "longer", "changed", "swapped", "twice", "flipped"]),
    st.integers(0, 400),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=3),
)
INVENTED = (
    TEXT
    | st.text(BASE64, min_size=26, max_size=26)
    | st.sampled_from(
        ["", "-1", "0", "null", "\x00", "a" * 3000, "../..", "%", "=" * 26, "\ufeff", "AQ" * 13]
    )
    | st.builds(encode_cursor, U64, U64)
)
PLACES = SPOILED | INVENTED | st.integers(-3, 2**62)
"""A number: so far from the place that was given out, in its own log."""


@pytest.fixture(scope="module")
def ann(served: Served) -> Person:
    return served.loop.run(served.api.register())


@pytest.fixture(scope="module")
def good(served: Served, ann: Person) -> str:
    """Where the log ends: nothing more happens in it."""

    async def end() -> str:
        await ann.say(await ann.group_with(), "hello")
        before, cursor = "", (await ann.poll())["cursor"]
        while before != cursor:
            answer = await ann.poll(cursor)
            before, cursor = cursor, answer["cursor"]
        return str(cursor)

    return served.loop.run(end())


def text_of(place: Spoiled | str | int, good: str) -> str:
    if isinstance(place, Spoiled):
        return place.of(good)
    if isinstance(place, int):
        known = decode_cursor(good)
        return encode_cursor(known.epoch, max(0, known.position + place))
    return place


def reason_of(text: str, good: str) -> str | None:
    """What the contract says of a cursor; None for a good one. The log is short and all of it is kept."""
    log, end = places(good)
    try:
        epoch, position = places(text)
    except ValueError:
        return "cursor_invalid"
    return "epoch_changed" if epoch != log or position > end else None


def places(text: str) -> tuple[int, int]:
    """Epoch and position: a cursor read by what it is made of, and held against the whole of it."""
    raw = base64.b64decode(text.encode("ascii") + b"==", altchars=b"-_", validate=True)
    epoch, position = int.from_bytes(raw[1:9], "big"), int.from_bytes(raw[9:17], "big")
    if len(text) != 26 or encode_cursor(epoch, position) != text:
        raise ValueError(text)
    return epoch, position


@few
@given(place=PLACES)
@example(place=1)
@example(place=0)
@example(place=-1)
@example(place=Spoiled("flipped", 0, ""))
def test_a_poll_with_any_cursor_is_an_answer_or_a_resync_with_its_reason(
    served: Served, ann: Person, good: str, place: Spoiled | str | int
) -> None:
    text = text_of(place, good)
    answer = served.loop.run(ann.poll(text, wait=0))
    reason = reason_of(text, good) if text else None
    resyncs = [event for event in answer["events"] if event["type"] == "resync"]
    if reason is None:
        assert not resyncs, text
    else:
        assert resyncs == answer["events"], text
        assert [event["reason"] for event in resyncs] == [reason], text
        assert resyncs[0]["cursor"] == answer["cursor"] == good


@few
@given(place=PLACES, by_header=st.booleans())
def test_a_stream_with_any_cursor_begins_with_hello_and_its_resync(
    served: Served, ann: Person, good: str, place: Spoiled | str | int, by_header: bool
) -> None:
    text = text_of(place, good)
    if by_header and not (text.isprintable() and text == text.strip()):
        return  # no client can send it as a header

    async def begin() -> list[Json]:
        headers = {"Authorization": f"Bearer {ann.token}"}
        if by_header:
            headers["Last-Event-ID"] = text
        url = f"{ann.api.url}/api/v1/realtime/sse?topics=notifications"
        async with ann.api.http.get(
            url, headers=headers, params={} if by_header else {"cursor": text}
        ) as response:
            assert response.status == 200
            stream = Stream(response)
            hello = (await stream.receive()).json
            wanted = reason_of(text, good) if text else None
            return [hello] if wanted is None else [hello, (await stream.receive()).json]

    hello, *resync = served.loop.run(begin())
    assert hello["type"] == "hello"
    for frame in resync:
        assert (frame["type"], frame["reason"]) == ("resync", reason_of(text, good))


@few
@given(place=PLACES)
def test_a_socket_with_any_cursor_begins_with_hello_and_its_resync(
    served: Served, ann: Person, good: str, place: Spoiled | str | int
) -> None:
    text = text_of(place, good)

    async def begin() -> list[Json]:
        async with raw_ws(ann, f"?topics=notifications&cursor={quote(text, safe='')}") as raw:
            first = await raw.receive()
            wanted = reason_of(text, good) if text else None
            return [first] if wanted is None else [first, await raw.receive()]

    hello, *resync = served.loop.run(begin())
    assert hello["type"] == "hello"
    for frame in resync:
        assert (frame["type"], frame["reason"]) == ("resync", reason_of(text, good))


ODD = [
    b"%", b"%zz", b"%00", b"%ff", b"%ed%a0%80", b"%C0%AF", b"%2", b"%26", b"%0d%0a", b"+", b"&", b"=", b";", b"#", b"?",
    b"A", b"\xff", b"\xc3\xbc", b"cursor=", b"\t", b"'\"<>",
]  # fmt: skip
WIRE = st.lists(st.sampled_from(ODD), min_size=1, max_size=8).map(b"".join)
TRANSPORTS = st.sampled_from(["poll", "sse", "ws"])


@few
@given(transport=TRANSPORTS, query=WIRE, header=WIRE)
def test_a_query_and_a_header_in_any_bytes_are_answered(
    served: Served, ann: Person, transport: str, query: bytes, header: bytes
) -> None:
    """Bytes on the wire, not what a library makes of them: 2xx, 101, or a 4xx that is a problem."""

    async def ask() -> tuple[int, str]:
        raw = await (RawWebSocket if transport == "ws" else RawSocket).to(ann.api.url)
        try:
            head = {"Host": urlsplit(ann.api.url).netloc, "Authorization": f"Bearer {ann.token}"}
            head |= upgrade_headers(ann) if transport == "ws" else {"Connection": "close"}
            lines = [f"{name}: {value}".encode() for name, value in head.items()]
            first = b"GET /api/v1/realtime/%b?wait=0&cursor=%b HTTP/1.1" % (transport.encode(), query)
            await raw.write(b"\r\n".join([first, *lines, b"Last-Event-ID: " + header, b"", b""]))
            return await raw.answer()
        finally:
            raw.close()

    status, head = served.loop.run(ask())
    assert status in (200, 101, 400, 422), head
    if status >= 400:
        assert "application/problem+json" in head


NUMBERS = st.integers(-(2**70), 2**70) | st.sampled_from([0, -1, 2**63 - 1, 2**63, 253402300800000000])
INNER = NUMBERS | st.none() | st.booleans() | st.floats() | TEXT | st.uuids().map(str)
PAGES = INVENTED | SPOILED | st.lists(INNER, max_size=3).map(
    lambda values: base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")
)  # fmt: skip
LISTS = ["/users", "/blocks", "/conversations", "/auth/sessions", "/conversations/{conversation_id}/members"]


@pytest.fixture(scope="module")
def pages(served: Served, ann: Person) -> dict[str, str]:
    """A good cursor of each list."""

    async def make() -> dict[str, str]:
        others = [await served.api.register() for _ in range(4)]
        group = await ann.group_with(*others)
        await ann.group_with()
        for other in others[:2]:
            await ann.call("PUT", f"/users/{other.id}/block", expect=204)
        await ann.sign_in()
        paths = [path.replace("{conversation_id}", group) for path in LISTS]
        cursors = {path: (await ann.get(f"{path}?limit=1"))["next_cursor"] for path in paths}
        assert all(cursors.values())
        return cursors

    return served.loop.run(make())


@few
@given(number=st.integers(0, len(LISTS) - 1), cursor=PAGES)
@example(number=1, cursor=base64.urlsafe_b64encode(b"[9223372036854775807,1]").decode())
def test_a_page_of_any_cursor_is_a_page_or_422(
    served: Served, ann: Person, pages: dict[str, str], number: int, cursor: Spoiled | str
) -> None:
    path, known = [*pages.items()][number]
    text = cursor if isinstance(cursor, str) else cursor.of(known)
    answer = served.loop.run(ann.call("GET", path, params={"cursor": text}))
    assert answer.status in (200, 422)
    if answer.status == 422:
        assert [error["pointer"] for error in answer.json["errors"]] == ["cursor"]


@few
@given(ticket=INVENTED | SPOILED, transport=TRANSPORTS)
def test_no_ticket_that_was_not_given_out_lets_anybody_in(
    served: Served, ann: Person, ticket: Spoiled | str, transport: str
) -> None:
    async def ask() -> int:
        given = (await ann.post("/realtime/tickets"))["ticket"] if isinstance(ticket, Spoiled) else ""
        text = ticket.of(given) if isinstance(ticket, Spoiled) else ticket
        if isinstance(ticket, Spoiled) and text == given:
            return 401
        async with asyncio.timeout(SECONDS):
            async with ann.api.http.get(
                f"{ann.api.url}/api/v1/realtime/{transport}", params={"ticket": text, "wait": "0"}
            ) as response:
                assert response.content_type == "application/problem+json"
                return response.status

    assert served.loop.run(ask()) == 401
