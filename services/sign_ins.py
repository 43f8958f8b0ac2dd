"""Signing in, staying signed in, signing out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from domain.errors import AccountSuspended, NotFound, RefreshReused, Unauthenticated
from domain.identity import Identity
from domain.ids import SessionId, TenantId, UserId, new_id
from domain.resources import AuthSession, SignedIn, TokenPair
from services.profiles import show_own_user
from services.revocation import Reason, revoke_sessions
from services.security.passwords import PasswordHasher
from services.security.tokens import (
    TokenExpired,
    TokenInvalid,
    TokenSigner,
    digest_opaque_token,
    new_opaque_token,
)
from services.sessions import SessionRevoked
from services.unit_of_work import Transaction, UnitOfWork
from services.visibility import user_name
from storage import auth_sessions, users
from storage.database import Connection, Database
from storage.users import Credentials, UserRow

MAX_AGENT = 300


class WrongCredentials(Unauthenticated):
    """No such account, or another password: never told apart."""

    code, title = "invalid_credentials", "The username or the password is wrong"


@dataclass(frozen=True, slots=True)
class Device:
    """Where a sign-in comes from, as its owner is shown it."""

    user_agent: str = ""
    ip: str = ""


class Forgetful(Protocol):
    """What remembers sign-ins on this instance: told at once of those ended here, without waiting for the log."""

    def forget(self, sessions: Iterable[SessionId], /) -> None: ...


class SignIns:
    """Who is signed in.

    ``refresh_seconds``: life of a sign-in that is not refreshed. ``refresh_leeway_seconds``: for how long the refresh
    token just replaced still works.
    """

    def __init__(
        self,
        database: Database,
        uow: UnitOfWork,
        tokens: TokenSigner,
        passwords: PasswordHasher,
        directory: Forgetful,
        *,
        refresh_seconds: float = 604_800,
        refresh_leeway_seconds: float = 10,
    ) -> None:
        self._database = database
        self._uow = uow
        self._tokens = tokens
        self._passwords = passwords
        self._directory = directory
        self._refresh_seconds = float(refresh_seconds)
        self._leeway = refresh_leeway_seconds

    async def sign_in(self, tenant: TenantId, login: str, password: str, device: Device) -> SignedIn:
        """Signs in by username or email.

        An unknown account and a wrong password take the same work and raise the same WrongCredentials.
        AccountSuspended is told only to who has the right password.
        """
        for _ in range(2):  # again where the hash was replaced while it was checked
            async with self._database.connection() as connection:
                known = await _find_login(connection, tenant, login)
            right = await self._passwords.verify(password, known.password_hash if known else None)
            if not right or known is None:
                break
            better = None
            if self._passwords.outdated(known.password_hash):
                better = await self._passwords.hash(password)
            signed_in = await self._admit(known, better, device)
            if signed_in is not None:
                return signed_in
        raise WrongCredentials()

    async def refresh(self, tenant: TenantId, refresh_token: str, device: Device) -> TokenPair:
        """A new pair for a refresh token; the token before it stays good for the leeway.

        Raises TokenInvalid, TokenExpired or SessionRevoked; RefreshReused for a token replaced longer ago, after which
        the whole sign-in is revoked: one of its holders is not its owner.
        """
        digest = digest_opaque_token(refresh_token)
        fresh = new_opaque_token()

        async def work(tx: Transaction) -> tuple[UserId, SessionId, bool]:
            token = await auth_sessions.lock_token(tx.connection, tenant, digest)
            if token is None:
                raise TokenInvalid("this is not a refresh token")
            if token.superseded_for is not None and token.superseded_for > self._leeway:
                return token.user, token.session, True
            if token.revoked:
                raise SessionRevoked()
            if token.expired:
                raise TokenExpired("the refresh token has expired; sign in again")
            await auth_sessions.insert_token(
                tx.connection,
                tenant,
                token.session,
                digest_opaque_token(fresh),
                rotate=token.superseded_for is None,
                user_agent=device.user_agent[:MAX_AGENT],
                ip=device.ip,
                seconds=self._refresh_seconds,
            )
            return token.user, token.session, False

        user, session, reused = await self._uow.run(work)
        if reused:
            # In a transaction of its own: a user's row is always locked before their sign-ins.
            await self._revoke(tenant, user, "refresh_reused", session)
            raise RefreshReused()
        return self._pair(tenant, user, session, fresh)

    async def sign_out(self, identity: Identity) -> None:
        """Ends the sign-in that asks, everywhere."""
        await self._revoke(identity.tenant, identity.user, "logout", identity.session)

    async def list(
        self, identity: Identity, *, before: UUID | None, limit: int
    ) -> tuple[list[AuthSession], SessionId | None]:
        """A page of the caller's live sign-ins, newest first, and where the next page begins."""
        async with self._database.connection() as connection:
            rows = await auth_sessions.list_sessions(
                connection, identity.tenant, identity.user, before=before, limit=limit + 1
            )
        page = rows[:limit]
        shown = [
            AuthSession(
                id=row.id,
                created_at=row.created_at,
                last_seen_at=row.last_seen_at,
                user_agent=row.user_agent,
                ip=row.ip,
                current=row.id == identity.session,
            )
            for row in page
        ]
        return shown, page[-1].id if len(rows) > limit else None

    async def delete(self, identity: Identity, session: SessionId) -> None:
        """Ends one of the caller's sign-ins. Raises NotFound where there is none of that id, or it is over."""
        if not await self._revoke(identity.tenant, identity.user, "session_deleted", session):
            raise NotFound()

    async def start(self, tx: Transaction, user: UserRow, device: Device) -> SignedIn:
        """Begins a sign-in in a transaction that has checked everything and holds the user's row."""
        session, refresh_token = SessionId(new_id()), new_opaque_token()
        await auth_sessions.insert_session(
            tx.connection,
            user.tenant,
            session,
            user.id,
            user_agent=device.user_agent[:MAX_AGENT],
            ip=device.ip,
            digest=digest_opaque_token(refresh_token),
            seconds=self._refresh_seconds,
        )
        pair = self._pair(user.tenant, user.id, session, refresh_token)
        return SignedIn(**pair.model_dump(), user=show_own_user(user))

    async def _admit(self, known: Credentials, better_hash: str | None, device: Device) -> SignedIn | None:
        tenant, user = known.user.tenant, known.user.id

        async def work(tx: Transaction) -> SignedIn | None:
            now = await users.lock_user(tx.connection, tenant, user)
            if now is None or now.password_hash != known.password_hash:
                return None
            if now.user.suspended_at is not None:
                raise AccountSuspended()
            if better_hash is not None:
                await users.update_password(tx.connection, tenant, user, better_hash)
            return await self.start(tx, now.user, device)

        return await self._uow.run(work)

    def _pair(self, tenant: TenantId, user: UserId, session: SessionId, refresh_token: str) -> TokenPair:
        access_token = self._tokens.access_token(tenant, user, session)
        return TokenPair(
            access_token=access_token,
            refresh_token=refresh_token,
            expires_in=self._tokens.access_seconds,
        )

    async def _revoke(
        self, tenant: TenantId, user: UserId, reason: Reason, session: SessionId
    ) -> Sequence[SessionId]:
        async def work(tx: Transaction) -> Sequence[SessionId]:
            await users.lock_user(tx.connection, tenant, user)
            ended = await revoke_sessions(tx, tenant, user, reason, session)
            await tx.append(*ended.events)
            return ended.sessions

        ended = await self._uow.run(work)
        self._directory.forget([session])
        return ended


async def _find_login(connection: Connection, tenant: TenantId, login: str) -> Credentials | None:
    if "@" in login:  # which no username holds
        # U+0000 and lone surrogates cannot be sent to PostgreSQL; they look up nobody, with the same work.
        storable = "\x00" not in login and login.encode(errors="ignore") == login.encode(errors="replace")
        return await users.find_by_email(connection, tenant, login.strip() if storable else "")
    name = user_name(login.strip())
    return await users.find_by_username(connection, tenant, name) if isinstance(name, str) else None
