"""Bytes that many sessions are sent, made once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from realtime.codec import WS_PING, Cursor, Wire, decode_cursor, encode_cursor, frame
from realtime.events import Chunk, Event, encode_events


class SharedBytes:
    """Nothing in here belongs to one receiver, so whoever needs the same bytes shares them."""

    MOST_BEATS = 100
    MOST_ANSWERS = 100
    MOST_CURSORS = 100
    MOST_IN_ANSWER = 16  # events, for an answer to be kept

    def __init__(self) -> None:
        self._answers: dict[tuple[int, ...], bytes] = {}
        self._cursors: dict[str, Cursor] = {}
        self._joined: dict[tuple[int | str, ...], tuple[Sequence[Chunk], bytes]] = {}
        self._beats: dict[tuple[Wire, int], bytes] = {}

    def joined(self, chunks: Sequence[Chunk], wire: Wire) -> bytes:
        """Chunks as one run of bytes in the order of the log; sessions with the same chunks share it."""
        if len(chunks) == 1:
            return chunks[0].encoded(wire)
        key = (wire, *map(id, chunks))
        known = self._joined.get(key)
        if known is None:
            events = sorted((e for chunk in chunks for e in chunk.events), key=lambda e: e.position)
            # Kept with the chunks: an id is good for as long as its object lives.
            known = self._joined[key] = tuple(chunks), encode_events(events, wire)
        return known[1]

    def cursor(self, text: str) -> Cursor:
        """As :func:`decode_cursor`. Who was answered together asks together: each cursor is looked at once."""
        known = self._cursors.get(text)
        if known is None:
            if len(self._cursors) >= self.MOST_CURSORS:
                self._cursors.clear()
            known = self._cursors[text] = decode_cursor(text)
        return known

    def answer(self, epoch: int, events: Sequence[Event], reached: int, more: bool) -> bytes:
        """The answer to a poll; those that waited for the same events share it, in this turn of the loop.

        For events as memory holds them now: a text that was withdrawn is gone from there, and from here. Copies that
        were made before some wait may still have it: :func:`encode_answer` is for those.
        """
        if len(events) > self.MOST_IN_ANSWER:
            return encode_answer(epoch, events, reached, more)
        key = (epoch, reached, more, *[event.position for event in events])
        known = self._answers.get(key)
        if known is None:
            if not self._answers:
                asyncio.get_running_loop().call_soon(self._answers.clear)
            elif len(self._answers) >= self.MOST_ANSWERS:
                self._answers.clear()
            known = self._answers[key] = encode_answer(epoch, events, reached, more)
        return known

    def heartbeat(self, epoch: int, position: int, wire: Wire) -> bytes:
        """A heartbeat at that place, with a protocol ping where the wire has one."""
        data = self._beats.get((wire, position))
        if data is None:
            cursor = encode_cursor(epoch, position)
            data = frame(wire, b'{"type":"heartbeat","cursor":"%b"}' % cursor.encode(), "heartbeat", cursor)
            if wire == "ws":
                data += WS_PING
            if len(self._beats) > self.MOST_BEATS:
                self._beats.clear()
            self._beats[wire, position] = data
        return data

    def __len__(self) -> int:
        """How many joined runs are kept right now."""
        return len(self._joined)

    def written(self) -> None:
        """This turn's events are written, or must not be written as they were joined."""
        self._joined.clear()
        self._answers.clear()

    def new_log(self) -> None:
        """Positions mean something else from now on."""
        self._beats.clear()
        self._answers.clear()


def encode_answer(epoch: int, events: Sequence[Event], reached: int, more: bool) -> bytes:
    """Events in the order given as the answer to a poll, with the cursor to go on from."""
    return b'{"events":[%b],"cursor":"%b","more":%b}' % (
        b",".join([e.envelope for e in events]),
        encode_cursor(epoch, reached).encode(),
        b"true" if more else b"false",
    )
