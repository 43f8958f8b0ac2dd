"""Accounts: making one, and leaving."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from email_validator import EmailNotValidError, validate_email

from domain.errors import AlreadyTaken, FieldError, InvalidFields, Unavailable, WrongPassword
from domain.identity import Identity, Permission
from domain.ids import SessionId, TenantId, UserId, new_id
from domain.resources import OwnUser, SignedIn
from services.profiles import show_own_user
from services.revocation import revoke_sessions
from services.security.passwords import PasswordHasher
from services.sessions import SessionRevoked
from services.sign_ins import Device, Forgetful, SignIns
from services.unit_of_work import Transaction, UnitOfWork
from storage import blocks, users
from storage.database import Connection, Database
from storage.users import Taken, UserRow

T = TypeVar("T")

USERNAME = re.compile(r"[a-z0-9_.]{3,30}")
PASSWORD_BYTES = range(8, 1024 + 1)


ROUNDS = 5
"""How often somebody who is being taken into groups all the time leaves them, before the deletion is put off."""


class Departure(Protocol):
    """What becomes of the conversations of somebody who deletes their account."""

    async def leave(self, identity: Identity) -> None:
        """Makes them leave, in transactions of its own, before the account is deleted."""
        ...

    async def is_out(self, connection: Connection, identity: Identity) -> bool:
        """Whether nobody has taken them in again since. Their account is locked."""
        ...


class _TakenIn(Exception):
    """Somebody took the user into a group after they had left all."""


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account about to be stored, everything checked but that its names are free."""

    tenant: TenantId
    username: str
    email: str
    password_hash: str
    display_name: str
    permissions: Permission


def check_username(text: str) -> str:
    """A username as stored, in lower case. Raises ValueError."""
    name = text.lower() if text.isascii() else ""
    if not USERNAME.fullmatch(name):
        raise ValueError("must be 3 to 30 of a-z 0-9 _ .")
    return name


def check_email(text: str) -> str:
    """An email address as stored. Raises ValueError. Only its syntax is looked at; nothing is asked of any network."""
    try:
        # The suffix lets names through that the global mail system does not know, as intranets and tests use them.
        known = validate_email(f"{text}.example", check_deliverability=False).normalized
    except EmailNotValidError:
        known = ""
    address = known.removesuffix(".example")
    if "." not in address.rpartition("@")[2]:
        raise ValueError("must be an email address")
    return address


def check_password(text: str) -> str:
    """A password that may be set. Raises ValueError."""
    if len(text.encode(errors="surrogatepass")) not in PASSWORD_BYTES:
        raise ValueError("must be 8 to 1,024 bytes in UTF-8")
    return text


class Accounts:
    """Makes and deletes accounts."""

    def __init__(
        self,
        database: Database,
        uow: UnitOfWork,
        passwords: PasswordHasher,
        sign_ins: SignIns,
        directory: Forgetful,
        *,
        departure: Departure | None = None,
        changed: Callable[[Collection[UserId]], None] = lambda users: None,
    ) -> None:
        """``changed`` is called with a user after a commit that hid them from everyone."""
        self._database = database
        self._uow = uow
        self._passwords = passwords
        self._sign_ins = sign_ins
        self._directory = directory
        self._departure = departure
        self._changed = changed

    async def register(
        self,
        tenant: TenantId,
        *,
        username: str,
        email: str,
        password: str,
        display_name: str | None = None,
        device: Device,
    ) -> SignedIn:
        """Makes an account and signs it in.

        Raises InvalidFields, AlreadyTaken (``username_taken`` or ``email_taken``), Overloaded.
        """
        account = await self.prepare(tenant, username, email, password, display_name)

        async def work(tx: Transaction) -> SignedIn:
            return await self._sign_ins.start(tx, await insert_account(tx, account), device)

        return await self._uow.run(work)

    async def create(
        self, tenant: TenantId, *, username: str, email: str, password: str, permissions: Permission
    ) -> OwnUser:
        """Makes an account with permissions, for the operator. Raises as :meth:`register` does."""
        account = await self.prepare(tenant, username, email, password, None, permissions)

        async def work(tx: Transaction) -> OwnUser:
            return show_own_user(await insert_account(tx, account))

        return await self._uow.run(work)

    async def delete(self, identity: Identity, password: str) -> None:
        """Deletes the caller's account. Raises WrongPassword; Unavailable, after which they may be in fewer groups.

        What is personal is emptied, its names are free at once, every sign-in ends. Messages stay, under a name that
        nobody can take.
        """
        tenant, user = identity.tenant, identity.user
        async with self._database.connection() as connection:
            known = await users.find_by_id(connection, tenant, user)
        if known is None:
            raise SessionRevoked()
        if not await self._passwords.verify(password, known.password_hash):
            raise WrongPassword()

        async def work(tx: Transaction) -> Sequence[SessionId]:
            if await users.lock_user(tx.connection, tenant, user) is None:
                raise SessionRevoked()
            # Whoever takes them in holds the account too (FOR SHARE): either we see it here, or they see it deleted.
            if self._departure is not None and not await self._departure.is_out(tx.connection, identity):
                raise _TakenIn()
            ended = await revoke_sessions(tx, tenant, user, "account_deleted")
            await blocks.delete_blocks_of(tx.connection, tenant, user)
            await users.anonymise(tx.connection, tenant, user)
            await tx.append(*ended.events)
            return ended.sessions

        self._directory.forget(await self._out_of_groups(identity, work))
        self._changed((user,))

    async def _out_of_groups(self, identity: Identity, work: Callable[[Transaction], Awaitable[T]]) -> T:
        for _ in range(ROUNDS):
            if self._departure is not None:
                await self._departure.leave(identity)
            try:
                return await self._uow.run(work)
            except _TakenIn:
                continue
        raise Unavailable("somebody keeps taking this account into groups; try again")

    async def prepare(
        self,
        tenant: TenantId,
        username: str,
        email: str,
        password: str,
        display_name: str | None,
        permissions: Permission = Permission.NONE,
    ) -> NewAccount:
        """Checks everything and hashes the password; :func:`insert_account` follows in a transaction."""
        wrong: list[FieldError] = []
        checked: list[str] = []
        for pointer, check, text in (
            ("/username", check_username, username),
            ("/email", check_email, email),
            ("/password", check_password, password),
        ):
            try:
                checked.append(check(text))
            except ValueError as error:
                wrong.append(FieldError(pointer, str(error)))
        if wrong:
            raise InvalidFields(wrong)
        name, address, _ = checked
        async with self._database.connection() as connection:  # asked before the work of hashing
            taken = await users.find_taken(connection, tenant, name, address)
        if taken is not None:
            raise already_taken(taken)
        hashed = await self._passwords.hash(password)
        return NewAccount(tenant, name, address, hashed, display_name or name, permissions)


async def insert_account(tx: Transaction, account: NewAccount) -> UserRow:
    """Stores a new account. Raises AlreadyTaken, also where another got there while the password was hashed."""
    row = await users.insert_user(
        tx.connection,
        account.tenant,
        UserId(new_id()),
        username=account.username,
        email=account.email,
        password_hash=account.password_hash,
        display_name=account.display_name,
        permissions=account.permissions,
    )
    if isinstance(row, Taken):
        raise already_taken(row)
    return row


def already_taken(taken: Taken) -> AlreadyTaken:
    """The error whose code says what is taken."""
    if taken is Taken.USERNAME:
        return AlreadyTaken("this username is taken", code="username_taken")
    return AlreadyTaken("this email address is taken", code="email_taken")
