"""A long poll: a session for the time of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from domain.ids import SessionId
from domain.waiting import within
from realtime.events import Chunk, Event, Group

if TYPE_CHECKING:
    from realtime.hub import Hub
    from realtime.views import UserView


class Poll:
    """Answers from the log: what it is offered only tells it that there is something to read."""

    FILTERED_PAGE = 500  # events read at once where a filter is to leave some of them

    __slots__ = (
        "_groups",
        "_hub",
        "_wake",
        "draining",
        "ended",
        "epoch",
        "expired",
        "expires_at",
        "sign_in",
        "view",
    )

    def __init__(
        self,
        hub: Hub,
        view: UserView,
        *,
        sign_in: SessionId,
        expires_at: float,
        groups: frozenset[Group] | None,
    ) -> None:
        self._hub = hub
        self._groups = groups
        self._wake: asyncio.Future[None] | None = None
        self.view = view
        self.sign_in = sign_in
        self.expires_at = expires_at
        self.epoch = hub.epoch
        """That of the log the poll reads, for its cursors."""
        self.ended = False
        """The sign-in, or the credential, ended while the poll waited."""
        self.expired = False
        """It was the credential's time."""
        self.draining = False

    def push(self, chunk: Chunk) -> None:
        self.offer(chunk)

    def offer(self, chunk: Chunk) -> None:
        if self._groups is None or chunk.only(self._groups) is not None:
            self._stir()

    def offer_live(self, payload: bytes, type_: str, group: Group) -> bool:
        """Polls carry no live-only events."""
        return False

    def revoked(self, event: Event, *, late: bool = False) -> None:
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._stir()

    def drain(self, reconnect_after_ms: int, *, late: bool = False) -> None:
        self.draining = True
        self._stir()

    def beat(self, now: float, wall: float) -> None:
        if wall >= self.expires_at and not self.ended:
            self.expired = True
            self._end()

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def read_at_once(self, after: int, limit: int) -> tuple[list[Event], int, bool] | None:
        """What :meth:`read` gives, where memory holds it and one page of it is enough; else None."""
        hub = self._hub
        if not hub.replay.in_memory(after):
            return None
        upto = hub.position
        events, reached = self._remembered(after, upto, limit)
        if len(events) > limit:
            return events[:limit], events[limit - 1].position, True
        return (events, reached, False) if reached >= upto else None

    async def read(self, after: int, limit: int) -> tuple[list[Event], int, bool]:
        """The next events behind ``after``; how far was read (where there is more: up to the last event); whether there
        is more.

        Raises what reading the stored log raises. Events may be given to a client only while the hub is fresh.
        """
        replay = self._hub.replay
        began = replay.position
        found: list[Event] = []
        reached = after
        while True:
            upto = self._hub.position
            if replay.in_memory(reached):
                events, reached = self._remembered(reached, upto, limit)
            else:
                stored, reached = await replay.from_store(self.view, reached, upto, self._page(limit))
                events = self._kept(stored)
            found += events
            if not replay.withdraw(found, began):
                found, reached, began = [], after, replay.position
            elif len(found) > limit:
                return found[:limit], found[limit - 1].position, True
            elif reached >= (upto if found else self._hub.position):
                return found, reached, False
            else:
                await asyncio.sleep(0)  # others have their turn, however long the log is

    def _remembered(self, after: int, upto: int, limit: int) -> tuple[list[Event], int]:
        """The next page from memory, and how far it reaches: more than ``limit`` events where there is more to give."""
        events, reached = self._hub.replay.from_memory(self.view, after, upto, self._page(limit))
        return self._kept(events), reached

    def _page(self, limit: int) -> int:
        """How many events to read at once: one more than are wanted tells whether there is more. A filter may leave
        next to nothing of them, so with one it does not depend on what is asked for."""
        return limit + 1 if self._groups is None else max(limit + 1, self.FILTERED_PAGE)

    def _kept(self, events: list[Event]) -> list[Event]:
        """What the filter leaves."""
        groups = self._groups
        return events if groups is None else [e for e in events if e.group in groups]

    async def wait(self, seconds: float) -> None:
        """Waits for something to read, at most ``seconds``. Call it right after a :meth:`read` that gave nothing."""
        if self.ended or self.draining:
            return
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await within(seconds, self._wake)
        except TimeoutError:
            pass
        finally:
            self._wake = None


class PromptPoll(Poll):
    """A poll without a task of its own: ``stirred(fresh)`` is called at the end of each turn of the loop in which there
    was something for it, be it an event or its end; ``fresh`` says whether events may be given out then (I9).

    Use it right after a read that gave nothing: what it is offered from then on is all there is.
    """

    __slots__ = ("_offered", "_offers", "_stirred", "stirring")

    def __init__(
        self,
        hub: Hub,
        view: UserView,
        *,
        sign_in: SessionId,
        expires_at: float,
        groups: frozenset[Group] | None,
        stirred: Callable[[bool], None],
    ) -> None:
        super().__init__(hub, view, sign_in=sign_in, expires_at=expires_at, groups=groups)
        self._stirred = stirred
        self._offered: Chunk | None = None
        self._offers = 0
        self.stirring = False
        """There was something that ``stirred`` has not been called for yet."""

    def offer(self, chunk: Chunk) -> None:
        kept = chunk if self._groups is None else chunk.only(self._groups)
        if kept is not None:
            self._offered = kept
            self._offers += 1
            self._stir()

    def take_offered(self, limit: int) -> tuple[Sequence[Event], int, bool] | None:
        """What :meth:`read` would give, where one run of events is all that was offered; else None."""
        chunk, offers = self._offered, self._offers
        self._offered, self._offers = None, 0
        if chunk is None or offers != 1 or len(chunk.events) > limit:
            return None
        return chunk.events, self._hub.position, False

    def _stir(self) -> None:
        if not self.stirring:
            self.stirring = True
            self._hub.want_flush(self)

    def flush(self, fresh: bool) -> None:
        self.stirring = False
        self._stirred(fresh)
