"""The log's partitions and its floor: room ahead of the head, and nothing kept past retention."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from storage.database import Connection
from storage.log import LOG

PARTITION_EVENTS = 2_000_000
LEADER = 0x7061726C6F67  # "parlog": one instance at a time tends the log

TRY_LEAD = "SELECT pg_try_advisory_lock($1)"
STOP_LEADING = "SELECT pg_advisory_unlock($1)"

MARK = """
INSERT INTO log_marks (log, at, position) SELECT log, now(), position FROM log_heads h
WHERE log = $1 AND NOT EXISTS (SELECT 1 FROM log_marks m WHERE m.log = h.log AND m.position >= h.position)
"""

# Positions up to the newest mark that is older than the retention time are past it.
RAISE_FLOOR = """
UPDATE log_heads h SET floor = m.position
FROM (SELECT max(position) AS position FROM log_marks WHERE log = $1 AND at < now() - $2::interval) m
WHERE h.log = $1 AND m.position > h.floor
"""
FORGET_MARKS = """
DELETE FROM log_marks m USING log_heads h WHERE m.log = $1 AND h.log = $1 AND m.position < h.floor
"""
FORGET_WINDOWS = """
DELETE FROM membership_windows w USING log_heads h WHERE h.log = $1 AND w.closes <= h.floor
"""

PARTITIONS = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bounds
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'events'::regclass
"""
BOUNDS = re.compile(r"FROM \('(\d+)'\) TO \('(\d+)'\)")


@dataclass(frozen=True, slots=True)
class Partition:
    """Holds positions ``first <= position < end``."""

    name: str
    first: int
    end: int


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
    if await connection.execute(RAISE_FLOOR, LOG, keep) != "UPDATE 0":
        await connection.execute(FORGET_MARKS, LOG)
        await connection.execute(FORGET_WINDOWS, LOG)


async def list_partitions(connection: Connection) -> list[Partition]:
    """The log's partitions, oldest first."""
    found = []
    for name, bounds in await connection.fetch(PARTITIONS):
        match = BOUNDS.search(bounds)
        if match:
            found.append(Partition(name, int(match[1]), int(match[2])))
    return sorted(found, key=lambda p: p.first)


async def add_partition(connection: Connection, first: int) -> None:
    """Makes room for positions from ``first`` on. Attaching, unlike creating in place, lets writers go on."""
    name, end = f"events_p{first}", first + PARTITION_EVENTS
    await connection.execute("SET lock_timeout = '2s'")
    try:
        await connection.execute(f"CREATE TABLE IF NOT EXISTS {name} (LIKE events INCLUDING ALL)")
        await connection.execute(
            f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({end})"
        )
    finally:
        await connection.execute("RESET lock_timeout")


async def drop_partition(connection: Connection, partition: Partition) -> None:
    """Drops a whole partition that is past retention, without stopping writers."""
    await connection.execute(f"ALTER TABLE events DETACH PARTITION {partition.name} CONCURRENTLY")
    await connection.execute(f"DROP TABLE {partition.name}")
