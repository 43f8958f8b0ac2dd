"""S7's judge: what one session that came back was given, against what it had missed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.checker import SequenceChecker, WrongError
from bench.dialects import number_of
from bench.frames import data_payloads
from realtime.codec import decode_cursor

_HEAD_END = b"\r\n\r\n"
_HELLO = re.compile(rb'\{"type":"hello","cursor":"([^"]+)"')
_EVENT = re.compile(
    rb'\{"cursor":"([^"]+)","type":"message\.created","topic":\{"kind":"conversation","id":"([^"]+)"\}'
)
_SEQ = re.compile(rb'"seq":(\d+)')
_PER_CONVERSATION = 1000


@dataclass(frozen=True, slots=True)
class Missed:
    """Messages said while nobody was there: in each conversation those from `first_seq` to `last_seq`.

    `numbers` gives each conversation, by its id, a number of its own, which the bodies of its messages tell.
    """

    first_seq: int
    last_seq: int
    numbers: Mapping[bytes, int] = field(repr=False)

    def number(self, conversation: bytes, seq: int) -> int:
        """The number in the body of a message."""
        return self.numbers[conversation] * _PER_CONVERSATION + seq


def greeting(name: str, received: bytes) -> tuple[str, list[bytes]]:
    """The cursor a connection was greeted with, and the payloads behind the greeting. Raises WrongError."""
    end = received.find(_HEAD_END)
    if not received.startswith(b"HTTP/1.1 101 ") or end < 0:
        raise WrongError(f"{name}: not let in: {received[:300]!r}")
    frames = received[end + len(_HEAD_END) :]
    payloads, consumed = data_payloads(frames, len(frames))
    if consumed != len(frames):
        raise WrongError(f"{name}: the last frame is not whole: {frames[consumed:][:100]!r}")
    found = _HELLO.match(payloads[0]) if payloads else None
    if found is None:
        raise WrongError(f"{name}: not greeted: {frames[:300]!r}")
    return found[1].decode(), payloads[1:]


class Judge:
    """Reads all that sessions were given."""

    def __init__(self, missed: Missed) -> None:
        self._missed = missed
        self._positions: dict[bytes, int] = {}  # the same events are given to many

    def resumed(self, name: str, received: bytes, cursor: str, conversations: Sequence[bytes]) -> int:
        """How many events a session was given that came back with `cursor`.

        Raises WrongError unless that was everything it had missed in `conversations`, each message once, by position
        and in each conversation by `seq`, and nothing else.
        """
        greeted, payloads = greeting(name, received)
        if greeted != cursor:
            raise WrongError(f"{name}: greeted with {greeted} after asking for {cursor}")
        missed = self._missed
        seen = {each: SequenceChecker(f"{name} in {each.decode()}") for each in conversations}
        before = self._position(cursor.encode())
        for payload in payloads:
            found, seq = _EVENT.match(payload), _SEQ.search(payload)
            if found is None or seq is None or found[2] not in seen:
                raise WrongError(f"{name}: no message of a conversation of theirs: {payload!r}")
            position = self._position(found[1])
            if position <= before:
                raise WrongError(f"{name}: position {position} came after {before} (doubled or reordered)")
            before = position
            checker, number = seen[found[2]], int(seq[1])
            if checker.first is None and number != missed.first_seq:
                raise WrongError(f"{name}: begins with seq {number}, not {missed.first_seq}")
            checker.see(number)
            if number_of(payload) != missed.number(found[2], number):
                raise WrongError(f"{name}: seq {number} is another message: {payload!r}")
        for checker in seen.values():
            checker.finish(missed.last_seq - missed.first_seq + 1)
        return len(payloads)

    def _position(self, cursor: bytes) -> int:
        known = self._positions.get(cursor)
        if known is None:
            known = self._positions[cursor] = decode_cursor(cursor.decode()).position
        return known
