"""Filling a database with made-up history fast: binary COPY, and log partitions that get their indexes last.

Everything here runs in one transaction, alone: :func:`hold` keeps instances from starting and writers from the log.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from domain.ids import TenantId
from domain.log import Topic
from storage import retention
from storage.database import Connection
from storage.log import LOG
from storage.migrate import LOCK

HOLD = "SELECT pg_advisory_xact_lock($1)"
LOCK_HEAD = "SELECT position FROM log_heads WHERE log = $1 FOR UPDATE"
COUNT_CLIENTS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'parley' AND pid <> pg_backend_pid()
"""
HAS_USERS = "SELECT EXISTS (SELECT 1 FROM users WHERE tenant_id = $1)"
# The newest moment the log knows of: its last event, or the last time the head was noted.
NEWEST = """
SELECT greatest((SELECT at FROM events WHERE position = $2), (SELECT max(at) FROM log_marks WHERE log = $1))
"""
MOVE_HEAD = "UPDATE log_heads SET position = $2 WHERE log = $1"
# Rows are made while the transaction waits, longer than a server's own transactions ever may on a busy machine.
SETTINGS = "SET LOCAL maintenance_work_mem = '256MB'; SET LOCAL idle_in_transaction_session_timeout = '5min'"

_SECONDS = 600.0  # for one COPY, or for the indexes of one partition
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_PIECE = 1 << 18
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL counts microseconds from here

_field = struct.Struct(">i").pack
_number = struct.Struct(">iq").pack
_count = struct.Struct(">h").pack
_NULL = _field(-1)

USERS = "users (tenant_id, id, username, email, password_hash, display_name, created_at, updated_at)"
CONVERSATIONS = (
    "conversations (tenant_id, id, kind, title, direct_low, direct_high, last_seq, activity_position, "
    "created_position, member_count, created_by, created_at, updated_at)"
)
MEMBERS = (
    "conversation_members (tenant_id, conversation_id, user_id, role, joined_at, joined_position, read_seq, "
    "delivered_seq, read_announced_seq, delivered_announced_seq)"
)
WINDOWS = "membership_windows (tenant_id, conversation_id, user_id, opens)"
REACTIONS = "reactions (tenant_id, conversation_id, seq, emoji, user_id, created_at)"
MARKS = "log_marks (log, at, position)"
"""Tables and the columns that :func:`copy_records` fills."""

VACUUM = (
    "VACUUM (ANALYZE) users, conversations, conversation_members, membership_windows, messages, reactions, log_marks",
    "VACUUM (ANALYZE) events",
)

EVENT_COLUMNS = ("tenant_id", "topic_kind", "topic_id", "control", "type", "at", "data", "position")
MESSAGE_COLUMNS = (
    "tenant_id",
    "conversation_id",
    "sender_id",
    "id",
    "client_id",
    "sent_digest",
    "body",
    "seq",
    "position",
    "created_at",
)


def moment(at: datetime) -> int:
    """A time as PostgreSQL keeps it: microseconds since the year 2000."""
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def event_head(tenant: TenantId, topic: Topic, type_: str, control: str | None = None) -> bytes:
    """The part of a row of ``events`` that many rows share, for :func:`pack_event`."""
    told = _NULL if control is None else _sized(control.encode())
    return b"".join(
        (
            _count(len(EVENT_COLUMNS)),
            _sized(tenant.bytes),
            _field(2) + _count(topic.kind),
            _sized(topic.id.bytes),
            told,
            _sized(type_.encode()),
        )
    )


def open_event(head: bytes, at: int, size: int) -> bytes:
    """The part of a row of ``events`` before its ``size`` bytes of data; ``at`` is a :func:`moment`."""
    return head + _number(8, at) + _field(size)


def close_event(position: int) -> bytes:
    """The part of a row of ``events`` after its data."""
    return _number(8, position)


def pack_event(head: bytes, at: int, data: bytes, position: int) -> bytes:
    """A row of ``events``."""
    return open_event(head, at, len(data)) + data + close_event(position)


def message_head(tenant: TenantId, conversation: UUID) -> bytes:
    """The part of a row of ``messages`` that those of one conversation share, for :func:`pack_message`."""
    return _count(len(MESSAGE_COLUMNS)) + _sized(tenant.bytes) + _sized(conversation.bytes)


def pack_message(
    head: bytes,
    sender: bytes,
    id: bytes,
    client_id: bytes,
    digest: bytes,
    body: bytes,
    seq: int,
    position: int,
    at: int,
) -> bytes:
    """A row of ``messages``; ids are their 16 bytes, ``at`` is a :func:`moment`."""
    sized = (_sized(sender), _sized(id), _sized(client_id), _sized(digest), _sized(body))
    return b"".join((head, *sized, _number(8, seq), _number(8, position), _number(8, at)))


def _sized(value: bytes) -> bytes:
    return _field(len(value)) + value


async def hold(connection: Connection) -> int:
    """Waits for starting instances, holds off others and every writer of the log; the position of its head."""
    await connection.execute(HOLD, LOCK)
    await connection.execute(SETTINGS)
    position: int = await connection.fetchval(LOCK_HEAD, LOG)
    return position


async def count_clients(connection: Connection) -> int:
    """How many other connections of Parley there are: more than none where an instance serves."""
    count: int = await connection.fetchval(COUNT_CLIENTS)
    return count


async def has_users(connection: Connection, tenant: TenantId) -> bool:
    """Whether the tenant has, or ever had, an account."""
    return bool(await connection.fetchval(HAS_USERS, tenant))


async def newest_moment(connection: Connection, head: int) -> datetime | None:
    """When the log last grew, as far as it knows; None for an empty one."""
    newest: datetime | None = await connection.fetchval(NEWEST, LOG, head)
    return newest


async def copy_records(connection: Connection, into: str, records: Iterable[Sequence[object]]) -> None:
    """Appends rows to a table, like :data:`USERS`. References are checked."""
    table, _, columns = into.removesuffix(")").partition(" (")
    await connection.copy_records_to_table(
        table, records=records, columns=columns.split(", "), timeout=_SECONDS
    )


async def copy_messages(connection: Connection, rows: Sequence[bytes]) -> None:
    """Appends rows of :func:`pack_message`."""
    await _copy(connection, "messages", MESSAGE_COLUMNS, rows)


async def finish(connection: Connection, head: int, marks: Sequence[tuple[datetime, int]]) -> None:
    """Moves the log's head, and notes where it was at times past."""
    await copy_records(connection, MARKS, ((LOG, at, position) for at, position in marks))
    await connection.execute(MOVE_HEAD, LOG, head)


async def vacuum(connection: Connection) -> None:
    """Statistics, and pages known to be visible to all. Not inside a transaction."""
    for statement in VACUUM:
        await connection.execute(statement, timeout=_SECONDS)


async def _copy(
    connection: Connection, table: str, columns: Sequence[str], rows: Sequence[bytes], *, freeze: bool = False
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        piece, size = [_HEADER], 0
        for row in rows:
            piece.append(row)
            size += len(row)
            if size > _PIECE:
                yield b"".join(piece)
                piece, size = [], 0
        yield b"".join((*piece, _TRAILER))

    # FREEZE: a new table's rows need no vacuum later; false is not said, since other tables refuse it.
    await connection.copy_to_table(
        table,
        source=pieces(),
        columns=columns,
        format="binary",
        freeze=freeze or None,
        timeout=_SECONDS,
    )


class LogLoader:
    """Appends to the log behind its head, in order. Partitions that are empty are made anew without indexes, filled,
    and attached, which makes the indexes: several times as fast as keeping them up row by row."""

    def __init__(self, connection: Connection, partition_events: int = retention.PARTITION_EVENTS) -> None:
        self._connection = connection
        self._size = partition_events
        self._attached = 0  # where the attached partitions end
        self._loose = ""  # the partition being filled

    async def begin(self, head: int) -> None:
        """Takes away the partitions that are for positions beyond the head, and hold nothing yet."""
        partitions = await retention.list_partitions(self._connection)
        empty = [p for p in partitions if p.end > head + 1 and not await self._holds_events(p)]
        self._attached = min([p.first for p in empty] or [p.end for p in partitions[-1:]] or [0])
        for partition in empty:
            await self._connection.execute(f"ALTER TABLE events DETACH PARTITION {partition.name}")
            await self._connection.execute(f"DROP TABLE {partition.name}")

    async def append(self, first: int, rows: Sequence[bytes]) -> None:
        """Appends rows of :func:`pack_event` with dense positions, the first one's being ``first``."""
        done = 0
        while done < len(rows):
            position = first + done
            if self._loose and position >= self._attached + self._size:
                await self._attach()
            loose = position >= self._attached
            if loose and not self._loose:
                self._loose = await retention.create_loose(self._connection, self._attached)
            end = self._attached + (self._size if loose else 0)
            part = rows[done : done + end - position]
            await _copy(self._connection, self._loose or "events", EVENT_COLUMNS, part, freeze=loose)
            done += len(part)

    async def finish(self, head: int, ahead: int) -> None:
        """Attaches what is not yet, and makes room for ``ahead`` partitions beyond the head."""
        if self._loose:
            await self._attach()
        while self._attached < head + ahead * self._size:
            self._loose = await retention.create_loose(self._connection, self._attached)
            await self._attach()

    async def _holds_events(self, partition: retention.Partition) -> bool:
        return bool(await self._connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {partition.name})"))

    async def _attach(self) -> None:
        await retention.attach(self._connection, self._loose, self._attached, self._size, timeout=_SECONDS)
        self._loose, self._attached = "", self._attached + self._size
