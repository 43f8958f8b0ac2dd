"""Group commit: what arrives while one batch of messages is being stored is the next batch.

No timer, so an idle server adds no delay, and a busy one pays for one commit whatever the number of senders. Messages
take effect in the order they were given. A sender is answered after the commit, and the event goes out after it too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import orjson
import structlog

from domain.errors import Blocked, FieldError, InvalidFields, NotFound, Overloaded, ParleyError, Unavailable
from domain.ids import ClientId, ConversationId, TenantId, UserId, new_id_text
from domain.log import StoredEvent, Topic, TopicKind, rfc3339
from services.message_drafts import sent_digest
from services.unit_of_work import Publisher
from storage.database import AWAY, RETRY, Database
from storage.message_batches import NewMessage, Sent, send_batch

logger = structlog.get_logger(__name__)

MAX_BATCH = 512
ATTEMPTS = 4


class CommitMetrics(Protocol):
    """What the committer counts."""

    def flushed(self, batch: int, seconds: float) -> None: ...

    def flush_failed(self) -> None: ...

    def refused_overloaded(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SendDraft:
    """A message as its author gave it, validated for shape; who may send it where is decided on storing it."""

    tenant: TenantId
    conversation: ConversationId
    sender: UserId
    client_id: ClientId | None
    body: str
    reply_to_seq: int | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A message that was stored now. ``data`` is its public JSON object."""

    seq: int
    position: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """Its author used this ``client_id`` before: the first message answers it, if ``digest`` is that of the first."""

    digest: bytes


Result = Stored | Known | ParleyError
Answer = Callable[[Result], None]


@dataclass(frozen=True, slots=True)
class _Item:
    draft: SendDraft
    digest: bytes
    answer: Answer


def new_message(draft: SendDraft, digest: bytes, at: str) -> NewMessage:
    """A draft as the store takes it, with its public JSON."""
    message = new_id_text()
    conversation = str(draft.conversation)
    reply = draft.reply_to_seq
    client = f'"{draft.client_id}"' if draft.client_id else "null"
    data = (
        f',"id":"{message}","conversation_id":"{conversation}","sender_id":"{draft.sender}",'
        f'"client_id":{client},"body":{orjson.dumps(draft.body).decode()},'
        f'"reply_to_seq":{"null" if reply is None else reply},'
        f'"attachments":[],"reactions":[],"edited_at":null,"deleted_at":null,"created_at":"{at}"}}'
    )
    topic = Topic(TopicKind.CONVERSATION, draft.conversation, conversation)
    return NewMessage(
        draft.tenant, topic, draft.sender, draft.client_id, message, draft.body, reply, digest, data
    )


def public_json(message: NewMessage, seq: int) -> bytes:
    """The public JSON of a message that was stored with ``seq``."""
    return b'{"seq":%d%b' % (seq, message.data.encode())


def created_event(message: NewMessage, seq: int, position: int, at: datetime) -> StoredEvent:
    """The ``message.created`` event as the store has just written it."""
    return StoredEvent(
        position, message.tenant, message.topic, "message.created", at, public_json(message, seq)
    )


def refusal(sent: Sent) -> ParleyError:
    """Why a message was not stored."""
    if sent.outcome == "blocked":
        return Blocked()
    if sent.outcome == "reply_not_found":
        return InvalidFields(
            [FieldError("/reply_to_seq", "there is no such message")], code="reply_not_found"
        )
    return NotFound()


def _settle(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)


def _answer(item: _Item, result: Result) -> None:
    """One sender's trouble with an answer is not the next one's."""
    try:
        item.answer(result)
    except Exception as error:
        logger.error("message.unanswerable", error=type(error).__name__)


class MessageCommitter:
    """Stores messages in batches, one at a time. :meth:`run` is a task as long as the server takes messages."""

    def __init__(
        self, database: Database, publisher: Publisher, metrics: CommitMetrics, *, max_waiting: int
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._waiting: deque[_Item] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def __len__(self) -> int:
        """How many messages wait for the next batch."""
        return len(self._waiting)

    def submit(self, draft: SendDraft, answer: Answer) -> None:
        """Queues a message; ``answer`` is called once, in the order of the queue, with what became of it.

        Raises :class:`Overloaded` at once where too many wait already, and then never calls ``answer``.
        """
        if self._closed:
            raise Unavailable("this instance is going away")
        if len(self._waiting) >= self._max_waiting:
            self._metrics.refused_overloaded()
            raise Overloaded()
        digest = sent_digest(draft.conversation, draft.body, draft.reply_to_seq)
        self._waiting.append(_Item(draft, digest, answer))
        self._arrived.set()

    async def send(self, draft: SendDraft) -> Stored | Known:
        """Stores one message; raises what it was refused with. Being cancelled does not undo it."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.submit(draft, partial(_settle, result))
        try:
            value = await result
        finally:
            del result
        try:
            if isinstance(value, ParleyError):
                raise value
            return value
        finally:
            del value  # or what is raised would hold itself, by this frame

    async def run(self) -> None:
        """Flushes until cancelled, one batch in flight."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            self._idle.clear()
            while self._waiting:
                await self._flush(self._take())
            self._idle.set()

    async def close(self) -> None:
        """Takes no more, and returns when everything taken has been answered. :meth:`run` must still be running."""
        self._closed = True
        if self._waiting:
            self._idle.clear()
        await self._idle.wait()

    def _take(self) -> list[_Item]:
        """The next batch. A ``client_id`` that is in it already waits for the one after, which finds it known."""
        batch: list[_Item] = []
        seen: set[tuple[UserId, ClientId]] = set()
        while self._waiting and len(batch) < MAX_BATCH:
            draft = self._waiting[0].draft
            if draft.client_id is not None:
                key = (draft.sender, draft.client_id)
                if key in seen:
                    break
                seen.add(key)
            batch.append(self._waiting.popleft())
        return batch

    async def _flush(self, items: Sequence[_Item]) -> None:
        """Stores a batch and answers it. Where PostgreSQL refuses the whole, each half is tried alone."""
        started = asyncio.get_running_loop().time()
        at = datetime.now(UTC)
        text = rfc3339(at)
        try:
            messages = [new_message(item.draft, item.digest, text) for item in items]
            results = await self._send_batch(at, messages)
        except ParleyError as error:
            self._metrics.flush_failed()
            for item in items:
                _answer(item, error)
        except Exception as error:
            if len(items) > 1:
                middle = len(items) // 2
                await self._flush(items[:middle])
                await self._flush(items[middle:])
                return
            _answer(items[0], ParleyError())
            logger.error("message.unstorable", error=type(error).__name__)
        else:
            # Committed: whatever goes wrong from here on, nothing of it may be stored again.
            self._tell(items, messages, results, at)
            self._metrics.flushed(len(items), asyncio.get_running_loop().time() - started)

    def _tell(
        self, items: Sequence[_Item], messages: Sequence[NewMessage], results: Sequence[Sent], at: datetime
    ) -> None:
        """Tells the log's readers, then the senders."""
        answers: list[Result] = []
        events: list[StoredEvent] = []
        for item, message, sent in zip(items, messages, results, strict=True):
            if sent.seq is not None and sent.position is not None:
                event = created_event(message, sent.seq, sent.position, at)
                events.append(event)
                answers.append(Stored(sent.seq, sent.position, event.data))
            elif sent.outcome == "known":
                answers.append(Known(item.digest))
            else:
                answers.append(refusal(sent))
        if events:
            try:
                self._publisher.committed(events)
            except Exception as error:
                logger.error("message.untold", error=type(error).__name__)  # readers find it in the log
        for item, answer in zip(items, answers, strict=True):
            _answer(item, answer)

    async def _send_batch(self, at: datetime, messages: Sequence[NewMessage]) -> list[Sent]:
        for remaining in reversed(range(ATTEMPTS)):
            try:
                async with self._database.connection() as connection:
                    return await send_batch(connection, at, messages)
            except RETRY:
                if not remaining:
                    raise Unavailable("too many writers at once; try again") from None
            except AWAY as error:
                raise Unavailable("the database is away") from error
        raise AssertionError("unreachable")
