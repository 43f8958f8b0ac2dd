"""Bytes that many sessions are sent, made once."""

from __future__ import annotations

from collections.abc import Sequence

from realtime.codec import WS_PING, Wire, encode_cursor, frame
from realtime.events import Chunk, encode_events


class SharedBytes:
    """Nothing in here belongs to one receiver, so whoever needs the same bytes shares them."""

    MOST_BEATS = 100

    def __init__(self) -> None:
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

    def new_log(self) -> None:
        """Positions mean something else from now on."""
        self._beats.clear()
