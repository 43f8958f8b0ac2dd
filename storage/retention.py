"""The log's partitions and its floor: room ahead of the head, and nothing kept past retention."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, count

from storage.database import Connection
from storage.log import LOG

PARTITION_EVENTS = 2_000_000
LEADER = 0x7061726C6F67  # "parlog": one instance at a time tends the log

TRY_LEAD = "SELECT pg_try_advisory_lock($1)"
STOP_LEADING = "SELECT pg_advisory_unlock($1)"

MARK = """
INSERT INTO log_marks (log, at, position) SELECT log, now(), position FROM log_heads h
WHERE log = $1 AND position > coalesce((SELECT position FROM log_marks WHERE log = $1 ORDER BY at DESC LIMIT 1), -1)
"""

# Positions up to the newest mark that is older than the retention time are past it.
RAISE_FLOOR = """
UPDATE log_heads h SET floor = m.position
FROM (SELECT max(position) AS position FROM log_marks WHERE log = $1 AND at < now() - $2::interval) m
WHERE h.log = $1 AND m.position > h.floor RETURNING h.floor
"""
FORGET_MARKS = """
DELETE FROM log_marks m USING log_heads h
WHERE m.log = $1 AND h.log = $1 AND m.at < now() - $2::interval AND m.position < h.floor
"""
# A bounded number by the index on closes: a backlog must not outlast the time limit and keep the rest from being done.
FORGET_WINDOWS = """
DELETE FROM membership_windows WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM membership_windows WHERE closes <= $1 ORDER BY closes LIMIT $2
))
"""
WINDOWS_AT_ONCE = 20_000

PARTITIONS = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bounds, i.inhdetachpending
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'events'::regclass
"""
# What a detaching left behind that was cut off before the table was dropped.
DETACHED = """
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass)
    AND c.relkind = 'r' AND c.relname ~ '^events_p[0-9]+(_[0-9]+)?$' AND NOT c.relispartition
ORDER BY c.relname
"""
NAMES = """
SELECT relname FROM pg_class WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass)
    AND starts_with(relname, $1)
"""
BOUNDS = re.compile(r"FROM \('(\d+)'\) TO \('(\d+)'\)")


@dataclass(frozen=True, slots=True)
class Partition:
    """Holds positions ``first <= position < end``.

    ``detaching``: a detaching of it was cut off. No new statement reads it, and no other can be detached before it.
    """

    name: str
    first: int
    end: int
    detaching: bool = False


async def try_lead(connection: Connection) -> bool:
    """Whether this connection may tend the log now. Give it back with :func:`stop_leading`."""
    return bool(await connection.fetchval(TRY_LEAD, LEADER))


async def stop_leading(connection: Connection) -> None:
    await connection.execute(STOP_LEADING, LEADER)


async def mark(connection: Connection) -> None:
    """Notes where the head is now, if it has moved."""
    await connection.execute(MARK, LOG)


async def raise_floor(connection: Connection, keep: timedelta) -> None:
    """Moves the floor up to what is older than ``keep``, and forgets what only older events needed."""
    floor = await connection.fetchval(RAISE_FLOOR, LOG, keep)
    if floor is not None:
        await connection.execute(FORGET_MARKS, LOG, keep)
        await connection.execute(FORGET_WINDOWS, floor, WINDOWS_AT_ONCE)


async def list_partitions(connection: Connection) -> list[Partition]:
    """The log's partitions, oldest first."""
    found = []
    for name, bounds, detaching in await connection.fetch(PARTITIONS):
        match = BOUNDS.search(bounds or "")
        if match:
            found.append(Partition(name, int(match[1]), int(match[2]), detaching))
    return sorted(found, key=lambda p: p.first)


@asynccontextmanager
async def _patience(connection: Connection) -> AsyncIterator[None]:
    """Waits for locks no longer than this: whoever needs the table would have to wait behind."""
    await connection.execute("SET lock_timeout = '2s'")
    try:
        yield
    finally:
        await connection.execute("RESET lock_timeout")


async def add_partition(connection: Connection, first: int, size: int = PARTITION_EVENTS) -> None:
    """Makes room for ``size`` positions from ``first`` on. Attaching, unlike creating in place, lets writers go on.

    All or nothing. A table of the usual name that stands unattached is left alone: who knows what it holds.
    """
    async with _patience(connection), connection.transaction():
        name = await create_loose(connection, first, indexes=True)
        await attach(connection, name, first, size)


async def create_loose(connection: Connection, first: int, *, indexes: bool = False) -> str:
    """A table like a partition for positions from ``first`` on, which is none yet; its name.

    Without ``indexes``, :func:`attach` makes them.
    """
    name = f"events_p{first}"
    taken = {row[0] for row in await connection.fetch(NAMES, name)}
    name = next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n not in taken)
    left_out = "" if indexes else " EXCLUDING INDEXES"
    await connection.execute(f"CREATE TABLE {name} (LIKE events INCLUDING ALL{left_out})")
    return name


async def attach(
    connection: Connection, name: str, first: int, size: int, *, timeout: float | None = None
) -> None:
    """Makes a table part of the log. It waits for no writer, and no writer waits for it: both may go on at once."""
    await connection.execute(
        f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({first + size})",
        timeout=timeout,
    )


async def detach_partition(connection: Connection, partition: Partition) -> None:
    """Takes a partition out of the log without stopping writers, or goes on where that was cut off.

    It waits for transactions that use the log: a long one, such as a dump, makes it fail by its time limit. Then the
    partition is ``detaching``, and this can be tried again.
    """
    if not partition.detaching:
        await connection.execute(f"ALTER TABLE events DETACH PARTITION {partition.name} CONCURRENTLY")
        return
    async with _patience(connection):
        await connection.execute(f"ALTER TABLE events DETACH PARTITION {partition.name} FINALIZE")


async def drop_detached(connection: Connection, floor: int) -> list[str]:
    """Drops the detached partitions of which no event lies beyond ``floor``; their names."""
    dropped = []
    for (name,) in await connection.fetch(DETACHED):
        newest = await connection.fetchval(f"SELECT max(position) FROM {name}")
        if newest is None or newest <= floor:
            async with _patience(connection):
                await connection.execute(f"DROP TABLE {name}")
            dropped.append(name)
    return dropped
