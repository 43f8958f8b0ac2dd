"""Profiles: how an account is shown, found, listed and changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Protocol
from uuid import UUID

from domain.errors import FieldError, InvalidFields, NotFound
from domain.identity import Identity
from domain.ids import UserId
from domain.resources import OwnUser, User, UserSettings
from services.unit_of_work import Transaction, UnitOfWork
from services.visibility import visible_user
from storage import users
from storage.database import Database
from storage.users import UserRow


class PublicProfile(Protocol):
    """What every row of an account has that shows it to others."""

    @property
    def id(self) -> UserId: ...
    @property
    def username(self) -> str: ...
    @property
    def display_name(self) -> str: ...
    @property
    def bio(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def follower_count(self) -> int: ...
    @property
    def following_count(self) -> int: ...
    @property
    def post_count(self) -> int: ...


def show_user(row: PublicProfile) -> User:
    """An account as everyone sees it."""
    return User(
        id=row.id,
        username=row.username,
        display_name=row.display_name,
        bio=row.bio,
        avatar_url=None,
        created_at=row.created_at,
        follower_count=row.follower_count,
        following_count=row.following_count,
        post_count=row.post_count,
    )


def show_deleted_user(row: PublicProfile) -> User:
    """An account as everyone sees it once it is deleted, and what it will be by then."""
    return show_user(row).model_copy(
        update={"username": f"deleted-{str(row.id)[-12:]}", "display_name": "Deleted user", "bio": ""}
    )


def show_own_user(row: UserRow) -> OwnUser:
    """An account as its owner sees it."""
    return OwnUser(
        **show_user(row).model_dump(),
        email=row.email,
        settings=show_settings(row.settings),
        interests=list(row.interests),
    )


def show_settings(stored: Mapping[str, object]) -> UserSettings:
    """Stored settings over the defaults; those that only a newer version knows are left out."""
    return UserSettings.model_validate(
        {name: value for name, value in stored.items() if name in UserSettings.model_fields}
    )


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """What to change; None leaves it. ``settings`` holds only those to change."""

    display_name: str | None = None
    bio: str | None = None
    avatar_media_id: UUID | None = None
    interests: Sequence[str] | None = None
    settings: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


class Profiles:
    """Reads and changes profiles."""

    def __init__(
        self,
        database: Database,
        uow: UnitOfWork,
        *,
        changed: Callable[[Collection[UserId]], None] = lambda users: None,
    ) -> None:
        """``changed`` is called after a commit that changed what others may see of a user."""
        self._database = database
        self._uow = uow
        self._changed = changed

    async def me(self, identity: Identity) -> OwnUser:
        """The caller's own profile."""
        async with self._database.connection() as connection:
            row = await users.find_user(connection, identity.tenant, identity.user)
        if row is None:
            raise NotFound()
        return show_own_user(row)

    async def get(self, identity: Identity, name: str) -> User:
        """A public profile. Raises NotFound where the caller may not see it."""
        async with self._database.connection() as connection:
            return show_user(await visible_user(connection, identity.tenant, identity.user, name))

    async def list(
        self, identity: Identity, *, before: UserId | None, limit: int
    ) -> tuple[list[User], UserId | None]:
        """A page of the users the caller may see, newest first, and where the next page begins."""
        async with self._database.connection() as connection:
            rows = await users.list_users(
                connection, identity.tenant, identity.user, before=before, limit=limit + 1
            )
        more = len(rows) > limit
        rows = rows[:limit]
        return [show_user(row) for row in rows], rows[-1].id if more else None

    async def update(self, identity: Identity, change: ProfileChange) -> OwnUser:
        """Changes the caller's profile. Raises InvalidFields (``media_not_found``) for an avatar that is not there."""
        if change.avatar_media_id is not None:  # there is no media yet, so none can be named
            raise InvalidFields(
                [FieldError("/avatar_media_id", "there is no such media")], code="media_not_found"
            )

        async def work(tx: Transaction) -> UserRow | None:
            return await users.update_profile(
                tx.connection,
                identity.tenant,
                identity.user,
                display_name=change.display_name,
                bio=change.bio,
                interests=change.interests,
                settings=change.settings,
            )

        row = await self._uow.run(work)
        if row is None:
            raise NotFound()
        if change.settings:
            self._changed((identity.user,))
        return show_own_user(row)
