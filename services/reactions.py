"""Reactions to messages."""

from __future__ import annotations

import unicodedata

from domain.errors import Blocked, FieldError, InvalidFields
from domain.identity import Identity
from domain.ids import ConversationId
from services.conversation_events import reaction_changed
from services.membership import locked_standing, require_seen
from services.messages import MessageGone, about
from services.unit_of_work import Transaction, UnitOfWork
from storage import messages, reactions
from storage.conversations import Standing
from storage.messages import MessagePlace

MAX_EMOJI_BYTES = 64
"""The longest emoji sequences of Unicode, families with skin tones, take about 40."""
MAX_DIFFERENT = 50
"""Different emoji on one message."""

_REFUSED = ("Cc", "Cs", "Zs", "Zl", "Zp")
"""General categories of Unicode that are in no emoji and no name: controls, surrogates and white space."""
_UNSEEN = ("Cf", "Mn", "Me")
"""Joiners, variation selectors and marks: parts of an emoji that show nothing by themselves."""


def checked_emoji(text: str) -> str:
    """An emoji, or a short name such as ``:shipit:``, as sent. Raises InvalidFields.

    Which characters are emoji changes with every Unicode version, so any visible text without blanks is taken.
    """
    categories = [unicodedata.category(char) for char in text]
    if any(c in _REFUSED for c in categories) or all(c in _UNSEEN for c in categories):
        raise InvalidFields([FieldError("emoji", "must be an emoji or a short name, without blanks")])
    if len(text.encode()) > MAX_EMOJI_BYTES:
        raise InvalidFields([FieldError("emoji", f"must be {MAX_EMOJI_BYTES} bytes at most")])
    return text


async def _locked(
    tx: Transaction, identity: Identity, conversation: ConversationId, seq: int
) -> tuple[Standing, MessagePlace]:
    """Locks a conversation, and gives the caller's standing and what is to know of a message they may see."""
    standing = await locked_standing(tx, identity.tenant, identity.user, conversation)
    require_seen(standing, seq)
    return standing, await messages.read_place(tx.connection, identity.tenant, conversation, seq)


class Reactions:
    """Puts reactions to messages and takes them back. Either may be repeated; only what changed something is told."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def add(self, identity: Identity, conversation: ConversationId, seq: int, emoji: str) -> None:
        """Raises NotFound, Blocked, MessageGone for a tombstone, and InvalidFields (``too_many_reactions``)."""
        tenant, user = identity.tenant, identity.user

        async def work(tx: Transaction) -> None:
            standing, message = await _locked(tx, identity, conversation, seq)
            checked_emoji(emoji)
            if message.deleted:
                raise MessageGone()
            if standing.blocked:
                raise Blocked()
            if not await reactions.insert(tx.connection, tenant, conversation, seq, emoji, user):
                return
            if await reactions.count_different(tx.connection, tenant, conversation, seq) > MAX_DIFFERENT:
                raise InvalidFields(
                    [FieldError("emoji", f"a message has at most {MAX_DIFFERENT} different reactions")],
                    code="too_many_reactions",
                )
            known = about(standing, message.position)
            await tx.append(reaction_changed(tenant, conversation, seq, emoji, user, added=True, about=known))

        await self._uow.run(work)

    async def remove(self, identity: Identity, conversation: ConversationId, seq: int, emoji: str) -> None:
        """Raises NotFound. A tombstone has no reactions, so there is nothing to take back."""
        tenant, user = identity.tenant, identity.user

        async def work(tx: Transaction) -> None:
            standing, message = await _locked(tx, identity, conversation, seq)
            checked_emoji(emoji)
            if not await reactions.delete(tx.connection, tenant, conversation, seq, emoji, user):
                return
            known = about(standing, message.position)
            await tx.append(
                reaction_changed(tenant, conversation, seq, emoji, user, added=False, about=known)
            )

        await self._uow.run(work)
