"""Members of groups: who may take in, take out and appoint whom.

============================  =====  =====  ======
may                           owner  admin  member
============================  =====  =====  ======
read, send, react, leave      yes    yes    yes
delete others' messages       yes    yes    no
change title and history      yes    yes    no
take people in                yes    yes    no
take members out              yes    yes    no
take admins and owners out    yes    no     no
give and take any role        yes    no     no
step down to a lower role     yes    yes    --
============================  =====  =====  ======

A group may have several owners and always has one: the last cannot step down, and when they leave, the admin who has
been in longest becomes the owner, or else the member who has. A direct conversation has two plain members for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from domain.errors import Conflict, Forbidden, NotFound
from domain.identity import Identity
from domain.ids import ConversationId, TenantId, UserId
from domain.log import EventDraft
from domain.resources import Member, Role
from services.conversation_events import member_added, member_removed, member_updated
from services.conversations import hold_accounts, require_room, show_conversation, show_member, view_of
from services.idempotency import Answer, KeptAnswer, answer_of, run_kept
from services.membership import locked_standing, require_leader, standing_of
from services.profiles import show_deleted_user, show_user
from services.unit_of_work import Transaction, UnitOfWork
from services.visibility import user_name, visible_users
from storage import conversations, log, members, users
from storage.conversation_views import ConversationView
from storage.conversations import Standing
from storage.database import Connection, Database
from storage.members import MemberRow, MembersPlace
from storage.users import UserRow

_RANK: dict[Role, int] = {"owner": 2, "admin": 1, "member": 0}


class LastOwner(Conflict):
    """A group always has an owner."""

    code, title = "last_owner", "A group needs an owner"


class Members:
    """Shows and changes who is in a conversation. The module's table says who may."""

    def __init__(self, database: Database, uow: UnitOfWork) -> None:
        self._database = database
        self._uow = uow

    async def list(
        self,
        identity: Identity,
        conversation: ConversationId,
        *,
        after: tuple[int, int, UUID] | None,
        limit: int,
    ) -> tuple[list[Member], tuple[int, int, UUID] | None]:
        """A page of members, the longest in first, and the ``after`` of the next page. Raises NotFound.

        Who joins after the first page was read is in none of the pages that follow it.
        """
        async with self._database.connection() as connection:
            found = await members.list_members(
                connection,
                identity.tenant,
                conversation,
                identity.user,
                after=MembersPlace(*after) if after else None,
                limit=limit + 1,
            )
        if found is None:
            raise NotFound()
        rows, snapshot = found
        more, rows = len(rows) > limit, rows[:limit]
        last = (snapshot, rows[-1].joined_position, rows[-1].user.id) if more else None
        return [show_member(row) for row in rows], last

    async def add(
        self,
        identity: Identity,
        conversation: ConversationId,
        names: Sequence[str],
        keep: KeptAnswer | None = None,
    ) -> Answer:
        """Takes users in and shows the conversation: 200. Who is in already stays as they are.

        They read from here on, or everything where ``history`` is ``all``. Raises NotFound, Forbidden, UserNotFound,
        and InvalidFields (``group_full``).
        """
        tenant, user = identity.tenant, identity.user

        async def work(tx: Transaction) -> ConversationView:
            standing = await locked_standing(tx, tenant, user, conversation)
            require_leader(standing, "add members")
            found = await visible_users(tx.connection, tenant, user, names, "/members")
            present = await members.find_present(
                tx.connection, tenant, conversation, [row.id for row in found]
            )
            # By id, as the members of one moment are listed, so that the answer and later lists agree.
            new = sorted({row.id: row for row in found if row.id not in present}.values(), key=lambda r: r.id)
            require_room(standing.member_count + len(new))
            await hold_accounts(tx.connection, found)
            if new:
                await members.add(tx.connection, tenant, conversation, [(row.id, "member") for row in new])
            view = await view_of(tx.connection, identity, conversation)
            if new:
                await self._tell_added(tx, tenant, conversation, new)
            return view

        return await run_kept(
            self._uow, keep, work, lambda view: answer_of(200, show_conversation(view, user))
        )

    async def update_role(
        self, identity: Identity, conversation: ConversationId, name: str, role: Role
    ) -> Member:
        """Gives a member a role. Raises NotFound, Forbidden, and LastOwner where nobody else owns the group."""
        tenant = identity.tenant

        async def work(tx: Transaction) -> Member:
            standing = await locked_standing(tx, tenant, identity.user, conversation)
            if standing.kind == "direct":
                require_leader(standing, "give roles")
            member = await self._find(tx.connection, tenant, conversation, name)
            own = member.user.id == identity.user
            if standing.role != "owner" and not (own and _RANK[role] <= _RANK[standing.role]):
                raise Forbidden("only owners may give roles")
            if role == member.role:
                return show_member(member)
            if own and standing.role == "owner":
                await self._require_other_owner(tx.connection, tenant, conversation, identity.user)
            await members.update_role(tx.connection, tenant, conversation, member.user.id, role)
            await tx.append(*member_updated(tenant, conversation, show_user(member.user), role))
            return show_member(member).model_copy(update={"role": role})

        return await self._uow.run(work)

    async def remove(self, identity: Identity, conversation: ConversationId, name: str) -> None:
        """Takes a member out, or leaves. Raises NotFound, Forbidden."""
        tenant = identity.tenant

        async def work(tx: Transaction) -> None:
            standing = await locked_standing(tx, tenant, identity.user, conversation)
            if standing.kind == "direct":
                raise Forbidden("a direct conversation is between two people and cannot be left")
            member = await self._find(tx.connection, tenant, conversation, name)
            if member.user.id != identity.user:
                _require_over(standing, member)
            drafts = await take_out(tx.connection, tenant, conversation, member)
            removed = (await tx.append(*drafts))[0]
            await log.close_windows(tx.connection, tenant, conversation, [member.user.id], removed.position)

        await self._uow.run(work)

    async def require(self, identity: Identity, conversation: ConversationId, name: str) -> None:
        """Raises NotFound where the caller, or the user named, is not in the conversation."""
        async with self._database.connection() as connection:
            await standing_of(connection, identity.tenant, identity.user, conversation)
            await self._find(connection, identity.tenant, conversation, name)

    async def _tell_added(
        self, tx: Transaction, tenant: TenantId, conversation: ConversationId, new: Sequence[UserRow]
    ) -> None:
        drafts = [
            draft for row in new for draft in member_added(tenant, conversation, show_user(row), "member")
        ]
        events = await tx.append(*drafts)
        # Two events each: the conversation's opens it, the inbox's follows.
        positions = [(row.id, event.position) for row, event in zip(new, events[::2], strict=True)]
        await members.place(tx.connection, tenant, conversation, positions)

    async def _find(
        self, connection: Connection, tenant: TenantId, conversation: ConversationId, name: str
    ) -> MemberRow:
        member = await members.find(connection, tenant, conversation, user_name(name))
        if member is None:
            raise NotFound()
        return member

    async def _require_other_owner(
        self, connection: Connection, tenant: TenantId, conversation: ConversationId, user: UserId
    ) -> None:
        senior = await members.find_senior(connection, tenant, conversation, but=user)
        if senior is None or senior.role != "owner":
            raise LastOwner("make somebody else an owner first")


def _require_over(standing: Standing, member: MemberRow) -> None:
    require_leader(standing, "remove members")
    if standing.role != "owner" and member.role != "member":
        raise Forbidden("only owners may remove owners and admins")


async def take_out(
    connection: Connection, tenant: TenantId, conversation: ConversationId, member: MemberRow
) -> list[EventDraft]:
    """Takes a member out of a locked group and hands their ownership on where nobody shares it.

    Gives the events to append; at the position of the first of them the member's window closes.
    """
    await members.remove(connection, tenant, conversation, member.user.id)
    drafts = [*member_removed(tenant, conversation, show_user(member.user), member.role)]
    if member.role == "owner":
        heir = await members.find_senior(connection, tenant, conversation, but=member.user.id)
        if heir is not None and heir.role != "owner":
            await members.update_role(connection, tenant, conversation, heir.user.id, "owner")
            drafts += member_updated(tenant, conversation, show_user(heir.user), "owner")
    return drafts


class GroupDeparture:
    """Takes somebody who deletes their account out of every group. Their direct conversations stay with the other."""

    AT_ONCE = 50
    """Groups left in one transaction: nobody there can write until it ends."""

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow

    async def leave(self, identity: Identity) -> None:
        """Leaves all groups, in transactions of their own, as the deleted user they are about to be."""
        while await self._uow.run(lambda tx: self._leave_some(tx, identity)) == self.AT_ONCE:
            pass

    async def is_out(self, connection: Connection, identity: Identity) -> bool:
        """Whether they are in no group. With their account locked, nobody can take them into one."""
        return not await members.is_in_group(connection, identity.tenant, identity.user)

    async def _leave_some(self, tx: Transaction, identity: Identity) -> int:
        tenant, user = identity.tenant, identity.user
        locked = await conversations.lock_groups_of(tx.connection, tenant, user, self.AT_ONCE)
        row = await users.find_user(tx.connection, tenant, user)
        if row is None or not locked:
            return 0
        gone = show_deleted_user(row)
        roles = await members.remove_from(tx.connection, tenant, user, locked)
        owned = [group for group, role in roles.items() if role == "owner"]
        heirs = await members.promote_heirs(tx.connection, tenant, user, owned)
        drafts: list[EventDraft] = []
        for group, role in roles.items():
            drafts += member_removed(tenant, group, gone, role)
            if group in heirs:
                drafts += member_updated(tenant, group, show_user(heirs[group]), "owner")
        positions = [
            (ConversationId(event.topic.id), event.position)
            for event in await tx.append(*drafts)
            if user in event.control.leaves
        ]
        await members.close_windows(tx.connection, tenant, user, positions)
        return len(locked)
