"""What the command line does beside serving. Each starts the embedded services where no URL is given."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import aiojobs
import structlog

from domain.errors import InvalidFields, ParleyError
from domain.ids import DEFAULT_TENANT, SessionId
from domain.log import StoredEvent
from handlers.routes import ROUTES
from server.embedded import EmbeddedServices
from server.openapi import build, encode
from server.preflight import check_database, migrate_database
from server.progress import ProgressBar
from server.settings import Settings
from server.startup import StartupError
from services.accounts import Accounts, check_password
from services.admin import Admin
from services.deployment import begin_new_epoch
from services.security.passwords import PasswordHasher
from services.security.tokens import TokenSigner
from services.seed_plan import SeedRefused, SeedSize
from services.seeding import Seeding
from services.sign_ins import SignIns
from services.tenants import SLUG, Tenants
from services.tenants import create_tenant as store_tenant
from services.unit_of_work import UnitOfWork
from storage import migrate as migrations
from storage.database import Database

_log: structlog.stdlib.BoundLogger = structlog.get_logger("parley.commands")

SEED_PASSWORD = "parley-seed"  # noqa: S105  # of made-up accounts, known to everyone
_SEED_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a command that writes needs: a migrated database, and the way to write to it."""

    database: Database
    jobs: aiojobs.Scheduler
    uow: UnitOfWork


class _Alone:
    """Stands where an instance has its hub and its memory of sign-ins. A command serves nobody, so there is nothing
    to tell; running instances find what it writes in the log."""

    def committed(self, events: Sequence[StoredEvent]) -> None:
        pass

    def forget(self, sessions: Iterable[SessionId], /) -> None:
        pass


async def migrate(settings: Settings) -> str:
    """Brings the schema up to date; returns its revision. Raises `StartupError`."""
    async with EmbeddedServices(settings) as services:
        await migrate_database(services.database_url)
    return await asyncio.to_thread(migrations.newest_revision)


async def create_admin(
    settings: Settings, username: str, email: str, password: str, tenant: str | None
) -> str:
    """Makes an account with every permission; returns what to tell the operator. Raises `StartupError`."""
    alone = _Alone()
    async with _workplace(settings) as work, PasswordHasher(rounds=settings.bcrypt_rounds) as passwords:
        signer = TokenSigner(secrets.token_hex())  # nobody is signed in here, so any key will do
        sign_ins = SignIns(work.database, work.uow, signer, passwords, alone)
        accounts = Accounts(work.database, work.uow, passwords, sign_ins, alone)
        where = DEFAULT_TENANT
        if tenant is not None:
            where = await Tenants(work.database, work.jobs).of_slug(tenant)
        admin = Admin(work.database, work.uow, accounts, alone)
        made = await admin.create_admin(where, username=username, email=email, password=password)
    return f"{made.username} is an administrator (id {made.id})."


async def create_tenant(settings: Settings, slug: str, name: str) -> str:
    """Makes a tenant; returns what to tell the operator. Raises `StartupError`."""
    async with _workplace(settings) as work:
        tenant = await store_tenant(work.uow, slug, name)
    domain = settings.base_domain
    where = f"at {slug}.{domain}" if domain else "once PARLEY_BASE_DOMAIN is set, at its subdomain"
    return f"The tenant {slug} (id {tenant}) is reached {where}."


async def new_epoch(settings: Settings) -> str:
    """Has every client read anew, after a restore; returns what to tell the operator. Raises `StartupError`."""
    async with _workplace(settings) as work:
        await begin_new_epoch(work.database)
    return "Cursors from before are void: clients are told to resync. Restart every instance now."


async def seed(
    settings: Settings,
    bar: ProgressBar,
    tenant: str | None,
    size: SeedSize,
    number: int,
    password: str | None,
) -> str:
    """Makes up history in an empty tenant; returns what to tell the operator.

    Raises `StartupError` where nothing was seeded. Cancelled, it says in the log what is left.
    """
    if settings.environment == "production" and password is None:
        raise StartupError(
            "in production, accounts with a known password are not made.", "Give a --password."
        )
    if tenant is not None and not SLUG.fullmatch(tenant):
        raise StartupError("--tenant must be a DNS label: 1 to 63 of a-z 0-9 and inner hyphens.")
    if password is not None:
        try:
            check_password(password)
        except ValueError as error:
            raise StartupError(f"--password {error}.") from error
    began = time.monotonic()
    _end_in_order()
    async with EmbeddedServices(settings) as services:
        url = services.database_url
        await check_database(url)
        async with Database(url, pool_size=1, statement_seconds=_SEED_SECONDS) as database:
            seeding = Seeding(database, progress=bar.show)
            with _undone(bar):
                await seeding.look()  # a schema that instances work on is left alone
                await migrate_database(url)
                async with PasswordHasher(rounds=settings.bcrypt_rounds) as passwords:
                    hashed = await passwords.hash(SEED_PASSWORD if password is None else password)
                made = await seeding.run(tenant, size, number, hashed)
            missing = await _settled(seeding, bar)
    seconds = time.monotonic() - began
    bar.end()
    return (
        f"{size.users:,} users, {made.conversations:,} conversations, {made.messages:,} messages and "
        f"{made.log_rows:,} log rows in {seconds:.0f} s: {made.rows:,} rows, {made.rows / seconds:,.0f}/s.\n"
        f"Sign in as {made.first_user} to {made.last_user}"
        + (f" with the password {SEED_PASSWORD}." if password is None else " with the password you gave.")
        + missing
    )


@contextmanager
def _undone(bar: ProgressBar) -> Iterator[None]:
    """Says of what ends the block early that nothing was seeded."""
    try:
        yield
    except SeedRefused as refused:
        raise StartupError(f"nothing was seeded: {refused}.") from refused
    except ParleyError as error:
        raise StartupError(f"nothing was seeded: {_told(error)}") from error
    except asyncio.CancelledError:
        bar.end()
        _log.warning("seed_stopped", left="nothing")
        raise


async def _settled(seeding: Seeding, bar: ProgressBar) -> str:
    """What to add for the operator where the statistics could not be made; all else is stored by now."""
    try:
        await seeding.settle()
    except ParleyError as error:
        return f"\nIt is seeded, without statistics, which PostgreSQL makes up for in time: {_told(error)}"
    except asyncio.CancelledError:
        bar.end()
        _log.warning("seed_stopped", left="all but the statistics")
        raise
    return ""


def _end_in_order() -> None:
    """Lets SIGTERM end this task as Ctrl-C does: what was begun is undone, services that were started are stopped.

    SIGINT as well: where a shell starts something in the background, it is ignored.
    """
    task = asyncio.current_task()
    assert task is not None
    for sent in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sent, task.cancel)


def openapi_document() -> str:
    """The OpenAPI document as JSON, the one an instance serves."""
    return encode(build(ROUTES)).decode()


@asynccontextmanager
async def _workplace(settings: Settings) -> AsyncIterator[Workplace]:
    async with EmbeddedServices(settings) as services:
        await migrate_database(services.database_url)
        jobs = aiojobs.Scheduler(limit=None, exception_handler=_job_failed)
        try:
            async with Database(services.database_url, pool_size=2) as database:
                yield Workplace(database, jobs, UnitOfWork(database, _Alone(), jobs))
        except ParleyError as error:
            raise StartupError(_told(error)) from error
        finally:
            await jobs.close()


def _told(error: ParleyError) -> str:
    if isinstance(error, InvalidFields):
        return "; ".join(f"--{field.pointer.lstrip('/')} {field.detail}" for field in error.fields) + "."
    return f"{error.detail}."


def _job_failed(scheduler: aiojobs.Scheduler, context: dict[str, object]) -> None:
    _log.error("job_failed", problem=str(context.get("exception")))
