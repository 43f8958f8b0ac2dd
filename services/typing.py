"""Typing: who may say that they type, and who is shown it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import aiojobs

from domain.errors import NotFound
from domain.identity import Identity
from domain.ids import ConversationId, UserId
from realtime.typing import Typing
from services.batching import Batcher
from storage.database import Database
from storage.typing import TypistKey, read_typists


class TypingService:
    """Members show each other that they type. A block hides it both ways, in groups too, and is no error."""

    def __init__(self, database: Database, typing: Typing, jobs: aiojobs.Scheduler) -> None:
        self._database = database
        self._typing = typing
        self._batcher: Batcher[TypistKey, frozenset[UserId]] = Batcher(self._load, jobs)

    async def start(self, identity: Identity, conversation: ConversationId) -> None:
        """Shows to the other members that the caller types, for six seconds or until it is stopped.

        Raises NotFound for who is not a member, Unavailable.
        """
        if not self._typing.prolong(conversation, identity.user):
            hidden = await self._hidden_from(identity, conversation)
            self._typing.start(conversation, identity.user, hidden)

    async def stop(self, identity: Identity, conversation: ConversationId) -> None:
        """Ends it. Raises NotFound for who is not a member, Unavailable."""
        if not self._typing.shows(conversation, identity.user):
            await self._hidden_from(identity, conversation)
        self._typing.stop(conversation, identity.user)

    def sent(self, conversation: ConversationId, user: UserId) -> None:
        """Ends it with the message that was typed. Cheap: call it for every message that was stored."""
        self._typing.stop(conversation, user)

    def gone(self, users: Collection[UserId]) -> None:
        """Ends what users were typing here who have no session here any more."""
        self._typing.gone(users)

    def visibility_changed(self, users: Collection[UserId]) -> None:
        """Call it after the commit of a block or its end, with both users: what they type now is shown anew."""
        self._typing.end(users)

    async def run(self) -> None:
        """Ends what has lasted long enough, until cancelled."""
        await self._typing.run()

    async def _hidden_from(self, identity: Identity, conversation: ConversationId) -> frozenset[UserId]:
        hidden = await self._batcher.get((identity.tenant, conversation, identity.user))
        if hidden is None:
            raise NotFound()
        return hidden

    async def _load(self, typists: Sequence[TypistKey]) -> dict[TypistKey, frozenset[UserId]]:
        async with self._database.connection() as connection:
            return await read_typists(connection, typists)
