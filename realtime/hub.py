"""The hub: moves every session of this instance along the log.

One batch after another, in the order of the log, the hub opens and closes topics as the events say, offers each event
to the sessions that may see it, and lets each session write once a turn of the loop. ``position`` is how far it has
come; it stands still while the instance is not fresh.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from domain.ids import SessionId, TenantId, UserId
from domain.log import View
from domain.waiting import within
from realtime.closing import REVOKED, draining
from realtime.codec import Wire
from realtime.events import Chunk, Event, Group
from realtime.log import LogReader, LogSource
from realtime.places import NotFresh, Place, PlaceMetrics, Places
from realtime.poll import Poll, PromptPoll
from realtime.replay import Replay, ReplayMetrics
from realtime.session import Follower, Session, Transport
from realtime.shared import SharedBytes
from realtime.views import Subscribers, UserView

logger = structlog.get_logger(__name__)


class HubMetrics(PlaceMetrics, ReplayMetrics, Protocol):
    """What the hub counts."""

    def delivered(self, transport: str, writes: int) -> None: ...

    def fell_behind(self) -> None: ...


class ViewLoader(Protocol):
    """Loads what users may read; gathers the users asked for at once into one query."""

    async def __call__(self, key: tuple[TenantId, UserId]) -> View: ...


@dataclass(frozen=True, slots=True)
class HubLimits:
    heartbeat: float = 25.0  # seconds
    queue_events: int = 10_000  # a session's, before it turns to reading the log
    queue_bytes: int = 256 * 1024  # the same
    dispatch: int = 1000  # events a step
    flush: int = 500  # sessions a step
    flush_at_once: int = 2000  # most sessions a batch of one topic is written to in one step
    idle_views: int = 20_000  # all who can have been here: they come back together
    idle_seconds: float = 60.0


class Hub:
    """All sessions of one instance."""

    CROWD = 16  # readers of a topic from which on they are written to at once
    STRIDE = (
        64  # sessions written to before it is looked again whether the process has not been stopped meanwhile
    )
    STOPPED = 2.0  # seconds late from which on this process counts as one that was stopped for a while
    ENDED = 20_000  # sign-ins whose end is remembered, for sessions that were being opened when they ended

    def __init__(
        self,
        reader: LogReader,
        source: LogSource,
        load_view: ViewLoader,
        metrics: HubMetrics,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        spawn: Callable[[Coroutine[object, object, None]], None],
        limits: HubLimits | None = None,
    ) -> None:
        self._reader = reader
        self._load_view = load_view
        self._metrics = metrics
        self._limits = limits or HubLimits()
        self._views: dict[UserId, UserView] = {}
        self._idle: OrderedDict[UserId, UserView] = OrderedDict()
        self._topics = Subscribers()
        self._followers: dict[Follower, None] = {}
        self._dirty: deque[Session | PromptPoll] = deque()
        self._flush_scheduled = False
        self._pump_scheduled = False
        self._moved: asyncio.Future[None] | None = None
        self._became_fresh = asyncio.Event()
        self._ended: OrderedDict[SessionId, None] = OrderedDict()
        self._logs = 0
        self._leaving: Callable[[], int] | None = None
        self.places = Places(self, reader, metrics)
        self.replay = Replay(reader, source, metrics)
        self.shared = SharedBytes()
        self.clock = clock
        self.wall = wall
        self.spawn = spawn
        self.queue_bytes = self._limits.queue_bytes
        self.queue_events = self._limits.queue_events
        self.heartbeat = self._limits.heartbeat
        self.position = 0
        self.listening_since = clock()
        """Since when silence is the peer's: while this process was stopped, nobody could be heard."""
        self.written: dict[Wire, int] = {"ws": 0, "sse": 0}
        """Chunks of events written since they were last counted."""
        self.revoked: Callable[[Iterable[SessionId]], None] = lambda sign_ins: None
        """Called with the sign-ins an event ended, whether they have a session here or not."""
        self.missed: Callable[[], None] = lambda: None
        """Called where events passed that nobody here read: what they said of sign-ins is not known."""
        self.appeared: Callable[[UserId], None] = lambda user: None
        """Called when a user who had no session or poll here has one, perhaps again. Polls come and go all the time."""
        self.disappeared: Callable[[UserId], None] = lambda user: None
        """Called when a user's last session or poll here has gone."""
        self.detached: Callable[[Follower], None] = lambda follower: None
        """Called with every session or poll that has ended."""

    def start(self) -> None:
        """Joins the reader, which has started."""
        self.position = self._reader.position
        self._reader.applied = self._applied
        self._reader.became_fresh = self._fresh_again
        self._reader.lost = self._lost

    # The log moves.

    @property
    def epoch(self) -> int:
        return self._reader.epoch

    @property
    def floor(self) -> int:
        return self._reader.floor

    @property
    def fresh(self) -> bool:
        return self._reader.fresh

    def _applied(self) -> None:
        if self._reader.fresh:
            self.pump()

    def _fresh_again(self) -> None:
        ring = self._reader.ring
        for event in ring.controls(self.position, ring.last):
            if event.control.revokes:
                # Its owner was told long ago that it is over: not even what came before goes out now (I9).
                self._end_sign_ins(event, late=True)
        self._became_fresh.set()
        self._became_fresh.clear()
        self.pump()
        for follower in list(self._followers):
            if isinstance(follower, Session):
                self.want_flush(follower)

    def pump(self) -> None:
        """Dispatches what has been read, some events at a time, so that a long backlog does not hold up the loop.

        Never raises: it runs inside of the reader, and of those who have just committed.
        """
        try:
            self._pump()
        except Exception:
            # Who was given what of the batch is not known: everyone reads it from the stored log.
            logger.exception("hub.dispatch_failed", position=self.position)
            self._skip_to(self._reader.position)

    def _pump(self) -> None:
        ring = self._reader.ring
        if self.position < ring.floor:
            # More came at once than memory holds: everyone reads it from the stored log.
            self._skip_to(ring.last)
            return
        batch = ring.slice(self.position, self._limits.dispatch)
        if batch:
            self._dispatch(batch)
        if self.position < ring.last and not self._pump_scheduled:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump_again)

    def _pump_again(self) -> None:
        self._pump_scheduled = False
        if self._reader.fresh:
            self.pump()

    def _dispatch(self, batch: Sequence[Event]) -> None:
        groups: dict[bytes, list[Event]] = {}
        for event in batch:
            if event.control:
                self._deliver(groups)
                groups = {}
                self.position = event.position - 1  # a crowd has been written to already
                self._deliver_control(event)
                self.position = event.position
            else:
                events = groups.get(event.topic)
                if events is None:
                    groups[event.topic] = [event]
                else:
                    events.append(event)
        self._deliver(groups)
        self._move_to(batch[-1].position)

    def _move_to(self, position: int) -> None:
        self.position = position
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)

    def _deliver(self, groups: dict[bytes, list[Event]], about: Event | None = None) -> None:
        """``about``: the only event of them, where it may be one that not all who have its topic open are shown."""
        for topic, events in groups.items():
            views = self._topics.of(topic)
            if about is not None and about.control.about is not None:
                views = [view for view in views if view.shows(about)]
            if views:
                chunk = Chunk(events)
                at_once = len(groups) == 1 and chunk.size <= self.queue_bytes
                if at_once and self.CROWD <= len(views) <= self._limits.flush_at_once:
                    self._push(views, chunk)
                    continue
                for view in views:
                    for follower in view.sessions:
                        follower.offer(chunk)

    def _push(self, views: Collection[UserView], chunk: Chunk) -> None:
        """Writes to a crowd at once: with nothing else in the batch, there is nothing to write it together with."""
        failed: list[Follower] = []
        fresh = True
        for n, view in enumerate(views):
            if not n % self.STRIDE:
                fresh = self.fresh
            for follower in view.sessions:
                try:
                    if fresh:
                        follower.push(chunk)
                    else:
                        follower.offer(chunk)
                except Exception:
                    failed.append(follower)
        for follower in failed:
            self._failed(follower)

    def _deliver_control(self, event: Event) -> None:
        """Joiners receive the event and what follows, leavers receive it and nothing after it."""
        control = event.control
        for user in control.joins:
            view = self._views.get(user)
            if view is not None and view.apply_join(event):
                self._topics.add(event.topic, view)
        if control.redacts:
            self._reader.ring.redact(control.redacts)
            self.shared.written()
        self._deliver({event.topic: [event]}, event)
        for user in control.leaves:
            view = self._views.get(user)
            if view is not None and view.apply_leave(event, self.floor):
                self._topics.remove(event.topic, view)
        if control.revokes:
            self._end_sign_ins(event)

    def _end_sign_ins(self, event: Event, *, late: bool = False) -> None:
        revokes = event.control.revokes
        self._ended.update(dict.fromkeys(revokes))
        while len(self._ended) > self.ENDED:
            self._ended.popitem(last=False)
        self.revoked(revokes)
        for view in list(self._topics.of(event.topic)):
            for follower in list(view.sessions):
                if follower.sign_in in revokes:
                    follower.revoked(event, late=late)

    @property
    def leaving(self) -> bool:
        """Whether everyone is being sent away."""
        return self._leaving is not None

    def has_ended(self, sign_in: SessionId) -> bool:
        """Whether that sign-in was seen to end, lately."""
        return sign_in in self._ended

    def _skip_to(self, position: int) -> None:
        """Sends every session to the stored log, from which its view is loaded anew when it comes back."""
        logger.warning("hub.skipped", had=self.position, to=position)
        ring = self._reader.ring
        for event in ring.controls(self.position, position):
            # What is still in memory is given to who comes back: it must say what it would had it been dispatched.
            ring.redact(event.control.redacts)
            if event.control.revokes:
                self._end_sign_ins(event, late=True)
        self.shared.written()
        self._end_all()
        self._move_to(position)

    def _lost(self) -> None:
        """The log is another one, or lost its end: every client comes back and is told to resync."""
        self._end_all()
        self._logs += 1
        self.shared.new_log()
        self._move_to(self._reader.position)

    def _end_all(self) -> None:
        spread = max(1000, len(self._followers) // 2)  # milliseconds: 2,000 come back a second
        for n, follower in enumerate(list(self._followers)):
            try:
                follower.drain(100 + n % spread, late=True)
            except Exception:
                self._failed(follower)
        self._views.clear()
        self._idle.clear()
        self._topics = Subscribers()
        self.missed()

    def _failed(self, follower: Follower) -> None:
        """Lets one session that raised come back, instead of the whole hub standing still."""
        logger.error("hub.session_failed", exc_info=True)
        if isinstance(follower, Session):
            try:
                follower.close(draining(1000))
            except Exception:
                logger.exception("hub.session_not_closed")
        elif isinstance(follower, Poll) and not follower.draining:
            # What it was offered is not known: it is answered with the place it has, and asks again.
            follower.drain(1000)

    # Writing.

    def want_flush(self, session: Session | PromptPoll) -> None:
        """Has the session write at the end of this turn of the loop."""
        self._dirty.append(session)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        fresh, dirty = False, self._dirty
        for n in range(min(self._limits.flush, len(dirty))):
            if not n % self.STRIDE:
                fresh = self.fresh
            session = dirty.popleft()
            try:
                session.flush(fresh)
            except Exception:
                self._failed(session)
        self.shared.written()
        for wire, chunks in self.written.items():
            if chunks:
                self._metrics.delivered(wire, chunks)
                self.written[wire] = 0
        if self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._flush_scheduled = False

    def live(
        self, topic: bytes, payload: bytes, type_: str, group: Group, skip: Collection[UserId] = ()
    ) -> None:
        """Offers an event that is not in the log to whoever has the topic open now, but to those in ``skip``."""
        for view in self._topics.of(topic):
            if view.user not in skip:
                for follower in view.sessions:
                    follower.offer_live(payload, type_, group)

    def fell_behind(self) -> None:
        self._metrics.fell_behind()

    # Sessions begin and end.

    async def be_fresh(self) -> None:
        """Reads the head where that was not done lately. Raises :class:`NotFresh` where it cannot be read now.

        On a busy machine that may be stale again on return: what is written is held back then, so a session may begin
        all the same.
        """
        if self.fresh:
            return
        try:
            await self._reader.read_head()
        except Exception as error:
            raise NotFresh from error

    def known_view(self, user: UserId) -> UserView | None:
        """The user's view, where it is in use or was lately."""
        return self._views.get(user)

    async def view(self, tenant: TenantId, user: UserId) -> UserView:
        """The user's view, exact as of :attr:`position`. Raises :class:`NotFresh`, and what loading it raises."""
        while True:
            known = self._views.get(user)
            if known is not None:
                self._idle.pop(user, None)
                if not known.sessions:
                    known.idle_since = self.clock()
                    self._idle[user] = known
                return known
            logs = self._logs
            loaded = await self._load_view((tenant, user))
            if not await self.reached(loaded.head, 2.0):
                raise NotFresh
            ring = self._reader.ring
            if user in self._views or logs != self._logs or loaded.head < min(ring.floor, self.position):
                continue
            view = UserView(tenant, loaded)
            view.catch_up(ring.controls(loaded.head, self.position))
            self._views[user] = view
            for topic in view.open:
                self._topics.add(topic, view)
            view.idle_since = self.clock()
            self._idle[user] = view
            return view

    async def reached(self, position: int, seconds: float) -> bool:
        """Waits until everything up to ``position`` was dispatched. False where it took longer."""
        deadline = self.clock() + seconds
        while self.position < position:
            if self._moved is None or self._moved.done():
                self._moved = asyncio.get_running_loop().create_future()
            try:
                await within(max(0.0, deadline - self.clock()), asyncio.shield(self._moved))
            except TimeoutError:
                return self.position >= position
        return True

    def open(
        self,
        view: UserView,
        transport: Transport,
        place: Place,
        *,
        sign_in: SessionId,
        expires_at: float,
        groups: frozenset[Group] | None,
    ) -> Session:
        """A session on ``transport``. Greet it, start it, and :meth:`Session.detach` it when it is gone.

        It is closed already where its sign-in ended since it was looked at, and where everyone has been sent away.
        """
        assert self.places.holds(place), "find the place again where the log was replaced meanwhile"
        session = Session(
            self,
            view,
            transport,
            sign_in=sign_in,
            expires_at=expires_at,
            groups=groups,
            position=place.position,
        )
        self._attach(session, view)
        if self.has_ended(sign_in):
            session.close(REVOKED)
        elif self._leaving is not None:
            session.drain(self._leaving())
        return session

    def poll(
        self, view: UserView, *, sign_in: SessionId, expires_at: float, groups: frozenset[Group] | None
    ) -> Poll:
        """A poll on ``view``; :meth:`detach` it when it is answered."""
        poll = Poll(self, view, sign_in=sign_in, expires_at=expires_at, groups=groups)
        self._attach(poll, view)
        poll.ended = self.has_ended(sign_in)
        poll.draining = self._leaving is not None
        return poll

    def prompt_poll(
        self,
        view: UserView,
        *,
        sign_in: SessionId,
        expires_at: float,
        groups: frozenset[Group] | None,
        stirred: Callable[[bool], None],
    ) -> PromptPoll:
        """The same for who has no task to wait in. Not where the sign-in has ended, or all are :attr:`leaving`."""
        poll = PromptPoll(self, view, sign_in=sign_in, expires_at=expires_at, groups=groups, stirred=stirred)
        self._attach(poll, view)
        return poll

    def _attach(self, follower: Session | Poll, view: UserView) -> None:
        current = self._views.setdefault(view.user, view)
        assert current is view, "take the view, and open the session, without waiting in between"
        if not view.sessions:
            self.appeared(view.user)
        view.sessions.append(follower)
        self._idle.pop(view.user, None)
        self._followers[follower] = None

    def detach(self, follower: Session | Poll) -> None:
        """Forgets it. Its view stays a while, for the next connection of the same user."""
        if follower in self._followers:
            del self._followers[follower]
            self.detached(follower)
            view = follower.view
            view.sessions.remove(follower)
            if view.sessions:
                return
            current = self._views.get(view.user)
            if current is view:
                view.idle_since = self.clock()
                self._idle[view.user] = view
            if current is None or not current.sessions:
                self.disappeared(view.user)

    def __len__(self) -> int:
        return len(self._followers)

    async def until_fresh(self) -> None:
        """Waits until events may be written (I9)."""
        while not self.fresh:
            await self._became_fresh.wait()

    async def pause(self) -> None:
        """A moment, before something that failed or was full is tried again."""
        await asyncio.sleep(0.05)

    # Time passes.

    async def run(self) -> None:
        """Heartbeats, expiry and tidying up, until cancelled."""
        interval = min(0.5, self.heartbeat / 4)
        while True:
            due = self.clock() + interval
            await asyncio.sleep(interval)
            if self.clock() - due > self.STOPPED:
                self.listening_since = self.clock()
            self.beat()

    def beat(self) -> None:
        now, wall = self.clock(), self.wall()
        for follower in list(self._followers):
            try:
                follower.beat(now, wall)
            except Exception:
                self._failed(follower)
        while self._idle:
            user, view = next(iter(self._idle.items()))
            if (
                len(self._idle) <= self._limits.idle_views
                and now - view.idle_since < self._limits.idle_seconds
            ):
                return
            del self._idle[user]
            del self._views[user]
            for topic in view.open:
                self._topics.remove(topic, view)

    async def drain(self, *, batch: int, pause: float, reconnect_after_ms: Callable[[], int]) -> None:
        """Sends every session away, ``batch`` at a time, each with its own time to come back (I10).

        Who is let in later is sent away at once: nobody would do it then, and the stop waits for whoever is here.
        """
        self._leaving = reconnect_after_ms
        while self._followers:
            for follower in list(self._followers)[:batch]:
                follower.drain(reconnect_after_ms())
                if isinstance(follower, Poll):
                    self.detach(follower)
            await asyncio.sleep(pause)
