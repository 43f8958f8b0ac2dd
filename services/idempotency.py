"""Idempotency keys: the first 2xx answer of an operation is kept with it, and given again for the same request.

The kept answer is a row written in the operation's own transaction, so it exists if and only if the operation
committed. A lease in Redis tells a second request that the first still runs; without Redis the row alone protects, and
the second waits for the first instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import orjson
import structlog
from pydantic import BaseModel

from domain.errors import IdempotencyKeyReused, Unavailable
from domain.ids import ConversationId, TenantId, UserId
from domain.log import rfc3339
from realtime.events import REDACTED
from services.unit_of_work import Transaction, UnitOfWork
from storage import idempotency, messages
from storage.database import Connection, Database
from storage.idempotency import Leases

T = TypeVar("T")

log = structlog.get_logger(__name__)

PURGE_SECONDS = 3600.0
PURGE_BATCH = 1000


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The Idempotency-Key of one request: whose it is, and what it was used for."""

    tenant: TenantId
    user: UserId
    key: str
    fingerprint: bytes
    """Digest of method, path and body: the same key with another one is an error."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer: what is kept, and what is sent."""

    status: int
    body: bytes = b""
    replayed: bool = False
    """Given before: the edge adds ``Idempotent-Replayed: true``."""


def answer_of(status: int, resource: BaseModel | None = None) -> Answer:
    """The answer that shows a public resource, or nothing."""
    return Answer(status, b"" if resource is None else resource.model_dump_json().encode())


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """What a key stands for. Lengths keep the three parts apart."""
    digest = hashlib.sha256()
    for part in (method.encode(), path.encode(errors="surrogateescape"), body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


async def run_kept(
    uow: UnitOfWork,
    keep: KeptAnswer | None,
    work: Callable[[Transaction], Awaitable[T]],
    render: Callable[[T], Answer],
) -> Answer:
    """Runs one write and keeps its answer in the same transaction.

    With ``keep`` given, and its answer there already, ``work`` does not run and that answer comes back with
    ``replayed``. A request with the same key that still runs elsewhere is waited for. Raises what ``work`` raises
    (then nothing is kept), and :class:`~domain.errors.IdempotencyKeyReused`.
    ``render`` makes the answer; it runs inside the transaction and must be pure.
    """

    async def kept_work(tx: Transaction) -> Answer:
        if keep is None:
            return render(await work(tx))
        if (known := await claim(tx.connection, keep)) is not None:
            return known
        answer = render(await work(tx))
        await store(tx.connection, keep, answer)
        return answer

    return await uow.run(kept_work)


async def claim(connection: Connection, keep: KeptAnswer) -> Answer | None:
    """Takes the key for this transaction, before any other lock; or gives the answer kept under it.

    Waits for a transaction that holds the key. After None, :func:`store` must follow in the same transaction.
    """
    if await idempotency.insert_key(connection, keep.tenant, keep.user, keep.key, keep.fingerprint):
        return None
    return await _known(connection, keep)


async def store(connection: Connection, keep: KeptAnswer, answer: Answer) -> None:
    """Writes the answer of a claimed key. Waits for nothing, so it may follow the log's append."""
    assert 200 <= answer.status < 300, "only a 2xx answer is kept"
    await idempotency.update_answer(connection, keep.tenant, keep.user, keep.key, answer.status, answer.body)


async def _known(connection: Connection, keep: KeptAnswer) -> Answer | None:
    row = await idempotency.read_answer(connection, keep.tenant, keep.user, keep.key)
    if row is None:
        return None
    if row.fingerprint != keep.fingerprint:
        raise IdempotencyKeyReused()
    return Answer(row.status, await _without_deleted(connection, keep.tenant, row.body), replayed=True)


async def _without_deleted(connection: Connection, tenant: TenantId, body: bytes) -> bytes:
    """A kept answer without the text of a message that was deleted since: that is given back to nobody."""
    if b'"seq"' not in body:
        return body
    answer = orjson.loads(body)
    message = answer.get("last_message") or answer
    if message.get("body") is None or message.get("deleted_at") is not None:
        return body
    conversation = ConversationId(UUID(message["conversation_id"]))
    deleted_at = await messages.find_deletion(connection, tenant, conversation, message["seq"])
    if deleted_at is None:
        return body
    message.update(REDACTED, deleted_at=rfc3339(deleted_at))
    return orjson.dumps(answer)


class KeptAnswers:
    """Looks up and clears kept answers, outside the operations that write them; holds keys while they run.

    ``leases`` None: no Redis, so a second request waits for the first instead of hearing 409.
    """

    def __init__(self, database: Database, leases: Leases | None = None) -> None:
        self._database = database
        self._leases = leases

    @asynccontextmanager
    async def lease(self, keep: KeptAnswer) -> AsyncIterator[bool]:
        """Holds the key while its first request runs, 30 s at most. False: another request holds it."""
        if self._leases is None:
            yield True
            return
        token = await self._leases.take(keep.tenant, keep.user, keep.key)
        if token is None:
            yield False
            return
        try:
            yield True
        finally:
            # Also when the client has gone and the write goes on without it: a retry then waits for that write.
            await self._leases.release(keep.tenant, keep.user, keep.key, token)

    async def find(self, keep: KeptAnswer) -> Answer | None:
        """The answer kept under this key, with ``replayed``; None where there is none.

        Raises :class:`~domain.errors.IdempotencyKeyReused` where the key was used for another request.
        """
        async with self._database.connection() as connection:
            return await _known(connection, keep)

    async def run(self) -> None:
        """Clears away what is past its time, about every hour and not on all instances at once, until cancelled."""
        while True:
            await asyncio.sleep(PURGE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  # spreads load, no secret
            try:
                await self.purge()
            except Unavailable as error:
                log.info("kept_answers_purge_put_off", reason=error.detail)

    async def purge(self) -> int:
        """Deletes the answers past their 24 hours, in short statements; how many."""
        deleted = 0
        while True:
            async with self._database.connection() as connection:
                count = await idempotency.delete_expired(connection, PURGE_BATCH)
            deleted += count
            if count < PURGE_BATCH:
                return deleted
