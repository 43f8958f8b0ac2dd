"""Telling of committed events: this instance's reader at once, the others by a hint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from domain.log import StoredEvent
from realtime.bus import Bus
from realtime.codec import decode_hint, encode_hint
from realtime.log import LogReader

logger = structlog.get_logger(__name__)

CHANNEL = "log:0"


class HintMetrics(Protocol):
    """What the publisher counts."""

    def hint_received(self) -> None: ...


class LogPublisher:
    """Called after each commit, and only then. Only speed depends on it: what is lost here is read from the log."""

    def __init__(self, reader: LogReader, bus: Bus, metrics: HintMetrics) -> None:
        self._reader = reader
        self._metrics = metrics
        self._bus = bus
        bus.listen(CHANNEL, self._hinted)

    def committed(self, events: Sequence[StoredEvent]) -> None:
        """Takes the events of one commit, dense and in order. Never raises: the commit stands, whoever hears of it."""
        try:
            self._bus.publish(CHANNEL, encode_hint(self._reader.epoch, events))
            self._reader.offer(events)
        except Exception:
            logger.exception("log.untold", events=len(events))
            self._reader.poke()

    def _hinted(self, payload: bytes) -> None:
        self._metrics.hint_received()
        try:
            epoch, events = decode_hint(payload)
        except ValueError:
            self._reader.poke()  # a newer version's hint: the stored log can be read all the same
            return
        if epoch == self._reader.epoch:
            self._reader.offer(events)
        else:
            self._reader.poke()  # from before the log was restored, or somebody knows of that sooner than we do
