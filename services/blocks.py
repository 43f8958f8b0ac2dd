"""Blocks: two people hidden from each other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

from domain.errors import Invalid
from domain.identity import Identity
from domain.ids import UserId
from domain.resources import User
from services.profiles import show_user
from services.unit_of_work import Transaction, UnitOfWork
from services.visibility import named_user
from storage import blocks
from storage.database import Database


class Blocks:
    """Who has blocked whom. What a block hides is decided in :mod:`services.visibility` alone."""

    def __init__(
        self,
        database: Database,
        uow: UnitOfWork,
        *,
        changed: Callable[[Collection[UserId]], None] = lambda users: None,
    ) -> None:
        """``changed`` is called with both users after a commit that changed what they may see of each other."""
        self._database = database
        self._uow = uow
        self._changed = changed

    async def block(self, identity: Identity, name: str) -> None:
        """Blocks a user, hidden ones too. Once it returns, no message passes in their direct conversation.

        Raises NotFound; Invalid for oneself.
        """
        other = await self._named(identity, name)
        if other == identity.user:
            raise Invalid("nobody can block themselves", code="cannot_block_self")

        async def work(tx: Transaction) -> None:
            await blocks.lock_direct(tx.connection, identity.tenant, identity.user, other)
            await blocks.insert_block(tx.connection, identity.tenant, identity.user, other)

        await self._uow.run(work)
        self._changed((identity.user, other))

    async def unblock(self, identity: Identity, name: str) -> None:
        """Ends the caller's block of a user, where there is one. Raises NotFound where there is no such user."""
        other = await self._named(identity, name)

        async def work(tx: Transaction) -> None:
            await blocks.delete_block(tx.connection, identity.tenant, identity.user, other)

        await self._uow.run(work)
        self._changed((identity.user, other))

    async def list(
        self, identity: Identity, *, before: tuple[datetime, UserId] | None, limit: int
    ) -> tuple[list[User], tuple[datetime, UserId] | None]:
        """A page of whom the caller has blocked, the latest first, and where the next page begins."""
        async with self._database.connection() as connection:
            rows = await blocks.list_blocks(
                connection, identity.tenant, identity.user, before=before, limit=limit + 1
            )
        more = len(rows) > limit
        rows = rows[:limit]
        return [show_user(r.user) for r in rows], (rows[-1].blocked_at, rows[-1].user.id) if more else None

    async def _named(self, identity: Identity, name: str) -> UserId:
        async with self._database.connection() as connection:
            return (await named_user(connection, identity.tenant, name)).id
