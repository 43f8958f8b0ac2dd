"""Who is typing where, as this instance shows it to its sessions.

What is shown ends by itself: the instance that took the last start ends it everywhere, and every other instance ends
what it shows a moment later on its own, should it never hear of the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from domain.ids import ConversationId, UserId
from domain.log import conversation_topic
from realtime.events import LIVE_ONLY
from realtime.live import (
    Channel,
    LiveHub,
    TypingHint,
    TypingType,
    decode_typing,
    encode_typing,
    typing_envelope,
)

logger = structlog.get_logger(__name__)

CHANNEL = "typing"

Typist = tuple[ConversationId, UserId]


@dataclass(frozen=True, slots=True)
class TypingTiming:
    """Seconds. ``lasts``: how long a start is good for. ``every``: starts that follow sooner are not told on.
    ``again``: how often those who see it are told again that it goes on, for those who have come since. ``grace``: how
    much longer another instance shows it. ``step``: how often it is looked at what has ended."""

    lasts: float = 6.0
    every: float = 1.0
    again: float = 3.0
    grace: float = 1.0
    step: float = 0.25


@dataclass(slots=True)
class _Shown:
    ends: float
    own: bool
    """The last start was taken here."""
    hidden: frozenset[UserId]
    told_bus: float
    told_sessions: float


class Typing:
    """Shows, on every instance, that somebody types. Without Redis, on this one only."""

    def __init__(
        self,
        hub: LiveHub,
        bus: Channel,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        timing: TypingTiming | None = None,
    ) -> None:
        self._hub = hub
        self._bus = bus
        self._clock = clock
        self._wall = wall
        self._timing = timing or TypingTiming()
        self._shown: dict[Typist, _Shown] = {}
        bus.listen(CHANNEL, self._heard)

    def shows(self, conversation: ConversationId, user: UserId) -> bool:
        """Whether this instance shows that ``user`` types."""
        return (conversation, user) in self._shown

    def prolong(self, conversation: ConversationId, user: UserId) -> bool:
        """Takes a start that follows soon on one that was taken here. False where it does not: :meth:`start` it."""
        shown = self._shown.get((conversation, user))
        now = self._clock()
        if shown is None or not shown.own or now - shown.told_bus >= self._timing.every:
            return False
        shown.ends = now + self._timing.lasts
        return True

    def start(self, conversation: ConversationId, user: UserId, hidden: frozenset[UserId]) -> None:
        """Shows to every other member, but to those in ``hidden``, that ``user`` types."""
        hint = TypingHint(conversation, user, True, hidden)
        self._show(hint, own=True, seconds=self._timing.lasts)
        self._bus.publish(CHANNEL, encode_typing(hint))

    def stop(self, conversation: ConversationId, user: UserId) -> None:
        """Ends it; nothing where it is not shown. Cheap: called for every message that is sent."""
        if self._unshow(conversation, user):
            self._bus.publish(CHANNEL, encode_typing(TypingHint(conversation, user, False)))

    def gone(self, users: Collection[UserId]) -> None:
        """Ends what users who have no session here any more had started here."""
        self._end([key for key, shown in self._shown.items() if shown.own and key[1] in users])

    def end(self, users: Collection[UserId]) -> None:
        """Ends whatever is shown of these users: who may see it is not the same as before."""
        self._end([key for key in self._shown if key[1] in users])

    def _end(self, typists: Collection[Typist]) -> None:
        for conversation, user in typists:
            self.stop(conversation, user)

    def expire(self) -> None:
        """Ends what has lasted long enough."""
        if not self._hub.fresh:
            return
        now = self._clock()
        for (conversation, user), shown in list(self._shown.items()):
            if now >= shown.ends:
                if shown.own:
                    self.stop(conversation, user)
                else:
                    self._unshow(conversation, user)

    async def run(self) -> None:
        """Ends what expires, until cancelled."""
        while True:
            await asyncio.sleep(self._timing.step)
            if self._shown:
                self.expire()

    def _show(self, hint: TypingHint, *, own: bool, seconds: float) -> None:
        now = self._clock()
        shown = self._shown.get((hint.conversation, hint.user))
        told = shown.told_sessions if shown else float("-inf")
        if now - told >= self._timing.again and self._hub.fresh:
            told = now
            self._tell("typing.started", hint.conversation, hint.user, hint.hidden)
        self._shown[hint.conversation, hint.user] = _Shown(now + seconds, own, hint.hidden, now, told)

    def _unshow(self, conversation: ConversationId, user: UserId) -> bool:
        shown = self._shown.get((conversation, user))
        if shown is None:
            return False
        if self._hub.fresh:
            del self._shown[conversation, user]
            self._tell("typing.stopped", conversation, user, shown.hidden)
        else:  # told as soon as anything may be told
            shown.ends, shown.own = self._clock(), False
        return True

    def _tell(
        self, type_: TypingType, conversation: ConversationId, user: UserId, hidden: frozenset[UserId]
    ) -> None:
        envelope = typing_envelope(type_, conversation, user, self._wall())
        topic = conversation_topic(conversation).key
        self._hub.live(topic, envelope, type_, LIVE_ONLY[type_], skip=hidden | {user})

    def _heard(self, payload: bytes) -> None:
        try:
            hint = decode_typing(payload)
        except ValueError:  # of a newer version
            logger.warning("typing.unreadable_hint")
            return
        if hint.typing:
            self._show(hint, own=False, seconds=self._timing.lasts + self._timing.grace)
        else:
            self._unshow(hint.conversation, hint.user)
