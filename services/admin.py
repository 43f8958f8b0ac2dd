"""What moderators do to accounts, and how the first of them is made."""

from __future__ import annotations

from collections.abc import Sequence

from domain.errors import Forbidden, Invalid, NotFound
from domain.identity import Identity, Permission
from domain.ids import SessionId, TenantId
from domain.resources import OwnUser
from services.accounts import Accounts
from services.revocation import revoke_sessions
from services.sign_ins import Forgetful
from services.unit_of_work import Transaction, UnitOfWork
from services.visibility import named_user
from storage import users
from storage.database import Database

ADMIN = Permission.MODERATE_USERS | Permission.ADMINISTER


class Admin:
    """Suspends accounts and makes administrators."""

    def __init__(self, database: Database, uow: UnitOfWork, accounts: Accounts, directory: Forgetful) -> None:
        self._database = database
        self._uow = uow
        self._accounts = accounts
        self._directory = directory

    async def create_admin(self, tenant: TenantId, *, username: str, email: str, password: str) -> OwnUser:
        """Makes an account with every permission. Raises InvalidFields, AlreadyTaken."""
        return await self._accounts.create(
            tenant, username=username, email=email, password=password, permissions=ADMIN
        )

    async def suspend(self, identity: Identity, name: str) -> None:
        """Suspends an account and ends all its sign-ins. Done already, it does nothing.

        Raises Forbidden without the permission, or where the account has one the caller lacks; NotFound; Invalid for
        oneself. Blocks hide nobody from a moderator.
        """
        await self._set_suspended(identity, name, suspended=True)

    async def unsuspend(self, identity: Identity, name: str) -> None:
        """Lets an account sign in again; its former sign-ins stay over. Raises as :meth:`suspend` does."""
        await self._set_suspended(identity, name, suspended=False)

    async def check_moderator(self, identity: Identity) -> Permission:
        """The caller's permissions as they are now. Raises Forbidden where moderating is not among them."""
        async with self._database.connection() as connection:
            actor = await users.find_user(connection, identity.tenant, identity.user)
        if actor is None or Permission.MODERATE_USERS not in actor.permissions:
            raise Forbidden()
        return actor.permissions

    async def _set_suspended(self, identity: Identity, name: str, *, suspended: bool) -> None:
        permissions = await self.check_moderator(identity)
        async with self._database.connection() as connection:
            target = await named_user(connection, identity.tenant, name)
        if target.id == identity.user:
            raise Invalid("nobody can suspend themselves", code="cannot_suspend_self")

        async def work(tx: Transaction) -> Sequence[SessionId]:
            now = await users.lock_user(tx.connection, identity.tenant, target.id)
            if now is None:
                raise NotFound()
            if now.user.permissions & ~permissions:
                raise Forbidden("this account has permissions that you lack")
            await users.set_suspended(tx.connection, identity.tenant, target.id, suspended)
            if not suspended:
                return ()
            ended = await revoke_sessions(tx, identity.tenant, target.id, "account_suspended")
            await tx.append(*ended.events)
            return ended.sessions

        self._directory.forget(await self._uow.run(work))
