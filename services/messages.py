"""Messages: sending them, reading them, editing and deleting them.

====================  ======  =====  =====  ======
may                   sender  owner  admin  member
====================  ======  =====  =====  ======
edit                  yes     no     no     no
delete, in a group    yes     yes    yes    no
delete, in a direct   yes     --     --     no
====================  ======  =====  =====  ======

A direct conversation that a block has closed takes no edits either: an edit is a way to say something new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from domain.errors import Blocked, ClientIdReused, Conflict, FieldError, Forbidden, InvalidFields, NotFound
from domain.identity import Identity
from domain.ids import ClientId, ConversationId, TenantId, UserId
from domain.log import rfc3339
from domain.resources import FormerText, OwnMessage
from realtime.events import REDACTED
from services.conversation_events import message_deleted, message_updated
from services.idempotency import Answer, KeptAnswer, answer_of, run_kept
from services.membership import leads, locked_standing, require_seen, standing_of
from services.message_commit import (
    Known,
    MessageCommitter,
    SendDraft,
    Stored,
    created_event,
    new_message,
    public_json,
    refusal,
)
from services.message_drafts import sent_digest
from services.message_views import show_message, show_own_message
from services.unit_of_work import Transaction, UnitOfWork
from storage import log, messages
from storage.conversations import Standing
from storage.database import Connection, Database
from storage.message_batches import send_batch
from storage.messages import MessageRow


class MessageGone(Conflict):
    """A tombstone takes no text and no reactions."""

    code, title = "message_deleted", "This message was deleted"


@dataclass(frozen=True, slots=True)
class NewText:
    """What somebody wants to say. The edge has checked its shape."""

    body: str
    client_id: ClientId | None = None
    reply_to_seq: int | None = None
    attachments: Sequence[UUID] = ()


class Messages:
    """Sends, shows and changes messages. The module's table says who may."""

    def __init__(self, database: Database, uow: UnitOfWork, committer: MessageCommitter) -> None:
        self._database = database
        self._uow = uow
        self._committer = committer

    async def send(
        self, identity: Identity, conversation: ConversationId, text: NewText, keep: KeptAnswer | None = None
    ) -> Answer:
        """Stores a message: 201 and the message, after the commit.

        A ``client_id`` its author has used for the same thing answers 200 with the message as it is now, ``replayed``,
        also after they have left. Raises ClientIdReused for another thing, NotFound, Blocked, and InvalidFields
        (``reply_not_found``, ``media_not_found``).
        """
        if text.attachments:
            await self._refuse_attachments(identity, conversation, text)
        draft = SendDraft(
            identity.tenant, conversation, identity.user, text.client_id, text.body, text.reply_to_seq
        )
        if keep is not None:
            return await self._send_kept(draft, keep)
        sent = await self._committer.send(draft)
        if isinstance(sent, Stored):
            return Answer(201, _as_sent(sent.data))
        return await self._answer_known(draft, sent)

    async def find_sent(self, sender: Identity, client_id: ClientId, digest: bytes) -> OwnMessage:
        """What the caller first sent under this ``client_id``, as it is now.

        ``digest`` is that of what they send this time. Raises ClientIdReused where it is another thing.
        """
        async with self._database.connection() as connection:
            return await _find_sent(connection, sender.tenant, sender.user, client_id, digest)

    async def get(self, identity: Identity, conversation: ConversationId, seq: int) -> OwnMessage:
        """One message. Raises NotFound."""
        async with self._database.connection() as connection:
            row = await messages.read_visible(connection, identity.tenant, conversation, identity.user, seq)
        if row is None:
            raise NotFound()
        return show_own_message(row, identity.user)

    async def list(
        self,
        identity: Identity,
        conversation: ConversationId,
        *,
        before: int | None,
        after: int | None,
        limit: int,
    ) -> list[OwnMessage]:
        """The newest messages first, with seqs below ``before``; or the oldest first, with seqs above ``after``.

        At most one of the two is given. Raises NotFound.
        """
        async with self._database.connection() as connection:
            rows = await messages.list_visible(
                connection,
                identity.tenant,
                conversation,
                identity.user,
                before=before,
                after=after,
                limit=limit,
            )
        if rows is None:
            raise NotFound()
        return [show_own_message(row, identity.user) for row in rows]

    async def history(
        self, identity: Identity, conversation: ConversationId, seq: int
    ) -> Sequence[FormerText]:
        """The texts that edits replaced, the first one first; none for a tombstone. Raises NotFound."""
        async with self._database.connection() as connection:
            standing = await standing_of(connection, identity.tenant, identity.user, conversation)
            require_seen(standing, seq)
            rows = await messages.list_edits(connection, identity.tenant, conversation, seq)
        return [FormerText(body=row.body, edited_at=row.edited_at) for row in rows if row.body is not None]

    async def edit(self, identity: Identity, conversation: ConversationId, seq: int, body: str) -> OwnMessage:
        """Replaces the caller's own text; the former one stays readable. The same text again changes nothing.

        Raises NotFound, Forbidden, Blocked, and MessageGone for a tombstone.
        """
        tenant, user = identity.tenant, identity.user

        async def work(tx: Transaction) -> MessageRow:
            standing, row = await lock_message(tx, identity, conversation, seq)
            if row.sender_id != user:
                raise Forbidden("only its sender may edit a message")
            if row.body is None:
                raise MessageGone()
            if body == row.body:
                return row
            if standing.blocked:
                raise Blocked()
            version, _ = await messages.replace_body(tx.connection, tenant, conversation, seq, body)
            row = await messages.read(tx.connection, tenant, conversation, user, seq)
            (told,) = await tx.append(
                message_updated(tenant, show_message(row), about(standing, row.position))
            )
            await messages.place_edit(tx.connection, tenant, conversation, seq, version, told.position)
            return row

        return show_own_message(await self._uow.run(work), user)

    async def delete(self, identity: Identity, conversation: ConversationId, seq: int) -> None:
        """Leaves a tombstone, and takes the text out of every event that told it. Deleting again changes nothing.

        Raises NotFound, Forbidden.
        """
        tenant = identity.tenant

        async def work(tx: Transaction) -> None:
            standing, row = await lock_message(tx, identity, conversation, seq)
            if row.sender_id != identity.user and not leads(standing):
                raise Forbidden("only its sender, or who leads the group, may delete a message")
            if row.deleted_at is not None:
                return
            edits = await messages.list_edits(tx.connection, tenant, conversation, seq)
            positions = [row.position, *(edit.position for edit in edits)]
            deleted_at = await messages.bury(tx.connection, tenant, conversation, seq)
            await log.redact(tx.connection, positions, REDACTED)
            told = message_deleted(
                tenant, conversation, seq, deleted_at, positions, about(standing, row.position)
            )
            await tx.append(told)

        await self._uow.run(work)

    async def require(self, identity: Identity, conversation: ConversationId, seq: int) -> None:
        """Raises NotFound where the caller may not see the message."""
        async with self._database.connection() as connection:
            standing = await standing_of(connection, identity.tenant, identity.user, conversation)
        require_seen(standing, seq)

    async def _refuse_attachments(
        self, identity: Identity, conversation: ConversationId, text: NewText
    ) -> None:
        """There is no media yet, so none can be named; but what comes first in the order of checks comes first."""
        async with self._database.connection() as connection:
            if text.client_id is not None:
                digest = sent_digest(conversation, text.body, text.reply_to_seq, text.attachments)
                known = await messages.find_by_client_id(
                    connection, identity.tenant, identity.user, text.client_id
                )
                if known is not None and known[1] != digest:
                    raise ClientIdReused()
            await standing_of(connection, identity.tenant, identity.user, conversation)
        raise InvalidFields(
            [FieldError("/attachments/0/media_id", "there is no such media")], code="media_not_found"
        )

    async def _answer_known(self, draft: SendDraft, known: Known) -> Answer:
        async with self._database.connection() as connection:
            return await _known_answer(connection, draft, known.digest)

    async def _send_kept(self, draft: SendDraft, keep: KeptAnswer) -> Answer:
        """A send in a transaction of its own, which keeps the answer too, instead of a place in the next batch."""
        digest = sent_digest(draft.conversation, draft.body, draft.reply_to_seq)

        async def work(tx: Transaction) -> Answer:
            at = datetime.now(UTC)
            message = new_message(draft, digest, rfc3339(at))
            (sent,) = await send_batch(tx.connection, at, [message])
            if sent.outcome == "known":
                return await _known_answer(tx.connection, draft, digest)
            if sent.seq is None or sent.position is None:
                raise refusal(sent)
            tx.events.append(created_event(message, sent.seq, sent.position, at))
            return Answer(201, _as_sent(public_json(message, sent.seq)))

        return await run_kept(self._uow, keep, work, lambda answer: answer)


async def lock_message(
    tx: Transaction, identity: Identity, conversation: ConversationId, seq: int
) -> tuple[Standing, MessageRow]:
    """Locks a conversation, and gives the caller's standing and a message they may see. Raises NotFound."""
    standing = await locked_standing(tx, identity.tenant, identity.user, conversation)
    require_seen(standing, seq)
    row = await messages.read(tx.connection, identity.tenant, conversation, identity.user, seq)
    return standing, row


def about(standing: Standing, position: int) -> int | None:
    """What an event about the message at ``position`` says of its age, where who joined after it may not see it."""
    return None if standing.history == "all" or standing.kind == "direct" else position


async def _find_sent(
    connection: Connection, tenant: TenantId, sender: UserId, client_id: ClientId, digest: bytes
) -> OwnMessage:
    known = await messages.find_by_client_id(connection, tenant, sender, client_id)
    if known is None:
        raise NotFound()
    row, first_digest = known
    if digest != first_digest:
        raise ClientIdReused()
    return show_own_message(row, sender)


async def _known_answer(connection: Connection, draft: SendDraft, digest: bytes) -> Answer:
    assert draft.client_id is not None, "only a client_id makes a message known"
    message = await _find_sent(connection, draft.tenant, draft.sender, draft.client_id, digest)
    return replace(answer_of(200, message), replayed=True)


def _as_sent(data: bytes) -> bytes:
    """The public JSON of a message that nobody has received yet, as REST shows it to its sender."""
    return data[:-1] + b',"status":"sent"}'
