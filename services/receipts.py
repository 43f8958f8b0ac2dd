"""Receipts: how far each member has received and read.

They are stored before they are answered, and told sparingly: at most one event of each kind a second for a member of a
conversation, the newest always, and none in large groups, where ``status`` and the counts are there by REST. A receipt
that is not told at once is owed: a row says so, and :meth:`Receipts.announce_owed` tells it later, on any instance.
Whatever arrives while one transaction stores receipts is stored by the next, so that a crowd reading costs few commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import aiojobs

from domain.errors import NotFound
from domain.identity import Identity
from domain.ids import ConversationId, TenantId, UserId
from domain.log import EventDraft
from services.batching import Batcher
from services.conversation_events import receipt_delivered, receipt_read
from services.unit_of_work import Transaction, UnitOfWork
from storage import receipts
from storage.database import Database
from storage.receipts import Mark, Place, ReceiptState, ReceiptWrite

MAX_TOLD_MEMBERS = 32
"""In groups with more members no receipt events are sent."""
BATCH = 500
"""Receipts of single requests stored by one transaction: it holds the locks of that many conversations at most."""
BULK = 2000
"""The same of deliveries, which come in storms when everyone reconnects, and which nobody waits for."""


class Receipts:
    """Takes receipts, and tells of them."""

    def __init__(self, database: Database, uow: UnitOfWork, jobs: aiojobs.Scheduler) -> None:
        self._database = database
        self._uow = uow
        # Without pacing: receipts follow each other as fast as their commits do.
        self._batcher: Batcher[Mark, bool] = Batcher(self._record_each, jobs, interval=0.0, max_batch=BATCH)

    async def read(self, identity: Identity, conversation: ConversationId, seq: int) -> None:
        """Everything up to ``seq`` is read, and so delivered. Clamped to ``last_seq``; never goes back.

        Raises NotFound.
        """
        await self._take(Mark(identity.tenant, conversation, identity.user, read=seq))

    async def delivered(self, identity: Identity, conversation: ConversationId, seq: int) -> None:
        """Everything up to ``seq`` is delivered. Clamped to ``last_seq``; never goes back. Raises NotFound."""
        await self._take(Mark(identity.tenant, conversation, identity.user, delivered=seq))

    async def delivered_up_to(self, positions: Mapping[tuple[TenantId, UserId], int]) -> None:
        """Users have received everything that the log held for them up to these positions, in every conversation.

        One statement finds what is new in all of it, whatever the number of users; nothing is locked where nothing is.
        """
        entries = iter([(tenant, user, position) for (tenant, user), position in positions.items()])
        while batch := list(islice(entries, BULK)):
            async with self._database.connection() as connection:
                marks = await receipts.find_delivered(connection, batch)
            for start in range(0, len(marks), BULK):
                await self._record(marks[start : start + BULK])

    async def announce_owed(self) -> int:
        """Tells receipts that were held back and are due; says how many events that took.

        Cheap where nothing is due. Any number of instances may call it: one at a time does the work.
        """
        async with self._database.connection() as connection:
            if not await receipts.find_due(connection, 1):
                return 0

        async def work(tx: Transaction) -> int:
            if not await receipts.try_sweep(tx.connection):
                return 0
            due = await receipts.find_due(tx.connection, BATCH)
            return await _settle(tx, {place: Mark(*place) for place in due}, swept=True)

        return await self._uow.run(work)

    async def _take(self, mark: Mark) -> None:
        if not await self._batcher.get(mark):
            raise NotFound()

    async def _record_each(self, marks: Sequence[Mark]) -> Mapping[Mark, bool]:
        """Stores marks; answers for those whose user is a member."""
        async with self._database.connection() as connection:
            states = await receipts.read_states(connection, [mark.place for mark in marks])
        known = {state.place: state for state in states}
        news = [mark for mark in marks if mark.place in known and _moves(known[mark.place], mark)]
        if news:
            await self._record(news)
        return {mark: True for mark in marks if mark.place in known}

    async def _record(self, marks: Sequence[Mark]) -> int:
        merged = _merge(marks)

        async def work(tx: Transaction) -> int:
            return await _settle(tx, merged)

        return await self._uow.run(work)


async def _settle(tx: Transaction, marks: Mapping[Place, Mark], *, swept: bool = False) -> int:
    """Stores marks under their conversations' locks and tells what may be told; says how many events that took.

    ``swept``: the marks are of what was owed. What was told meanwhile (sending
    tells of reading) is owed no more.
    """
    if not marks:
        return 0
    places = list(marks)
    await receipts.lock_conversations(tx.connection, places)
    states = await receipts.read_states(tx.connection, places)
    writes = [write for state in states if (write := decide(state, marks[state.place])) is not None]
    if writes:
        await receipts.write(tx.connection, writes)
    if swept and len(writes) < len(places):
        written = {write.place for write in writes}
        await receipts.forget_owed(tx.connection, [place for place in places if place not in written])
    drafts = [draft for write in writes for draft in _tell(write)]
    await tx.append(*drafts)
    return len(drafts)


def decide(state: ReceiptState, mark: Mark) -> ReceiptWrite | None:
    """What a mark changes, and what of the state that gives is told now; None where it is nothing.

    A receipt of reading tells that of delivery too. In large groups everything counts as told.
    """
    read = max(state.read, min(mark.read, state.last_seq))
    delivered = max(state.delivered, read, min(mark.delivered, state.last_seq))
    if state.member_count > MAX_TOLD_MEMBERS:
        write = ReceiptWrite(state.place, read, delivered, read, delivered, False, False)
    else:
        tell_read = read > state.read_told and not state.read_lately
        read_told = read if tell_read else state.read_told
        delivered_told = max(state.delivered_told, read_told)
        tell_delivered = delivered > delivered_told and not state.delivered_lately
        write = ReceiptWrite(
            state.place,
            read,
            delivered,
            read_told,
            delivered if tell_delivered else delivered_told,
            tell_read,
            tell_delivered,
        )
    before = (state.read, state.delivered, state.read_told, state.delivered_told)
    return None if (write.read, write.delivered, write.read_told, write.delivered_told) == before else write


def _tell(write: ReceiptWrite) -> Iterable[EventDraft]:
    tenant, conversation, user = write.place
    if write.tell_delivered:
        yield receipt_delivered(tenant, conversation, user, write.delivered)
    if write.tell_read:
        yield receipt_read(tenant, conversation, user, write.read)


def _moves(state: ReceiptState, mark: Mark) -> bool:
    read, delivered = min(mark.read, state.last_seq), min(max(mark.read, mark.delivered), state.last_seq)
    return read > state.read or delivered > state.delivered


def _merge(marks: Iterable[Mark]) -> dict[Place, Mark]:
    """One mark for each member, the furthest of theirs."""
    merged: dict[Place, Mark] = {}
    for mark in marks:
        known = merged.get(mark.place)
        if known is not None:
            mark = Mark(*mark.place, max(known.read, mark.read), max(known.delivered, mark.delivered))
        merged[mark.place] = mark
    return merged
