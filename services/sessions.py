"""Which sign-ins are good, as known on this instance: what every request and every connection is checked against."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import aiojobs
import structlog

from domain.errors import Unauthenticated, Unavailable
from domain.identity import Identity
from domain.ids import SessionId, TenantId, UserId
from services.batching import Batcher
from services.security.tokens import Kind, TokenExpired, TokenInvalid, TokenSigner
from storage import auth_sessions
from storage.auth_sessions import AliveRow, Key
from storage.database import Database

log = structlog.get_logger(__name__)


SEEN_EVERY_SECONDS = 60.0
FLUSH_EVERY_SECONDS = 10.0
END_KNOWN_FOR_SECONDS = 60.0
LOAD_ATTEMPTS = 3


class SessionRevoked(Unauthenticated):
    """The sign-in behind the credential is over: signed out, deleted, suspended, found stolen, or too long unused."""

    code, title = "session_revoked", "This session is over; sign in again"


@dataclass(slots=True)
class _Entry:
    row: AliveRow | None
    """None: known to be over, and nothing brings a sign-in back."""
    loaded_at: float
    seen_at: float = 0.0


class SessionDirectory:
    """The sign-ins this instance has seen lately, at most ``capacity``, the least used forgotten first.

    Filled from PostgreSQL on first sight, many sign-ins to a query (see :class:`Batcher`). An entry stays until
    :meth:`forget` names it: the log reader calls that for every revocation it reads, so what is kept is as fresh as the
    reader. While ``fresh()`` is False the reader is behind, and PostgreSQL is asked each time.
    ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        tokens: TokenSigner,
        jobs: aiojobs.Scheduler,
        *,
        fresh: Callable[[], bool] = lambda: True,
        capacity: int = 50_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._fresh = fresh
        self._capacity = capacity
        self._clock = clock
        self._entries: OrderedDict[SessionId, _Entry] = OrderedDict()
        self._batcher: Batcher[Key, AliveRow] = Batcher(self._load, jobs)
        self._loading = False
        self._forgotten: set[SessionId] = set()
        self._forgotten_all = False
        self._seen: dict[Key, datetime] = {}

    def __len__(self) -> int:
        return len(self._entries)

    async def authenticate(self, tenant: TenantId, access_token: str) -> Identity:
        """Who an access token speaks for.

        Raises Unauthenticated with the code ``token_invalid`` (not ours, or another tenant's), ``token_expired`` or
        ``session_revoked``; Unavailable where PostgreSQL is needed and away.
        """
        claims = self._tokens.read(access_token)
        if claims.tenant != tenant:
            raise TokenInvalid()
        return await self.identify(tenant, claims.session, claims.user, claims.expires_at)

    async def authenticate_cookie(self, tenant: TenantId, cookie: str) -> Identity:
        """Who a realtime cookie speaks for, for as long as the sign-in lives. Raises as :meth:`authenticate` does."""
        claims = self._tokens.read(cookie, Kind.REALTIME_COOKIE)
        if claims.tenant != tenant:
            raise TokenInvalid()
        return await self.identify(tenant, claims.session, claims.user, None)

    async def identify(
        self, tenant: TenantId, session: SessionId, user: UserId, credential_ends: float | None
    ) -> Identity:
        """The identity behind a verified credential, which ends at ``credential_ends`` or with the sign-in (None).

        Raises SessionRevoked, TokenExpired, Unavailable.
        """
        now = self._clock()
        if credential_ends is not None and credential_ends <= now:
            raise TokenExpired()
        entry = self._entries.get(session)
        if entry is None or not self._usable(entry, credential_ends, now):
            row = await self._batcher.get((tenant, session))
        else:
            self._entries.move_to_end(session)
            row = entry.row
        if row is None or row.user != user or row.tenant != tenant:
            raise SessionRevoked()
        self._note_seen(row, now)
        ends = row.expires_at if credential_ends is None else min(row.expires_at, credential_ends)
        return Identity(tenant, user, session, row.permissions, ends)

    def vouches_for(self, identity: Identity) -> bool:
        """Whether :meth:`identify` would let this identity in again, as far as that is known without asking PostgreSQL.

        For who was let in before; True counts as being seen. False says nothing but that it has to be asked.
        """
        now = self._clock()
        entry = self._entries.get(identity.session)
        if identity.expires_at <= now or entry is None or entry.row is None:
            return False
        if not self._usable(entry, identity.expires_at, now):
            return False
        self._entries.move_to_end(identity.session)
        self._note_seen(entry.row, now)
        return True

    def forget(self, sessions: Iterable[SessionId]) -> None:
        """Drops what is known of these sign-ins, and what a query under way is about to say of them."""
        for session in sessions:
            self._entries.pop(session, None)
            if self._loading:
                self._forgotten.add(session)

    def forget_all(self) -> None:
        """Drops everything: after a part of the log that could not be read."""
        self._entries.clear()
        self._forgotten_all = True

    async def run(self) -> None:
        """Keeps ``last_seen_at`` in PostgreSQL about right, until cancelled; then writes what is left."""
        try:
            while True:
                await asyncio.sleep(FLUSH_EVERY_SECONDS)
                await self.flush_seen()
        finally:
            await self.flush_seen()

    async def flush_seen(self) -> None:
        """Writes when sign-ins were last seen, in one statement. While PostgreSQL is away they wait."""
        seen, self._seen = self._seen, {}
        if not seen:
            return
        try:
            async with self._database.connection() as connection:
                await auth_sessions.touch(connection, seen)
        except Unavailable as error:
            log.info("last_seen_not_written", sessions=len(seen), reason=error.detail)
            self._seen = seen | self._seen

    def _usable(self, entry: _Entry, credential_ends: float | None, now: float) -> bool:
        if not self._fresh():
            return False
        if entry.row is None:
            return True
        # A refresh moves a sign-in's end and tells nobody: where that end counts, it is read again after a while.
        if credential_ends is None or entry.row.expires_at < credential_ends:
            return now - entry.loaded_at < END_KNOWN_FOR_SECONDS and entry.row.expires_at > now
        return True

    def _note_seen(self, row: AliveRow, now: float) -> None:
        entry = self._entries.get(row.id)
        if (
            entry is not None
            and now - entry.seen_at >= SEEN_EVERY_SECONDS
            and len(self._seen) < self._capacity
        ):
            entry.seen_at = now
            self._seen[row.tenant, row.id] = datetime.fromtimestamp(now, UTC)

    async def _load(self, keys: Sequence[Key]) -> dict[Key, AliveRow]:
        """One load of the batcher. What was revoked while it read is read again, and never kept."""
        found: dict[Key, AliveRow] = {}
        for _ in range(LOAD_ATTEMPTS):
            rows = await self._read(keys)
            doubtful = []
            for key in keys:
                found.pop(key, None)
                if self._forgotten_all or key[1] in self._forgotten:
                    doubtful.append(key)
                else:
                    self._keep(key[1], rows.get(key))
            found |= rows
            keys = doubtful
            if not keys:
                break
        return found

    async def _read(self, keys: Sequence[Key]) -> dict[Key, AliveRow]:
        self._forgotten.clear()
        self._forgotten_all = False
        self._loading = True
        try:
            async with self._database.connection() as connection:
                return await auth_sessions.load_alive(connection, keys)
        finally:
            self._loading = False

    def _keep(self, session: SessionId, row: AliveRow | None) -> None:
        known = self._entries.pop(session, None)
        self._entries[session] = _Entry(row, self._clock(), known.seen_at if known else 0.0)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
