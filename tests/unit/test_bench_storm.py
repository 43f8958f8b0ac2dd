"""S7's judge must notice whatever a session that came back was not given, was given twice, or was given wrongly."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from bench.checker import WrongError
from bench.dialects import body
from bench.resumed import Judge, Missed, greeting
from bench.statements import statements_in
from domain.ids import ConversationId, new_id
from domain.log import conversation_topic
from realtime.codec import WS_PING, encode_cursor, encode_envelope, ws_frame

ONE, OTHER, FOREIGN = (ConversationId(new_id()) for _ in range(3))
NAMES = {name: str(name).encode() for name in (ONE, OTHER, FOREIGN)}
MISSED = Missed(2, 4, {NAMES[ONE]: 0, NAMES[OTHER]: 1, NAMES[FOREIGN]: 2})
CURSOR = encode_cursor(1, 10)
HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def hello(cursor: str = CURSOR) -> bytes:
    return ws_frame(b'{"type":"hello","cursor":"%b","heartbeat_seconds":25}' % cursor.encode())


def message(position: int, conversation: ConversationId, seq: int, number: int | None = None) -> bytes:
    if number is None:
        number = MISSED.number(NAMES[conversation], seq)
    return ws_frame(
        encode_envelope(
            encode_cursor(1, position),
            "message.created",
            conversation_topic(conversation),
            datetime.now(UTC),
            b'{"seq":%d,"body":"%b"}' % (seq, body(number)),
        )
    )


def whole() -> list[bytes]:
    return [message(11 + n, (ONE, OTHER)[n % 2], 2 + n // 2) for n in range(6)]


def judged(*frames: bytes, greeted: bytes | None = None) -> int:
    received = HEAD + (hello() if greeted is None else greeted) + b"".join(frames)
    return Judge(MISSED).resumed("Ann", received, CURSOR, [NAMES[ONE], NAMES[OTHER]])


def test_who_was_given_all_that_was_missed_passes() -> None:
    assert judged(*whole()) == 6
    assert judged(WS_PING, *whole(), WS_PING) == 6


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frames: frames[1:],
        lambda frames: frames[:-1],
        lambda frames: frames[:2] + frames[3:],
        lambda frames: [],
        lambda frames: [*frames, frames[-1]],
        lambda frames: [frames[0], *frames],
        lambda frames: [frames[1], frames[0], *frames[2:]],
        lambda frames: [*frames, message(99, ONE, 5)],
        lambda frames: [*frames, message(99, FOREIGN, 2)],
        lambda frames: [message(9, ONE, 2), *frames[1:]],
        lambda frames: [message(11, ONE, 2, number=77), *frames[1:]],
        lambda frames: [ws_frame(b'{"type":"resync","reason":"cursor_expired","cursor":"x"}'), *frames],
        lambda frames: [*frames, frames[-1][:-1]],
    ],
    ids=[
        "first",
        "last",
        "middle",
        "everything",
        "twice",
        "first-twice",
        "swapped",
        "more",
        "foreign",
        "before",
        "other-text",
        "resync",
        "cut",
    ],
)
def test_anything_else_is_told(spoil: Callable[[list[bytes]], list[bytes]]) -> None:
    with pytest.raises(WrongError, match="Ann"):
        judged(*spoil(whole()))


@pytest.mark.parametrize("greeted", [b"", hello(encode_cursor(1, 11)), WS_PING])
def test_another_greeting_is_told(greeted: bytes) -> None:
    with pytest.raises(WrongError, match="Ann"):
        judged(*whole(), greeted=greeted)


def test_who_was_not_let_in_was_not_greeted() -> None:
    with pytest.raises(WrongError, match="not let in"):
        greeting("Ann", b"HTTP/1.1 503 Service Unavailable\r\n\r\n" + hello())


def test_statements_are_counted_whole_however_they_were_sent() -> None:
    log = (
        "2026-01-01 00:00:00.000 UTC [77] LOG:  execute __asyncpg_stmt_1__: \n"
        "\tSELECT 1\n"
        "\tFROM t\n"
        "2026-01-01 00:00:00.001 UTC [77] LOG:  statement: BEGIN;\n"
        "2026-01-01 00:00:00.002 UTC [78] LOG:  execute <unnamed>: SELECT 1 FROM t\n"
        "2026-01-01 00:00:00.003 UTC [78] LOG:  checkpoint starting: time\n"
        "2026-01-01 00:00:00.004 UTC [78] ERROR:  deadlock detected\n"
    )
    assert statements_in(log) == {"SELECT 1 FROM t": 2, "BEGIN;": 1}
