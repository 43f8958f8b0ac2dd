"""Looks at PostgreSQL and Redis before serving, and says in one line what is wrong and what to do."""

from __future__ import annotations

import asyncio
import resource
from urllib.parse import urlsplit

import asyncpg
import redis.asyncio as redis_client
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from server.logging import without_password
from server.startup import StartupError
from storage import migrate

OLDEST_POSTGRES = 150_000
OLDEST_REDIS = (6, 2)
FEWEST_DESCRIPTORS = 4096
_SECONDS = 10


def few_descriptors() -> int | None:
    """How many files this process may have open, where that is so few that connections will run out. Else None."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY or limit >= FEWEST_DESCRIPTORS else limit


async def check_database(url: str) -> str:
    """Connects once. Returns PostgreSQL's version; raises `StartupError` where it cannot be used."""
    try:
        connection = await asyncpg.connect(url, timeout=_SECONDS)
        try:
            number = int(await connection.fetchval("SHOW server_version_num", timeout=_SECONDS))
            version: str = await connection.fetchval("SHOW server_version", timeout=_SECONDS)
        finally:
            await connection.close(timeout=_SECONDS)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise database_error(url, error) from error
    if number < OLDEST_POSTGRES:
        raise StartupError(
            f"PostgreSQL at {without_password(url)} is version {version}; Parley needs 15 or newer.",
            "Upgrade it, or unset DATABASE_URL to use the embedded one.",
        )
    return version


async def migrate_database(url: str) -> None:
    """Brings the schema up to date. Raises `StartupError` where the database is newer than this code."""
    await check_database(url)
    try:
        await migrate.upgrade(url)
    except migrate.SchemaTooNew as error:
        raise StartupError(
            f"the database at {without_password(url)} has a newer schema than this version of Parley knows.",
            "Run the newer Parley, or restore a backup from before it.",
        ) from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as error:
        raise database_error(url, error) from error


async def check_redis(url: str) -> str:
    """Connects once. Returns the server's version; raises `StartupError` where it cannot be used."""
    client = redis_client.Redis.from_url(
        url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS, decode_responses=True
    )
    where = without_password(url)
    try:
        async with client, asyncio.timeout(_SECONDS):
            info = await client.info("server")
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        raise StartupError(
            f"Redis at {where} cannot be reached: {_reason(error)}.",
            "Start it, correct REDIS_URL, or unset REDIS_URL to use the embedded one.",
        ) from error
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise StartupError(
            f"Redis at {where} is version {version}; Parley needs 6.2 or newer.", "Upgrade it."
        )
    return version


def database_error(url: str, error: BaseException) -> StartupError:
    """What a failure to use the database at `url` means to the operator. Never repeats a password."""
    where = without_password(url)
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    if isinstance(error, asyncpg.InvalidPasswordError | asyncpg.InvalidAuthorizationSpecificationError):
        return StartupError(f"PostgreSQL at {where} refuses the user or password.", "Correct DATABASE_URL.")
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        name = urlsplit(url).path.lstrip("/")
        return StartupError(
            f"PostgreSQL at {where} has no database {name!r}.",
            f"Create it (createdb {name}) or correct DATABASE_URL.",
        )
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return StartupError(
            f"the user of DATABASE_URL may not do this at {where}: {_reason(error)}.",
            "Grant it the right to.",
        )
    if isinstance(error, ValueError | asyncpg.InterfaceError):
        return StartupError(f"DATABASE_URL cannot be used: {_reason(error)}.", "Correct it.")
    return StartupError(
        f"PostgreSQL at {where} cannot be used: {_reason(error)}.",
        "Start it, correct DATABASE_URL, or unset DATABASE_URL to use the embedded one.",
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer within {_SECONDS} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
    return str(text).rstrip(".")
