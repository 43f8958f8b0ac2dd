"""A session: a cursor into the log, moved forward over one transport.

Pushing is only the fast way to read the log. A session that is new, slow or was cut off reads it at its own pace, and
is pushed to again once it has caught up. What it is sent is strictly increasing by position, without a gap in what its
user may see (I2); what waits for it is bounded (I8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import orjson

from domain.ids import SessionId
from realtime.closing import EXPIRED, REVOKED, SILENT, STALLED, Closing, draining
from realtime.codec import Wire, encode_cursor, frame
from realtime.events import Chunk, Event, Group, encode_events

if TYPE_CHECKING:
    from realtime.hub import Hub
    from realtime.views import UserView


class Transport(Protocol):
    """The least a transport can do. No method waits or raises, also on a connection that is gone."""

    wire: Wire

    def write(self, data: bytes) -> int:
        """Sends whole frames or blocks, in the order of the calls; as :meth:`buffered` is after that."""

    def buffered(self) -> int:
        """Bytes the peer's kernel has not taken yet."""

    def close(self, closing: Closing) -> None:
        """Begins to end the connection, telling the peer why. What was written before goes out first."""

    def heard_at(self) -> float | None:
        """When the peer last gave a sign of life, by the hub's clock; None where the transport has no such signs."""


class Follower(Protocol):
    """Whatever a view's events are offered to: a :class:`Session`, or a poll that waits."""

    sign_in: SessionId
    expires_at: float

    def offer(self, chunk: Chunk) -> None: ...

    def push(self, chunk: Chunk) -> None: ...

    def offer_live(self, payload: bytes, type_: str, group: Group) -> bool: ...

    def revoked(self, event: Event, *, late: bool = False) -> None: ...

    def beat(self, now: float, wall: float) -> None: ...

    def drain(self, reconnect_after_ms: int, *, late: bool = False) -> None: ...


class State(Enum):
    LIVE = 1  # pushed to
    BEHIND = 2  # reading the log
    CLOSED = 3


_LIVE = State.LIVE  # looked up for every delivery
_CLOSED = State.CLOSED


class Session:
    """One WebSocket or SSE connection."""

    PAGE = 200  # events a step of catching up
    MOST_QUEUES = (
        5  # of unread bytes, in queues, at which a peer is closed at once: only answers can come to that
    )

    __slots__ = (
        "_bytes",
        "_catching_up",
        "_control",
        "_due",
        "_events",
        "_flushing",
        "_groups",
        "_hub",
        "_live_only",
        "_pending",
        "_position",
        "_warned",
        "expires_at",
        "sign_in",
        "state",
        "transport",
        "view",
    )

    def __init__(
        self,
        hub: Hub,
        view: UserView,
        transport: Transport,
        *,
        sign_in: SessionId,
        expires_at: float,
        groups: frozenset[Group] | None,
        position: int,
    ) -> None:
        self._hub = hub
        self._groups = groups
        self._position = position
        self._pending: list[Chunk] = []
        self._control: list[bytes] = []
        self._live_only: list[bytes] | None = None
        self._bytes = self._events = 0
        self._flushing = False
        self._catching_up = False
        self._due = hub.clock() + hub.heartbeat
        self._warned = False
        self.view = view
        self.transport = transport
        self.sign_in = sign_in
        self.expires_at = expires_at
        self.state = State.BEHIND

    # What the hub calls.

    def offer(self, chunk: Chunk) -> None:
        """Takes events of the batch that is being dispatched. Sent with everything else of this turn of the loop."""
        if self.state is not _LIVE:
            return
        if self._groups is not None:
            kept = chunk.only(self._groups)
            if kept is None:
                return
            chunk = kept
        hub, pending = self._hub, self._pending
        if not pending:
            # Not the chunk's own beginning: another of this batch may begin earlier, where a filter shortened this one.
            self._position = hub.position
        pending.append(chunk)
        self._bytes += chunk.size
        self._events += len(chunk.events)
        if self._bytes > hub.queue_bytes or self._events > hub.queue_events:
            self._fall_behind()
        elif not self._flushing:
            self._flushing = True
            hub.want_flush(self)

    def push(self, chunk: Chunk) -> None:
        """Writes events at once where nothing waits, else takes them as :meth:`offer` does.

        For the events of a batch that is all of one topic, given while the hub is fresh.
        """
        if self.state is _LIVE and not self._pending and not self._flushing and self._groups is None:
            transport = self.transport
            wire = transport.wire
            self._hub.written[wire] += 1
            if transport.write(chunk.encoded(wire)) > self._hub.queue_bytes:
                self._fall_behind(chunk.events[-1].position)
        else:
            self.offer(chunk)

    def offer_live(self, payload: bytes, type_: str, group: Group) -> bool:
        """Takes an event without a position; False where it does not. The first thing to be shed where the peer is
        slow, and never taken while the hub is not fresh (I9)."""
        if self.state is not State.LIVE or not self._hub.fresh:
            return False
        if self._groups is not None and group not in self._groups:
            return False
        if self.transport.buffered() >= self._hub.queue_bytes // 4:
            return False
        if self._live_only is None:
            self._live_only = []
        self._live_only.append(frame(self.transport.wire, payload, type_, None))
        self._want_flush()
        return True

    def send_control(self, payload: bytes, type_: str, cursor: str | None = None) -> None:
        """Queues a frame that is not an event of the log: a reply, a notice. Leaves with this turn's events."""
        if self.state is State.CLOSED:
            return
        self._control.append(frame(self.transport.wire, payload, type_, cursor))
        self._want_flush()

    def _want_flush(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._hub.want_flush(self)

    def flush(self, fresh: bool | None = None) -> None:
        """Writes what was collected in this turn, with one call. Holds events back while the hub is not fresh (I9).

        ``fresh``: whether it is, where that was found out just now for many sessions.
        """
        self._flushing = False
        if self.state is _CLOSED:
            return
        hub, transport = self._hub, self.transport
        if fresh is None:
            fresh = hub.fresh
        data = self._unplaced(fresh) if self._control or self._live_only is not None else b""
        pending = self._pending
        if pending and fresh:
            wire = transport.wire
            events = pending[0].encoded(wire) if len(pending) == 1 else hub.shared.joined(pending, wire)
            hub.written[wire] += len(pending)
            data = data + events if data else events
            self._pending = []
            self._bytes = self._events = 0
        if data:
            buffered = transport.write(data)
            if buffered > hub.queue_bytes:
                self._overflow(buffered)

    def _unplaced(self, fresh: bool) -> bytes:
        """Takes the frames that wait and have no place in the log."""
        data = b"".join(self._control)
        self._control = []
        if self._live_only is not None:
            if fresh:
                data += b"".join(self._live_only)
            self._live_only = None
        return data

    def _overflow(self, buffered: int) -> None:
        """The peer does not take what it is sent."""
        if self.state is _LIVE:
            self._fall_behind()
        if buffered > self.MOST_QUEUES * self._hub.queue_bytes:
            self.close(STALLED)  # it asks and asks, and reads no answer

    def revoked(self, event: Event, *, late: bool = False) -> None:
        """Ends it, after what came before ``event``. ``late``: at once, as that should have been over long ago."""
        if late:
            self._pending = []
        if not self._pending and self.state is not State.CLOSED:
            # It is not next in turn here, so it is told without a place.
            envelope = orjson.loads(event.envelope)
            envelope["cursor"] = None
            self.send_control(orjson.dumps(envelope), event.type)
        self.flush()
        self.close(REVOKED)

    def drain(self, reconnect_after_ms: int, *, late: bool = False) -> None:
        """Sends it away, with what it still had to be given. ``late``: without, as it may have lost the right to it."""
        if late:
            self._pending = []
        self.flush()
        self.close(draining(reconnect_after_ms))

    def beat(self, now: float, wall: float) -> None:
        """What time brings: heartbeats, the token's end, a peer that fell silent."""
        if self.state is State.CLOSED:
            return
        if wall >= self.expires_at:
            self.flush()
            self.close(EXPIRED)
            return
        if not self._warned and self.expires_at - wall <= 60:
            self._warned = True
            self.send_control(
                b'{"type":"token.expiring","expires_in":%d}' % max(0, round(self.expires_at - wall)),
                "token.expiring",
            )
        heard = self.transport.heard_at()
        if heard is not None and now - max(heard, self._hub.listening_since) > 2 * self._hub.heartbeat:
            self.close(SILENT)
            return
        if now < self._due:
            return
        self._due = now + self._hub.heartbeat
        self.flush()
        if self.transport.buffered() <= self._hub.queue_bytes:
            self.transport.write(
                self._hub.shared.heartbeat(self._hub.epoch, self.position, self.transport.wire)
            )

    def close(self, closing: Closing) -> None:
        """Ends the session. Nothing is written after this but the close itself."""
        if self.state is not State.CLOSED:
            self.detach()
            self.transport.close(closing)

    def detach(self) -> None:
        """Forgets the session; the transport is, or will be, gone."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self._pending = []
            self._control = []
            self._hub.detach(self)

    # The cursor.

    @property
    def position(self) -> int:
        """Everything up to here that the user may see has been written to the transport."""
        return self._hub.position if self.state is State.LIVE and not self._pending else self._position

    @property
    def cursor(self) -> str:
        return encode_cursor(self._hub.epoch, self.position)

    def renew(self, sign_in: SessionId, expires_at: float) -> None:
        """A new token, maybe of another sign-in of the same user."""
        self.sign_in = sign_in
        self.expires_at = expires_at
        self._warned = False
        if self._hub.has_ended(sign_in):
            self.close(REVOKED)

    def greet(self, hello: dict[str, object], resync: str | None) -> None:
        """Sends ``hello``, and a resync where the cursor presented is of no use, ahead of everything else."""
        if self.state is State.CLOSED:
            return
        self._control.append(frame(self.transport.wire, orjson.dumps(hello), "hello", str(hello["cursor"])))
        if resync is not None:
            self._control.append(self._resync_frame(resync))

    def _resync_frame(self, reason: str) -> bytes:
        cursor = encode_cursor(self._hub.epoch, self._position)
        payload = orjson.dumps({"type": "resync", "reason": reason, "cursor": cursor})
        return frame(self.transport.wire, payload, "resync", cursor)

    # Catching up.

    def start(self) -> None:
        """Goes live, at once where memory holds all that is missing and it is little: greeting and all in one write."""
        if not (self._behind() and self._step_from_memory()):
            self.flush()
            if self._behind():
                self._begin_to_catch_up()

    def _fall_behind(self, written: int | None = None) -> None:
        """Turns from being pushed to, to reading the log: drops the queue, not the place.

        ``written``: the newest position written, where the hub has not moved there yet.
        """
        if not self._pending:
            self._position = self._hub.position if written is None else written
        self._pending = []
        self._bytes = self._events = 0
        self.state = State.BEHIND
        self._hub.fell_behind()
        self._begin_to_catch_up()

    def _begin_to_catch_up(self) -> None:
        """One task at most: where one is about to end as this is called, it finds the session behind and goes on."""
        if not self._catching_up:
            self._catching_up = True
            self._hub.spawn(self.catch_up())

    def _step_from_memory(self) -> bool:
        """One page from memory, without waiting. True where the session is live now."""
        hub = self._hub
        if not hub.fresh or not hub.replay.in_memory(self._position):
            return False
        events, reached = hub.replay.from_memory(self.view, self._position, hub.position, self.PAGE)
        self._write(events, reached)
        return self._go_live()

    def _write(self, events: Sequence[Event], reached: int) -> None:
        """Writes the events on the way to ``reached``: the first of them, where all are more than a queue holds."""
        if self._groups is not None:
            events = [e for e in events if e.group in self._groups]
        size = 0
        for n, event in enumerate(events, 1):
            size += len(event.ws)
            if size > self._hub.queue_bytes and n < len(events):
                events, reached = events[:n], event.position
                break
        data = self._unplaced(True) if self._control else b""
        if events:
            data += encode_events(events, self.transport.wire)
        if data:
            self.transport.write(data)
        self._position = reached

    def _go_live(self) -> bool:
        if self.state is State.BEHIND and self._position >= self._hub.position:
            self.state = State.LIVE
        return self.state is not State.BEHIND

    async def catch_up(self) -> None:
        """Reads the log at the peer's pace until there is nothing left to read. Ends live or closed."""
        try:
            while self._behind():
                if not await self._drained():
                    self.close(STALLED)
                    return
                await self._hub.until_fresh()
                if self._behind():
                    await self._step()
        except Exception:
            self.close(draining(1000))  # to come back, rather than to stay behind for ever
            raise
        finally:
            self._catching_up = False

    def _behind(self) -> bool:
        return self.state is State.BEHIND

    async def _step(self) -> None:
        """One page, from memory or from the stored log."""
        hub = self._hub
        if self._position < hub.floor:
            self._position = hub.position
            self.transport.write(self._resync_frame("cursor_expired"))
        if hub.replay.in_memory(self._position):
            self._step_from_memory()
            await asyncio.sleep(0)
            return
        try:
            events, reached = await hub.replay.from_store(self.view, self._position, hub.position, self.PAGE)
        except Exception:  # the log cannot be read now; the session keeps its place, and heartbeats go on
            await hub.pause()
            return
        # While it was not fresh, what was read may have been withdrawn: it is read again.
        if self._behind() and hub.fresh:
            self._write(events, reached)
            self._go_live()

    async def _drained(self) -> bool:
        """Waits until the peer has taken most of what was written. False where it takes nothing for two heartbeats."""
        buffered = self.transport.buffered()
        last_progress = self._hub.clock()
        while buffered > self._hub.queue_bytes // 4 and self.state is State.BEHIND:
            await self._hub.pause()
            now_buffered = self.transport.buffered()
            if now_buffered < buffered:
                last_progress = self._hub.clock()
            elif self._hub.clock() - last_progress > 2 * self._hub.heartbeat:
                return False
            buffered = now_buffered
        return True
