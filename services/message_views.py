"""How a message is shown: the same to everyone in events, and to its reader by REST."""

from __future__ import annotations

from domain.ids import UserId
from domain.resources import Message, OwnMessage, Status
from storage.messages import MessageRow


def show_message(row: MessageRow) -> Message:
    """A message as events carry it."""
    return Message(
        seq=row.seq,
        id=row.id,
        conversation_id=row.conversation_id,
        sender_id=row.sender_id,
        client_id=row.client_id,
        body=row.body,
        reply_to_seq=row.reply_to_seq,
        attachments=[],
        reactions=list(row.reactions),
        edited_at=row.edited_at,
        deleted_at=row.deleted_at,
        created_at=row.created_at,
    )


def show_own_message(row: MessageRow, viewer: UserId) -> OwnMessage:
    """A message as REST shows it to ``viewer``: with ``status`` where they sent it."""
    status = status_of(row) if row.sender_id == viewer else None
    return OwnMessage(**dict(show_message(row)), status=status)


def status_of(row: MessageRow) -> Status:
    """The lowest over all other members. With nobody else there it was sent, and no more."""
    if row.read_low is not None and row.read_low >= row.seq:
        return "read"
    if row.delivered_low is not None and row.delivered_low >= row.seq:
        return "delivered"
    return "sent"
