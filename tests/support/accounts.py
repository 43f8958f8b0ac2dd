"""Accounts on a real database, without a server: the services as the server wires them, and a clock that tests set."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiojobs

from domain.identity import Identity
from domain.ids import DEFAULT_TENANT, SessionId, TenantId, UserId
from domain.log import StoredEvent
from domain.resources import SignedIn
from services.accounts import Accounts
from services.admin import Admin
from services.blocks import Blocks
from services.members import GroupDeparture
from services.profiles import Profiles
from services.security.passwords import PasswordHasher
from services.security.tokens import TokenSigner
from services.sessions import SessionDirectory
from services.sign_ins import Device, SignIns
from services.tenants import create_tenant
from services.tickets import Tickets
from services.unit_of_work import UnitOfWork
from storage.database import Connection, Database

SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"
PASSWORD = "correct horse battery"
DEVICE = Device("a test", "192.0.2.7")
LEEWAY = 10.0
REFRESH_SECONDS = 604_800.0


class Clock:
    """The time on the wall, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Told:
    """Keeps what was told after a commit, in the order of the log."""

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []

    def committed(self, events: Sequence[StoredEvent]) -> None:
        self.events += events


class CountingDatabase(Database):
    """Counts the connections taken: one for each read or transaction."""

    taken = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        self.taken += 1
        async with super().connection() as connection:
            yield connection


@dataclass
class Office:
    """One instance's services, and what its commits told."""

    database: CountingDatabase
    uow: UnitOfWork
    jobs: aiojobs.Scheduler
    told: Told
    clock: Clock
    fresh: list[bool]
    """One item: whether the log reader is up to date."""
    signer: TokenSigner
    passwords: PasswordHasher
    directory: SessionDirectory
    sign_ins: SignIns
    accounts: Accounts
    admin: Admin
    profiles: Profiles
    blocks: Blocks
    tickets: Tickets

    async def register(self, name: str, tenant: TenantId = DEFAULT_TENANT) -> SignedIn:
        return await self.accounts.register(
            tenant, username=name, email=f"{name}@example.com", password=PASSWORD, device=DEVICE
        )

    async def person(self, name: str, tenant: TenantId = DEFAULT_TENANT) -> Identity:
        """Somebody registered and signed in."""
        return await self.identify(await self.register(name, tenant), tenant)

    async def identify(self, signed_in: SignedIn, tenant: TenantId = DEFAULT_TENANT) -> Identity:
        return await self.directory.authenticate(tenant, signed_in.access_token)

    async def sign_in(self, name: str, tenant: TenantId = DEFAULT_TENANT) -> SignedIn:
        return await self.sign_ins.sign_in(tenant, name, PASSWORD, DEVICE)

    async def moderator(self, name: str = "moderator") -> Identity:
        await self.admin.create_admin(
            DEFAULT_TENANT, username=name, email=f"{name}@example.com", password=PASSWORD
        )
        return await self.identify(await self.sign_in(name))

    async def tenant(self, slug: str) -> TenantId:
        return await create_tenant(self.uow, slug, slug.title())

    async def sql(self, statement: str, *values: Any) -> list[Any]:
        async with self.database.connection() as connection:
            return [tuple(row) for row in await connection.fetch(statement, *values)]

    async def supersede_earlier(self, seconds: float) -> None:
        """Lets time pass for refresh tokens that were replaced."""
        await self.sql(
            "UPDATE refresh_tokens SET superseded_at = superseded_at - make_interval(secs => $1)", seconds
        )

    def revoked(self) -> list[tuple[UserId, SessionId, bytes]]:
        """Whose sign-ins the log says are over, which, and what it tells them."""
        return [
            (UserId(event.topic.id), session, event.data)
            for event in self.told.events
            for session in event.control.revokes
        ]


@asynccontextmanager
async def open_office(database_url: str, *, rounds: int = 4, **settings: Any) -> AsyncIterator[Office]:
    """An instance's services on a migrated database. Several may share one."""
    async with (
        CountingDatabase(database_url, pool_size=10) as database,
        aiojobs.Scheduler(limit=None) as jobs,
        PasswordHasher(rounds=rounds) as passwords,
    ):
        told, clock, fresh = Told(), Clock(), [True]
        uow = UnitOfWork(database, told, jobs)
        signer = TokenSigner(settings.pop("secret", SECRET), access_seconds=900, clock=clock)
        directory = SessionDirectory(database, signer, jobs, fresh=lambda: fresh[0], clock=clock, **settings)
        sign_ins = SignIns(
            database,
            uow,
            signer,
            passwords,
            directory,
            refresh_seconds=REFRESH_SECONDS,
            refresh_leeway_seconds=LEEWAY,
        )
        accounts = Accounts(database, uow, passwords, sign_ins, directory, departure=GroupDeparture(uow))
        yield Office(
            database,
            uow,
            jobs,
            told,
            clock,
            fresh,
            signer,
            passwords,
            directory,
            sign_ins,
            accounts,
            Admin(database, uow, accounts, directory),
            Profiles(database, uow),
            Blocks(database, uow),
            Tickets(database, uow, signer, directory, jobs),
        )
