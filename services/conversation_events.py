"""The events of conversations, as drafts for the log. What they hold is the same for everyone who receives them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from domain.ids import ConversationId, TenantId, UserId
from domain.log import NO_CONTROL, Control, EventDraft, conversation_topic, inbox
from domain.resources import Message, Resource, Role, SharedConversation, User
from realtime.events import MemberChanged, MessageDeleted, ReactionChanged, Receipt


def conversation_created(
    tenant: TenantId, conversation: SharedConversation, members: Sequence[UserId]
) -> EventDraft:
    """Opens the conversation to all its members at once."""
    opens = Control(joins=tuple(members))
    return _draft(tenant, ConversationId(conversation.id), "conversation.created", conversation, opens)


def conversation_updated(tenant: TenantId, conversation: SharedConversation) -> EventDraft:
    return _draft(tenant, ConversationId(conversation.id), "conversation.updated", conversation)


def member_added(
    tenant: TenantId, conversation: ConversationId, user: User, role: Role
) -> tuple[EventDraft, EventDraft]:
    """To the conversation, which it opens to the member; then to the member's own inbox."""
    opens = Control(joins=(UserId(user.id),))
    return _member(tenant, "member.added", conversation, user, role, opens)


def member_removed(
    tenant: TenantId, conversation: ConversationId, user: User, role: Role
) -> tuple[EventDraft, EventDraft]:
    """To the conversation, which it closes to the member, and they receive it; then to the member's own inbox."""
    closes = Control(leaves=(UserId(user.id),))
    return _member(tenant, "member.removed", conversation, user, role, closes)


def member_updated(
    tenant: TenantId, conversation: ConversationId, user: User, role: Role
) -> tuple[EventDraft, EventDraft]:
    return _member(tenant, "member.updated", conversation, user, role, NO_CONTROL)


def message_updated(tenant: TenantId, message: Message, about: int | None) -> EventDraft:
    """``about`` here and below: the message's position, where not all members may see what is that old."""
    control = Control(about=about)
    return _draft(tenant, ConversationId(message.conversation_id), "message.updated", message, control)


def message_deleted(
    tenant: TenantId,
    conversation: ConversationId,
    seq: int,
    deleted_at: datetime,
    redacts: Sequence[int],
    about: int | None,
) -> EventDraft:
    """Withdraws the text of the events at ``redacts`` too, wherever it is still held."""
    data = MessageDeleted(conversation_id=conversation, seq=seq, deleted_at=deleted_at)
    control = Control(redacts=tuple(redacts), about=about)
    return _draft(tenant, conversation, "message.deleted", data, control)


def reaction_changed(
    tenant: TenantId,
    conversation: ConversationId,
    seq: int,
    emoji: str,
    user: UserId,
    *,
    added: bool,
    about: int | None,
) -> EventDraft:
    data = ReactionChanged(conversation_id=conversation, seq=seq, emoji=emoji, user_id=user)
    type_ = "reaction.added" if added else "reaction.removed"
    return _draft(tenant, conversation, type_, data, Control(about=about))


def receipt_read(tenant: TenantId, conversation: ConversationId, user: UserId, seq: int) -> EventDraft:
    return _receipt(tenant, "receipt.read", conversation, user, seq)


def receipt_delivered(tenant: TenantId, conversation: ConversationId, user: UserId, seq: int) -> EventDraft:
    return _receipt(tenant, "receipt.delivered", conversation, user, seq)


def _receipt(
    tenant: TenantId, type_: str, conversation: ConversationId, user: UserId, seq: int
) -> EventDraft:
    return _draft(tenant, conversation, type_, Receipt(conversation_id=conversation, user_id=user, seq=seq))


def _member(
    tenant: TenantId, type_: str, conversation: ConversationId, user: User, role: Role, control: Control
) -> tuple[EventDraft, EventDraft]:
    data = MemberChanged(conversation_id=conversation, user=user, role=role).model_dump_json().encode()
    own = inbox(UserId(user.id))
    return (
        EventDraft(tenant, conversation_topic(conversation), type_, data, control),
        EventDraft(tenant, own, type_, data),
    )


def _draft(
    tenant: TenantId, conversation: ConversationId, type_: str, data: Resource, control: Control = NO_CONTROL
) -> EventDraft:
    return EventDraft(
        tenant, conversation_topic(conversation), type_, data.model_dump_json().encode(), control
    )
