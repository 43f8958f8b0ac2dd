"""Presence: who may follow whom, and what they are told.

Nothing is told before PostgreSQL has said, after it happened, that the viewer may see the user (I6): who is hidden by a
block, has turned presence off or does not exist is offline, never seen, and never changes. Telling them apart takes
more than presence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from domain.errors import FieldError, InvalidFields, Unavailable
from domain.identity import Identity
from domain.ids import TenantId, UserId
from realtime.events import LIVE_ONLY
from realtime.live import PresenceStatus, PresenceStatuses, presence_envelope
from realtime.presence import OFFLINE, Presence, Status
from realtime.session import Follower, Session, State
from services.last_seen import LastSeen
from storage.database import Database
from storage.presence import Look, read_shown

logger = structlog.get_logger(__name__)

TYPE = "presence.changed"


@dataclass(frozen=True, slots=True)
class PresenceLimits:
    """``call``, ``session``: users named in one call, and followed by one session. ``looks``: viewers and users checked
    by one statement. ``reviewed``: how many are looked at again each ``tick`` seconds, whether anything happened or
    not. ``retry``: seconds until PostgreSQL is asked again. ``farewell``: seconds the end may take."""

    call: int = 200
    session: int = 1000
    looks: int = 1000
    reviewed: int = 500
    tick: float = 5.0
    retry: float = 1.0
    farewell: float = 4.0


@dataclass(slots=True)
class _Watcher:
    """A session that follows users, and what it was last told of each; None: not yet answered."""

    tenant: TenantId
    viewer: UserId
    told: dict[UserId, Status | None] = field(default_factory=dict)


class PresenceService:
    """Tells sessions when those they follow come and go. Nothing is kept for a session that follows nobody."""

    def __init__(
        self,
        database: Database,
        presence: Presence,
        last_seen: LastSeen,
        *,
        wall: Callable[[], float] = time.time,
        limits: PresenceLimits | None = None,
    ) -> None:
        self._database = database
        self._presence = presence
        self._last_seen = last_seen
        self._wall = wall
        self._limits = limits or PresenceLimits()
        self._watchers: dict[Session, _Watcher] = {}
        """In the order in which they will be reviewed."""
        self._following: dict[UserId, set[Session]] = {}
        self._due: dict[tuple[Session, UserId], bool] = {}
        """What to look at; True: what the viewer may see may have changed, not only the status."""
        self._untold: dict[tuple[Session, UserId], bool] = {}
        """What a slow session did not take; tried again."""
        self._wake = asyncio.Event()
        presence.changed = self._changed
        presence.reviewed = self._review
        presence.seen = last_seen.note

    async def subscribe(
        self, session: Session, identity: Identity, users: Sequence[UserId]
    ) -> PresenceStatuses:
        """Follows users from now on. Returns the status of each, in that order, repetitions left out.

        What happens after the returned status is told by events; hand the answer to the session without waiting in
        between. Raises InvalidFields where they are too many, Unavailable.
        """
        asked = list(dict.fromkeys(users))
        watcher = self._admit(session, identity, asked)
        known = {user: told for user in asked if (told := watcher.told.get(user)) is not None}
        new = [user for user in asked if user not in known]
        for user in new:
            watcher.told[user] = None
            self._following.setdefault(user, set()).add(session)
        try:
            await self._presence.learn(self._presence.watch(new))
            before = await self._look(watcher, asked)
        except BaseException:
            self.unsubscribe(session, new)
            raise
        for user in asked:
            if user in watcher.told:
                watcher.told[user] = before[user]
                if self._presence.status(user) != before[user]:
                    self._mark(session, user)
        return PresenceStatuses(statuses=[public_status(user, before[user]) for user in asked])

    def unsubscribe(self, session: Session, users: Iterable[UserId]) -> None:
        """Follows users no more; those who were not followed are no error."""
        watcher = self._watchers.get(session)
        if watcher is None:
            return
        for user in users:
            if user in watcher.told:
                del watcher.told[user]
                self._unfollow(session, user)
        if not watcher.told:
            del self._watchers[session]

    def forget(self, session: Follower) -> None:
        """Drops what a session that has ended followed."""
        if isinstance(session, Session) and (watcher := self._watchers.get(session)) is not None:
            self.unsubscribe(session, list(watcher.told))

    def visibility_changed(self, users: Collection[UserId]) -> None:
        """Tells followers, on every instance, what they may see of users now.

        Call it after the commit of what changes that: a block or its end (with both), ``settings.presence``, a deleted
        account.
        """
        self._review(users)
        self._presence.review(users)

    async def run(self) -> None:
        """Keeps up, and tells, until cancelled; then hands the users over to the other instances."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._presence.run())
                tasks.create_task(self._deliver_forever())
                tasks.create_task(self._tick_forever())
        except asyncio.CancelledError:
            await self._farewell()
            raise

    # Who is looked at.

    def _admit(self, session: Session, identity: Identity, users: Sequence[UserId]) -> _Watcher:
        if session.state is State.CLOSED:
            raise Unavailable("the connection is closed", retry_after=None)
        watcher = self._watchers.get(session)
        if watcher is None:
            watcher = _Watcher(identity.tenant, identity.user)
        if len(users) > self._limits.call:
            problem = f"at most {self._limits.call} users in one call"
            raise InvalidFields([FieldError("/user_ids", problem)])
        if len(watcher.told.keys() | users) > self._limits.session:
            problem = f"at most {self._limits.session} users on one connection"
            raise InvalidFields([FieldError("/user_ids", problem)])
        if users:
            self._watchers[session] = watcher
        return watcher

    def _unfollow(self, session: Session, user: UserId) -> None:
        followers = self._following[user]
        followers.discard(session)
        if not followers:
            del self._following[user]
            self._presence.unwatch((user,))

    def _changed(self, users: Iterable[UserId]) -> None:
        for user in users:
            for session in self._following.get(user, ()):
                self._mark(session, user)

    def _review(self, users: Iterable[UserId]) -> None:
        """Has whoever follows these users told what they may see of them now."""
        for user in users:
            for session in self._following.get(user, ()):
                self._mark(session, user, review=True)

    def _mark(self, session: Session, user: UserId, *, review: bool = False) -> None:
        key = session, user
        self._due[key] = review or self._due.get(key, False)
        self._wake.set()

    # What they are told.

    async def _look(self, watcher: _Watcher, users: Sequence[UserId]) -> dict[UserId, Status]:
        """What a viewer may see of users. The status is taken first: what happens behind a block is not in it."""
        before = {user: self._presence.status(user) for user in users}
        looks = [Look(watcher.tenant, watcher.viewer, user) for user in users]
        shown = await self._shown(looks)
        for look in looks:
            if look not in shown:
                before[look.user] = OFFLINE
            elif (stored := shown[look]) is not None and not before[look.user].online:
                self._presence.remember(look.user, stored.timestamp())
                if (before[look.user].last_seen or 0.0) < stored.timestamp():
                    before[look.user] = Status(False, stored.timestamp())
        return before

    async def _shown(self, looks: Sequence[Look]) -> Mapping[Look, datetime | None]:
        shown: dict[Look, datetime | None] = {}
        for start in range(0, len(looks), self._limits.looks):
            async with self._database.connection() as connection:
                shown |= await read_shown(connection, looks[start : start + self._limits.looks])
        return shown

    async def deliver(self) -> None:
        """Tells what is due. Raises Unavailable, and then it stays due."""
        due, self._due = self._due, {}
        statuses: dict[UserId, Status] = {}
        looks: dict[Look, None] = {}
        for (session, user), review in due.items():
            watcher = self._watchers.get(session)
            if watcher is None or (told := watcher.told.get(user)) is None:
                continue
            status = statuses.setdefault(user, self._presence.status(user))
            if review or status != told:
                looks[Look(watcher.tenant, watcher.viewer, user)] = None
        try:
            shown = await self._shown(list(looks))
        except BaseException:
            for key, review in due.items():
                self._due[key] = review or self._due.get(key, False)
            raise
        envelopes: dict[tuple[UserId, Status], bytes] = {}
        for (session, user), review in due.items():
            watcher = self._watchers.get(session)
            if watcher is None or (told := watcher.told.get(user)) is None:
                continue
            if Look(watcher.tenant, watcher.viewer, user) in shown:
                status = statuses[user]
            elif review:
                status = OFFLINE
            else:
                continue
            if status != told:
                payload = envelopes.get((user, status))
                if payload is None:
                    payload = presence_envelope(public_status(user, status), self._wall())
                    envelopes[user, status] = payload
                if session.offer_live(payload, TYPE, LIVE_ONLY[TYPE]):
                    watcher.told[user] = status
                else:
                    self._untold[session, user] = review

    def tick(self) -> None:
        """Marks what slow sessions did not take, and looks again at some of the others: a review may have been lost."""
        untold, self._untold = self._untold, {}
        for (session, user), review in untold.items():
            self._mark(session, user, review=review)
        left = self._limits.reviewed
        for session in list(self._watchers):
            if left <= 0:
                return
            watcher = self._watchers.pop(session)
            self._watchers[session] = watcher
            for user in watcher.told:
                self._mark(session, user, review=True)
            left -= len(watcher.told)

    async def _deliver_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.deliver()
            except Unavailable:  # nobody is told what may be hidden from them
                await asyncio.sleep(self._limits.retry)
                self._wake.set()

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(self._limits.tick)
            self.tick()
            await self._last_seen.store()

    async def _farewell(self) -> None:
        try:
            async with asyncio.timeout(self._limits.farewell):
                await self._presence.leave()
                await self._last_seen.store()
        except TimeoutError:
            logger.warning("presence.farewell_cut_short")


def public_status(user: UserId, status: Status) -> PresenceStatus:
    """A status as clients see it."""
    seen = status.last_seen
    return PresenceStatus(
        user_id=user,
        status="online" if status.online else "offline",
        last_seen_at=None if seen is None else datetime.fromtimestamp(seen, UTC),
    )
