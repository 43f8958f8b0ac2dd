"""Conversations: starting them, listing them, changing what they are called and what newcomers may read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.errors import FieldError, InvalidFields, NotFound, UserNotFound
from domain.identity import Identity
from domain.ids import ConversationId, UserId, new_id
from domain.resources import Conversation, History, Member, Role, SharedConversation
from services.conversation_events import conversation_created, conversation_updated
from services.idempotency import Answer, KeptAnswer, answer_of, run_kept
from services.membership import locked_standing, require_leader, standing_of
from services.message_views import show_own_message
from services.profiles import show_user
from services.sessions import SessionRevoked
from services.unit_of_work import Transaction, UnitOfWork
from services.visibility import visible_users
from storage import conversations, members
from storage.conversation_views import ConversationView, ListPlace, list_conversations, read_conversation
from storage.conversations import Kind
from storage.database import Connection, Database
from storage.members import MemberRow
from storage.users import UserRow

MAX_MEMBERS = 5000
"""Members of a group. Beyond it, one message costs its conversation more than a broadcast channel would."""


@dataclass(frozen=True, slots=True)
class NewConversation:
    """What somebody wants to start. ``members``: usernames or ids. ``title``: of a group; None where not given."""

    kind: Kind
    members: Sequence[str]
    title: str | None = None
    history: History | None = None


@dataclass(frozen=True, slots=True)
class ConversationChange:
    """What to change; None leaves it. ``muted_until`` is looked at only with ``mute``, so that None can end it."""

    title: str | None = None
    history: History | None = None
    pinned: bool | None = None
    mute: bool = False
    muted_until: datetime | None = None

    @property
    def shared(self) -> bool:
        """Whether it changes what every member sees."""
        return self.title is not None or self.history is not None


def show_member(row: MemberRow) -> Member:
    return Member(user=show_user(row.user), role=row.role, joined_at=row.joined_at)


def show_shared(view: ConversationView) -> SharedConversation:
    """A conversation without what differs by member."""
    return SharedConversation(
        id=view.id,
        kind=view.kind,
        title=view.title,
        history=view.history,
        last_seq=view.last_seq,
        member_count=view.member_count,
        members=[show_member(row) for row in view.members],
        created_at=view.created_at,
    )


def show_conversation(view: ConversationView, viewer: UserId) -> Conversation:
    """A conversation as one of its members sees it."""
    last = view.last_message
    return Conversation(
        id=view.id,
        kind=view.kind,
        title=view.title,
        history=view.history,
        last_seq=view.last_seq,
        member_count=view.member_count,
        members=[show_member(row) for row in view.members],
        created_at=view.created_at,
        read_seq=view.read_seq,
        unread_count=view.last_seq - view.read_seq,
        last_message=None if last is None else show_own_message(last, viewer),
        role=view.role,
        muted_until=view.muted_until,
        pinned=view.pinned,
    )


async def view_of(
    connection: Connection, identity: Identity, conversation: ConversationId
) -> ConversationView:
    """A conversation as a member sees it. Raises NotFound for anyone else."""
    view = await read_conversation(connection, identity.tenant, identity.user, conversation)
    if view is None:
        raise NotFound()
    return view


class Conversations:
    """Starts, shows and changes conversations."""

    def __init__(self, database: Database, uow: UnitOfWork) -> None:
        self._database = database
        self._uow = uow

    async def start(
        self, identity: Identity, wanted: NewConversation, keep: KeptAnswer | None = None
    ) -> Answer:
        """A new conversation: 201. Of a pair that has its direct conversation already, that one: 200.

        Naming somebody twice changes nothing, and so does naming oneself in a group, which the caller owns. Raises
        UserNotFound for who is not there or not visible, and InvalidFields, also (``group_full``) for more than
        :data:`MAX_MEMBERS`.
        """
        if wanted.kind == "direct":
            if wanted.title is not None or wanted.history == "all":
                name = "/title" if wanted.title is not None else "/history"
                raise InvalidFields([FieldError(name, "is for groups")])
            return await self._start_direct(identity, wanted.members, keep)
        if wanted.title is None:
            raise InvalidFields([FieldError("/title", "is required for a group")])
        return await self._start_group(
            identity, wanted.members, wanted.title, wanted.history or "joined", keep
        )

    async def get(self, identity: Identity, conversation: ConversationId) -> Conversation:
        """One of the caller's conversations. Raises NotFound."""
        async with self._database.connection() as connection:
            return show_conversation(await view_of(connection, identity, conversation), identity.user)

    async def list(
        self, identity: Identity, *, after: tuple[int, int] | None, limit: int
    ) -> tuple[list[Conversation], tuple[int, int] | None]:
        """A page of the caller's conversations, newest activity first, and the ``after`` of the next page.

        Pages that follow one first page keep the order of its moment, and show the conversations as they are now.
        """
        async with self._database.connection() as connection:
            views = await list_conversations(
                connection,
                identity.tenant,
                identity.user,
                after=ListPlace(*after) if after else None,
                limit=limit + 1,
            )
        more, views = len(views) > limit, views[:limit]
        shown = [show_conversation(view, identity.user) for view in views]
        return shown, (views[-1].snapshot, views[-1].activity) if more else None

    async def update(
        self, identity: Identity, conversation: ConversationId, change: ConversationChange
    ) -> Conversation:
        """Changes the group (owners and admins: ``title``, ``history``) and what the caller set for themselves.

        Raises NotFound; Forbidden for a plain member who changes the group, and in a direct conversation: then nothing
        of it is changed.
        """
        tenant, user = identity.tenant, identity.user

        async def work(tx: Transaction) -> ConversationView:
            standing = await locked_standing(tx, tenant, user, conversation)
            if change.shared:
                require_leader(standing, "change the group")
                await conversations.update_details(
                    tx.connection, tenant, conversation, title=change.title, history=change.history
                )
            if change.mute or change.pinned is not None:
                await members.update_own(
                    tx.connection,
                    tenant,
                    conversation,
                    user,
                    pinned=change.pinned,
                    mute=change.mute,
                    muted_until=change.muted_until,
                )
            view = await view_of(tx.connection, identity, conversation)
            if (view.title, view.history) != (standing.title, standing.history):
                await tx.append(conversation_updated(tenant, show_shared(view)))
            return view

        return show_conversation(await self._uow.run(work), user)

    async def require_member(self, identity: Identity, conversation: ConversationId) -> None:
        """Raises NotFound where the caller is not in the conversation."""
        async with self._database.connection() as connection:
            await standing_of(connection, identity.tenant, identity.user, conversation)

    async def _start_direct(
        self, identity: Identity, names: Sequence[str], keep: KeptAnswer | None
    ) -> Answer:
        tenant, user = identity.tenant, identity.user

        async def work(tx: Transaction) -> tuple[int, ConversationView]:
            peer = _one_other(
                await visible_users(tx.connection, tenant, user, names, "/members"), identity.user
            )
            known = await conversations.find_direct(tx.connection, tenant, user, peer)
            if known is None:
                new = ConversationId(new_id())
                if await conversations.insert_direct(tx.connection, tenant, new, user, peer):
                    return 201, await self._open(tx, identity, new, [(user, "member"), (peer, "member")])
                known = await conversations.find_direct(tx.connection, tenant, user, peer)
            assert known is not None, "the pair's other request has committed it"
            return 200, await view_of(tx.connection, identity, known)

        return await self._answer(identity, keep, work)

    async def _start_group(
        self,
        identity: Identity,
        names: Sequence[str],
        title: str,
        history: History,
        keep: KeptAnswer | None,
    ) -> Answer:
        tenant, user = identity.tenant, identity.user

        async def work(tx: Transaction) -> tuple[int, ConversationView]:
            found = await visible_users(tx.connection, tenant, user, names, "/members")
            others = {row.id for row in found} - {user}
            require_room(len(others) + 1)
            await hold_accounts(tx.connection, found, creator=identity)
            new = ConversationId(new_id())
            await conversations.insert_group(
                tx.connection, tenant, new, title=title, history=history, creator=user
            )
            roles: list[tuple[UserId, Role]] = [(user, "owner"), *((other, "member") for other in others)]
            return 201, await self._open(tx, identity, new, roles)

        return await self._answer(identity, keep, work)

    async def _open(
        self,
        tx: Transaction,
        identity: Identity,
        new: ConversationId,
        roles: Sequence[tuple[UserId, Role]],
    ) -> ConversationView:
        """Takes in the first members, tells of the conversation and opens it to them."""
        users = [user for user, _ in roles]
        await members.add(tx.connection, identity.tenant, new, roles)
        view = await view_of(tx.connection, identity, new)
        (created,) = await tx.append(conversation_created(identity.tenant, show_shared(view), users))
        await conversations.place(tx.connection, identity.tenant, new, users, created.position)
        return view

    async def _answer(
        self,
        identity: Identity,
        keep: KeptAnswer | None,
        work: Callable[[Transaction], Awaitable[tuple[int, ConversationView]]],
    ) -> Answer:
        def render(result: tuple[int, ConversationView]) -> Answer:
            status, view = result
            return answer_of(status, show_conversation(view, identity.user))

        return await run_kept(self._uow, keep, work, render)


def require_room(count: int) -> None:
    """Raises InvalidFields where a group would have more than :data:`MAX_MEMBERS`."""
    if count > MAX_MEMBERS:
        raise InvalidFields(
            [FieldError("/members", f"a group has at most {MAX_MEMBERS} members")], code="group_full"
        )


async def hold_accounts(
    connection: Connection, found: Sequence[UserRow], *, creator: Identity | None = None
) -> None:
    """Keeps the accounts named under ``/members`` from being deleted before this transaction ends.

    Who deletes an account leaves the groups it is in; without this, a group it is just being taken into would keep it.
    Raises UserNotFound where one was deleted meanwhile, and SessionRevoked where it is the ``creator`` of the group.
    """
    wanted = [(row.tenant, row.id) for row in found]
    if creator is not None:
        wanted.append((creator.tenant, creator.user))
    if not wanted:
        return
    held = await members.hold_users(connection, wanted[0][0], [user for _, user in wanted])
    if creator is not None and creator.user not in held:
        raise SessionRevoked()
    for index, row in enumerate(found):
        if row.id not in held:
            raise UserNotFound(f"/members/{index}")


def _one_other(found: Sequence[UserRow], user: UserId) -> UserId:
    others = {row.id for row in found} - {user}
    if not others:
        raise InvalidFields([FieldError("/members/0" if found else "/members", "name somebody else")])
    if len(others) > 1:
        raise InvalidFields([FieldError("/members", "a direct conversation has one other member")])
    return others.pop()
