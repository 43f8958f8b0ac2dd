"""Who is online, on any instance, as far as this instance needs to know.

A user is online while any instance has a session or a waiting poll of theirs. Each instance knows its own users, and
keeps up with those that somebody here watches: by what other instances say on the bus, at once, and by asking the
roster every few seconds, which finds what was lost and who died in silence. A user who leaves counts as there for a
moment longer, so that a reconnect, here or elsewhere, is no event. Without Redis an instance goes by what it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from domain.ids import UserId
from domain.waiting import within
from realtime.live import Channel, PresenceHint, decode_presence, encode_presence
from realtime.roster import Found, Roster, RosterAway, chunks

logger = structlog.get_logger(__name__)

CHANNEL = "presence"
NOWHERE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PresenceTiming:
    """Seconds. ``linger``: how long a user without a session counts as there. ``gather``: how long changes wait for
    each other. ``step``: how often it is looked who has lingered long enough. ``beat``: how often this instance says
    that it lives; ``retry``: the same while Redis is away. ``recheck``: how often the watched are looked up.
    ``farewell``: how long its users count as there when it has ended, for them to come back to another."""

    linger: float = 3.0
    gather: float = 0.05
    step: float = 0.5
    beat: float = 5.0
    retry: float = 1.0
    recheck: float = 5.0
    farewell: float = 10.0


@dataclass(frozen=True, slots=True)
class Status:
    """``last_seen``: seconds since the epoch; None while online, and where it is not known."""

    online: bool
    last_seen: float | None = None


OFFLINE = Status(False)
ONLINE = Status(True)


@dataclass(slots=True)
class _Watched:
    status: Status
    on: frozenset[str] = NOWHERE
    """The other instances that have a session of theirs."""
    seen: float | None = None
    heard: int = 0
    """The number of the last hint about them, to tell an older answer of the roster from a newer one."""


class Presence:
    """The presence that one instance knows. :meth:`run` keeps it right; :meth:`leave` ends it."""

    def __init__(
        self,
        bus: Channel,
        roster: Roster,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        timing: PresenceTiming | None = None,
    ) -> None:
        self._bus = bus
        self._roster = roster
        self._clock = clock
        self._wall = wall
        self._timing = timing or PresenceTiming()
        self._here: set[UserId] = set()
        self._lingering: dict[UserId, tuple[float, float]] = {}
        """Until when each still counts, and when they went; the first to end is the first."""
        self._came: dict[UserId, None] = {}
        self._left: dict[UserId, float] = {}
        self._stored = 0
        """How many users of this instance the roster has, unless it lost them."""
        self._writing = asyncio.Lock()
        self._watched: dict[UserId, _Watched] = {}
        self._doubtful: set[UserId] = set()
        """Watched users who seem to have gone: the roster is asked first, they may be somewhere else."""
        self._hints = 0
        self._held = False
        self._wake = asyncio.Event()
        self._recheck_now = asyncio.Event()
        self._failed = asyncio.Event()
        self.available = False
        """Whether Redis answered last time. While it does not, only the beat asks it."""
        self.changed: Callable[[Collection[UserId]], None] = lambda users: None
        """Called with watched users whose status is another."""
        self.reviewed: Callable[[Collection[UserId]], None] = lambda users: None
        """Called where another instance asked to :meth:`review` users."""
        self.gone: Callable[[Collection[UserId]], None] = lambda users: None
        """Called with users who have no session here any more, nor come back soon."""
        self.seen: Callable[[Mapping[UserId, float]], None] = lambda users: None
        """Called with users, online elsewhere or not, and a time at which they still were (seconds since the epoch)."""
        bus.listen(CHANNEL, self._heard)

    # What the hub says.

    def appeared(self, user: UserId) -> None:
        """The user has a session or a poll here; again is no harm."""
        if self._lingering.pop(user, None) is not None or user in self._here:
            return
        self._here.add(user)
        self._left.pop(user, None)
        self._came[user] = None
        self._settle([user])
        self._wake.set()

    def disappeared(self, user: UserId) -> None:
        """The user has none any more, for now."""
        if user in self._here:
            self._lingering.pop(user, None)
            self._lingering[user] = (self._clock() + self._timing.linger, self._wall())

    def gap(self) -> None:
        """Something may have been missed on the bus."""
        self._recheck_now.set()

    def hold(self) -> None:
        """From now on nobody is let go: the instance drains, and its users come back to another, soon or less soon."""
        self._held = True

    # What is asked.

    def watch(self, users: Iterable[UserId]) -> list[UserId]:
        """Keeps up with users. Returns those who were not watched: :meth:`learn` of them before their status counts."""
        new = [user for user in users if user not in self._watched]
        for user in new:
            self._watched[user] = _Watched(ONLINE if user in self._here else OFFLINE)
        return new

    def unwatch(self, users: Iterable[UserId]) -> None:
        for user in users:
            self._watched.pop(user, None)

    async def learn(self, users: Sequence[UserId]) -> None:
        """Looks up users who are watched from now on. Never raises."""
        await self._look_up(users)

    def remember(self, user: UserId, last_seen: float) -> None:
        """Takes what was stored of a watched user; it counts where nothing newer is known."""
        watched = self._watched.get(user)
        if watched is not None and not watched.status.online and last_seen > (watched.seen or 0.0):
            watched.seen = last_seen
            watched.status = Status(False, last_seen)

    def status(self, user: UserId) -> Status:
        """Of a watched user; offline for any other."""
        watched = self._watched.get(user)
        return watched.status if watched is not None else OFFLINE

    def review(self, users: Collection[UserId]) -> None:
        """Has every instance look again who may see these users."""
        self._bus.publish(CHANNEL, encode_presence(PresenceHint(self._roster.instance, review=users)))

    # What other instances say.

    def _heard(self, payload: bytes) -> None:
        try:
            hint = decode_presence(payload)
        except ValueError:  # of a newer version
            logger.warning("presence.unreadable_hint")
            return
        self._hints += 1
        for user in hint.came:
            watched = self._watched.get(user)
            if watched is not None:
                watched.on |= {hint.instance}
                watched.heard = self._hints
        for user, at in hint.left.items():
            watched = self._watched.get(user)
            if watched is not None:
                watched.on -= {hint.instance}
                watched.heard = self._hints
                watched.seen = max(at, watched.seen or at)
        self._settle(hint.came)
        self._doubt(hint.left)
        if hint.review:
            self.reviewed(hint.review)

    # Who is online.

    def _settle(self, users: Iterable[UserId]) -> None:
        """Draws the conclusion from what is known of users, and tells where it is a new one."""
        changed = []
        for user in users:
            watched = self._watched.get(user)
            if watched is None:
                continue
            if user in self._here or watched.on:
                watched.seen = None
                status = ONLINE
            elif watched.status.online:
                # They went in silence where nobody said when: it was a moment ago.
                watched.seen = watched.seen or self._wall()
                status = Status(False, watched.seen)
            else:
                status = Status(False, watched.seen)
            if status != watched.status:
                watched.status = status
                changed.append(user)
        if changed:
            self.changed(changed)

    def _doubt(self, users: Iterable[UserId]) -> None:
        doubtful = [user for user in users if user in self._watched]
        if doubtful:
            self._doubtful.update(doubtful)
            self._wake.set()

    async def _look_up(self, users: Sequence[UserId]) -> None:
        """Asks the roster about watched users, and settles them by its answer or, without one, by what is known."""
        asked_at = self._hints
        found = await self._ask(users, seen=True)
        settled = []
        for user in users:
            watched = self._watched.get(user)
            if watched is None or watched.heard > asked_at:
                continue  # what was heard meanwhile is newer, and was or will be settled by itself
            if found is not None:
                on = found.on.get(user, NOWHERE)
                watched.on = watched.on | on if found.young else on
                if user in found.seen:
                    watched.seen = max(found.seen[user], watched.seen or 0.0)
            settled.append(user)
        self._settle(settled)

    async def recheck(self) -> None:
        """Looks up everyone who is watched. Who seems to have gone is looked up again before it is believed."""
        for users in chunks(list(self._watched)):
            asked_at = self._hints
            found = await self._ask(users, seen=False)
            if found is None:
                return
            for user in users:
                watched = self._watched.get(user)
                if watched is None or watched.heard > asked_at:
                    continue
                on = found.on.get(user, NOWHERE)
                if on:
                    watched.on = watched.on | on if found.young else on
                    self._settle((user,))
                elif watched.on and not found.young:
                    watched.on = NOWHERE
                    self._doubt((user,))

    async def _ask(self, users: Sequence[UserId], *, seen: bool) -> Found | None:
        if not self.available or not users:
            return None
        try:
            return await self._roster.look_up(users, seen=seen)
        except RosterAway as error:
            self._away(error)
            return None

    def _away(self, error: RosterAway) -> None:
        if self.available:
            logger.warning("presence.roster_away", error=str(error))
            self._failed.set()
        self.available = False

    # What this instance says.

    async def flush(self) -> None:
        """One step: lets go who has lingered long enough, and tells what changed."""
        self._let_go()
        if self.available:
            async with self._writing:
                await self._tell()
        doubtful = [user for user in self._doubtful if user in self._watched]
        self._doubtful.clear()
        for users in chunks(doubtful):
            await self._look_up(users)

    def _let_go(self) -> None:
        if self._held:
            return
        now = self._clock()
        gone: dict[UserId, float] = {}
        for user, (until, at) in self._lingering.items():
            if until > now:
                break
            gone[user] = at
        if gone:
            self._remove(gone)

    def _remove(self, gone: Mapping[UserId, float]) -> None:
        for user, at in gone.items():
            self._lingering.pop(user, None)
            self._here.discard(user)
            self._came.pop(user, None)
            self._left[user] = at
            watched = self._watched.get(user)
            if watched is not None:
                watched.seen = at
        self._doubt(gone)
        self.seen(gone)
        self.gone(gone.keys())

    async def _tell(self) -> None:
        """Writes what changed to the roster, then tells it, so that whoever hears of it finds it there.

        While Redis is away it is kept, and told when Redis is back.
        """
        if not self.available or not (self._came or self._left):
            return
        came, left, size = self._came, self._left, len(self._here)
        self._came, self._left = {}, {}
        try:
            await self._roster.change(list(came), left)
        except RosterAway as error:
            self._away(error)
            self._came = {user: None for user in came if user not in self._left} | self._came
            self._left = {user: at for user, at in left.items() if user not in self._came} | self._left
            return
        self._stored = size
        for users in chunks(list(came)):
            self._publish(PresenceHint(self._roster.instance, came=users))
        for gone in chunks(list(left.items())):
            self._publish(PresenceHint(self._roster.instance, left=dict(gone)))

    def _publish(self, hint: PresenceHint) -> None:
        self._bus.publish(CHANNEL, encode_presence(hint))

    async def beat(self) -> None:
        """Says that this instance lives, and makes the roster right where it is not: after a failure, or a flush."""
        try:
            if not self.available:
                await self._roster.beat()  # nobody waits for this one
                self.available = True
                self._recheck_now.set()
            async with self._writing:
                await self._tell()
                if not self.available:
                    return
                if await self._roster.beat() != self._stored:
                    here = list(self._here)
                    await self._roster.replace(here)
                    self._stored = len(here)
            for dead in await self._roster.reap():
                self.seen(dict.fromkeys(dead.users, dead.at))
        except RosterAway as error:
            self._away(error)

    async def leave(self) -> None:
        """The instance ends. Who was here counts as there a while longer: who comes back elsewhere never left."""
        at = self._wall()
        self.seen({user: self._lingering.get(user, (0.0, at))[1] for user in self._here})
        try:
            await self._roster.leave(self._timing.farewell)
        except RosterAway as error:
            self._away(error)

    async def run(self) -> None:
        """Keeps presence right until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat_forever())
            tasks.create_task(self._flush_forever())
            tasks.create_task(self._recheck_forever())

    async def _beat_forever(self) -> None:
        while True:
            await self.beat()
            self._failed.clear()
            await _either(self._failed, self._timing.beat if self.available else self._timing.retry)

    async def _flush_forever(self) -> None:
        while True:
            await _either(self._wake, self._timing.step)
            await asyncio.sleep(self._timing.gather)
            self._wake.clear()
            await self.flush()

    async def _recheck_forever(self) -> None:
        while True:
            await _either(self._recheck_now, self._timing.recheck)
            self._recheck_now.clear()
            await self.recheck()


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Waits for the event, at most so long."""
    try:
        await within(seconds, event.wait())
    except TimeoutError:
        pass
