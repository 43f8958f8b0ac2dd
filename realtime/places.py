"""Where a session starts: from the cursor a client presents to a place in the log, or to a resync."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from realtime.codec import Cursor, CursorInvalid, decode_cursor, encode_cursor
from realtime.log import LogReader

if TYPE_CHECKING:
    from realtime.hub import Hub


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session starts: at ``position``, after a resync where ``resync`` names a reason."""

    epoch: int
    position: int
    presented: str
    resync: str | None = None


class NotFresh(Exception):
    """The log cannot be read now, so no session can begin."""


class PlaceMetrics(Protocol):
    """What finding places counts."""

    def resynced(self, reason: str) -> None: ...


class Places:
    """Finds the place a cursor stands for."""

    def __init__(self, hub: Hub, reader: LogReader, metrics: PlaceMetrics) -> None:
        self._hub = hub
        self._reader = reader
        self._metrics = metrics

    async def find(self, presented: str | None) -> Place:
        """Where a session with that cursor starts. Raises :class:`NotFresh` where the log cannot be read now."""
        place = await self._find(presented)
        if place.resync is not None:
            self._metrics.resynced(place.resync)
        return place

    def find_at_once(self, presented: str) -> int | None:
        """The position of a good cursor, where nothing has to be waited for; None where :meth:`find` has to say."""
        hub = self._hub
        if hub.position < self._reader.offered or not hub.fresh:
            return None
        try:
            cursor = hub.shared.cursor(presented)
        except CursorInvalid:
            return None
        if cursor.epoch != hub.epoch or not hub.floor <= cursor.position <= hub.position:
            return None
        return cursor.position

    async def _find(self, presented: str | None) -> Place:
        hub = self._hub
        await hub.be_fresh()
        await hub.reached(self._reader.offered, 0.5)
        if presented is None:
            return self._now()
        try:
            cursor = decode_cursor(presented)
        except CursorInvalid:
            return self._now("cursor_invalid")
        if cursor.epoch == hub.epoch and cursor.position > hub.position:
            await self._reach(cursor)
        if cursor.epoch != hub.epoch or cursor.position > hub.position:
            return self._now("epoch_changed")
        if cursor.position < hub.floor:
            return self._now("cursor_expired")
        return Place(hub.epoch, cursor.position, presented)

    def _now(self, resync: str | None = None) -> Place:
        hub = self._hub
        return Place(hub.epoch, hub.position, encode_cursor(hub.epoch, hub.position), resync)

    async def _reach(self, cursor: Cursor) -> None:
        """A cursor from an instance that is a moment ahead of this one is good; wait for what it has seen."""
        try:
            there = await self._reader.confirm(cursor.position)
        except Exception as error:
            raise NotFresh from error
        if there and not await self._hub.reached(cursor.position, 2.0):
            raise NotFresh

    def holds(self, place: Place) -> bool:
        """Whether a place found a moment ago is one of this log: it may have been replaced since."""
        return place.epoch == self._hub.epoch and place.position <= self._hub.position
