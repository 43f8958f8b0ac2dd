"""Storing a batch of new messages with one call: the hot path of the whole server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast
from uuid import UUID

from domain.ids import ClientId, TenantId, UserId
from domain.log import Topic
from storage.database import Connection

Outcome = Literal["stored", "known", "not_found", "blocked", "reply_not_found"]

SEND_BATCH = """
SELECT outcome, message_seq, event_position
FROM send_messages($1, $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[], $8::bigint[],
    $9::bytea[], $10::text[])
"""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to store.

    ``topic`` is its conversation's. ``data`` is its public JSON without the opening ``{"seq":N``, which only the store
    knows.
    """

    tenant: TenantId
    topic: Topic
    sender: UserId
    client_id: ClientId | None
    id: str
    body: str
    reply_to_seq: int | None
    digest: bytes
    data: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one message. ``seq`` and ``position`` are there where it was stored now.

    ``known``: its author used this ``client_id`` before; nothing was stored. ``not_found``: the author is not a member.
    """

    outcome: Outcome
    seq: int | None
    position: int | None


async def send_batch(connection: Connection, at: datetime, messages: Sequence[NewMessage]) -> list[Sent]:
    """Stores messages and their events, in this order; answers one :class:`Sent` for each.

    Runs in the caller's transaction, or as one of its own. Takes the conversations' row locks by id, then the log head.
    A ``client_id`` may be in a batch only once. A bad message fails alone; what PostgreSQL refuses fails them all.
    """
    columns: list[Sequence[UUID | str | int | bytes | None]] = [
        [m.tenant for m in messages],
        [m.topic.id for m in messages],
        [m.sender for m in messages],
        [m.client_id for m in messages],
        [m.id for m in messages],
        [m.body for m in messages],
        [m.reply_to_seq for m in messages],
        [m.digest for m in messages],
        [m.data for m in messages],
    ]
    return [
        Sent(cast("Outcome", o), seq, position)
        for o, seq, position in await connection.fetch(SEND_BATCH, at, *columns)
    ]
