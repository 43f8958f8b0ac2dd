"""Checks of the parts, for ``/readyz``. Each asks the part itself, and says in fixed words what is wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from redis.asyncio import Redis

from domain.errors import Unavailable
from handlers.service import Check, Part
from storage.database import Database

OK = Part("ok")


def database_check(database: Database) -> Check:
    """PostgreSQL answers a statement, and can be written to. Vital: nothing is durable without it.

    ``database`` is one that users cannot keep busy: an instance that has much to do is well.
    """

    async def run() -> Part:
        try:
            async with database.connection() as connection:
                if await connection.fetchval("SHOW transaction_read_only") == "on":
                    return Part("down", "PostgreSQL is read-only")
        except Unavailable:
            return Part("down", "PostgreSQL does not answer")
        return OK

    return Check(run)


def redis_check(redis: Redis) -> Check:
    """Redis answers a ping. Not vital: events are then read from the log itself, a little later (I7)."""

    async def run() -> Part:
        await cast("Awaitable[object]", redis.ping())
        return OK

    return Check(run, vital=False)


def flag_check(good: Callable[[], bool], wrong: str, *, vital: bool = True) -> Check:
    """For a part that knows its own state: the log reader being fresh, the secret key being the database's."""

    async def run() -> Part:
        return OK if good() else Part("down", wrong)

    return Check(run, vital=vital)
