"""Taking people in and out of groups, and who may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import nullcontext
from uuid import UUID

import orjson
import pytest

from domain.errors import Forbidden, NotFound, UserNotFound
from domain.identity import Identity
from domain.ids import ConversationId
from domain.resources import Role
from services.members import GroupDeparture, LastOwner
from services.profiles import PublicProfile, show_user
from services.sessions import SessionRevoked
from services.unit_of_work import Transaction
from storage import users
from storage.members import PROFILE, ProfileRow
from tests.support.chat import Chat, chat_on, counted_statements, data_of


@pytest.fixture
async def chat(database_url: str) -> AsyncIterator[Chat]:
    async with chat_on(database_url) as running:
        yield running


async def roles(chat: Chat, viewer: Identity, conversation: ConversationId) -> dict[str, Role]:
    members, _ = await chat.members.list(viewer, conversation, after=None, limit=100)
    return {member.user.username: member.role for member in members}


async def with_roles(chat: Chat) -> ConversationId:
    """A new group of owner ada, admins bob and ben, members eve and eli; zoe is outside."""
    if not chat.people:
        await chat.crowd("ada", "bob", "ben", "eve", "eli", "zoe")
    ada, bob, ben, eve, eli = (chat.people[name] for name in ("ada", "bob", "ben", "eve", "eli"))
    conversation = await chat.group(ada, bob, ben, eve, eli)
    for admin in ("bob", "ben"):
        await chat.members.update_role(ada, conversation, admin, "admin")
    return conversation


async def test_who_is_added_reads_from_there_on(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob)
    await chat.send(ada, conversation, "before")
    before = await chat.head()
    answer = await chat.members.add(ada, conversation, ["eve", str(bob.user), "EVE"])
    shown = orjson.loads(answer.body)
    assert (answer.status, shown["member_count"]) == (200, 3)
    assert [m["user"]["username"] for m in shown["members"]][-1] == "eve"
    await chat.send(ada, conversation, "after")

    assert await chat.types(bob, before) == ["member.added", "message.created"]
    own = await chat.replay(eve)
    assert [e.type for e in own] == ["member.added", "member.added", "message.created"]
    assert [e.topic.kind.label for e in own[:2]] == ["conversation", "user"]
    assert own[0].data == own[1].data
    data = data_of(own[0])
    assert (data["user"]["username"], data["role"]) == ("eve", "member")
    assert UUID(data["conversation_id"]) == conversation

    theirs = await chat.get(eve, conversation)
    assert (theirs.last_seq, theirs.read_seq, theirs.unread_count) == (2, 1, 1)
    listed = await chat.messages.list(eve, conversation, before=None, after=None, limit=10)
    assert [m.body for m in listed] == ["after"]
    with pytest.raises(NotFound):
        await chat.messages.get(eve, conversation, 1)


async def test_adding_who_is_in_changes_and_tells_nothing(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.group(ada, bob)
    before = await chat.head()
    answer = await chat.members.add(ada, conversation, ["bob", "ada"])
    assert orjson.loads(answer.body)["member_count"] == 2
    assert await chat.head() == before
    assert await roles(chat, ada, conversation) == {"ada": "owner", "bob": "member"}


async def test_one_unknown_name_adds_nobody(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob)
    await chat.block(eve, ada)
    for names, pointer in ((["zoe"], "/members/0"), (["bob", "eve"], "/members/1")):
        with pytest.raises(UserNotFound) as refused:
            await chat.members.add(ada, conversation, names)
        assert refused.value.fields[0].pointer == pointer
    assert await roles(chat, ada, conversation) == {"ada": "owner", "bob": "member"}


async def test_who_was_added_at_once_by_many_is_in_once(chat: Chat) -> None:
    ada, bob, _ = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob)
    await asyncio.gather(*(chat.members.add(ada, conversation, ["eve"]) for _ in range(6)))
    assert (await chat.get(ada, conversation)).member_count == 3
    assert (await chat.types(chat.people["eve"])).count("member.added") == 2


async def test_who_leaves_hears_of_it_and_of_nothing_after(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob, eve)
    await chat.send(ada, conversation, "one")
    before = await chat.head()
    await chat.members.remove(eve, conversation, "eve")
    await chat.send(ada, conversation, "two")
    own = await chat.replay(eve, before)
    assert [(e.type, e.topic.kind.label) for e in own] == [
        ("member.removed", "conversation"),
        ("member.removed", "user"),
    ]
    assert await chat.types(eve) == [
        "conversation.created",
        "message.created",
        "member.removed",
        "member.removed",
    ]
    assert await chat.types(bob, before) == ["member.removed", "message.created"]
    assert (await chat.get(ada, conversation)).member_count == 2
    assert (await chat.conversations.list(eve, after=None, limit=5))[0] == []


async def test_after_rejoining_the_latest_joining_counts(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.group(ada, bob)
    await chat.send(bob, conversation, "old")
    await chat.members.update_role(ada, conversation, "bob", "admin")
    await chat.members.remove(ada, conversation, "bob")
    await chat.send(ada, conversation, "missed")
    await chat.members.add(ada, conversation, ["bob"])
    shown = await chat.get(bob, conversation)
    assert (shown.role, shown.last_message, shown.unread_count, shown.read_seq) == ("member", None, 0, 2)
    await chat.send(ada, conversation, "new")
    listed = await chat.messages.list(bob, conversation, before=None, after=None, limit=10)
    assert [m.body for m in listed] == ["new"]
    bodies = [data_of(e)["body"] for e in await chat.replay(bob) if e.type == "message.created"]
    assert bodies == ["old", "new"], "replay gives each stay, and nothing between them"
    windows = await chat.value(
        "SELECT count(*) FROM membership_windows WHERE user_id = $1 AND closes IS NULL", bob.user
    )
    assert windows == 1


async def test_with_history_all_everything_is_there_by_rest(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob, history="all")
    await chat.send(ada, conversation, "before")
    await chat.members.add(ada, conversation, ["eve"])
    listed = await chat.messages.list(eve, conversation, before=None, after=None, limit=10)
    assert [m.body for m in listed] == ["before"]
    shown = await chat.get(eve, conversation)
    assert shown.last_message is not None
    assert (shown.last_message.body, shown.unread_count) == ("before", 0)
    assert await chat.types(eve) == ["member.added", "member.added"]


async def test_who_may_remove_whom(chat: Chat) -> None:
    for who, target, allowed in (
        ("ada", "bob", True),
        ("ada", "eve", True),
        ("bob", "eve", True),
        ("bob", "ben", False),
        ("bob", "ada", False),
        ("bob", "bob", True),
        ("eve", "eli", False),
        ("eve", "ada", False),
        ("eve", "eve", True),
    ):
        conversation = await with_roles(chat)
        removal = chat.members.remove(chat.people[who], conversation, target)
        with nullcontext() if allowed else pytest.raises(Forbidden):
            await removal
        left = target not in await roles(chat, chat.people["ada"], conversation)
        assert left is allowed, (who, target)


async def test_who_may_add(chat: Chat) -> None:
    for who, allowed in (("ada", True), ("bob", True), ("eve", False)):
        conversation = await with_roles(chat)
        with nullcontext() if allowed else pytest.raises(Forbidden):
            await chat.members.add(chat.people[who], conversation, ["zoe"])
        assert ("zoe" in await roles(chat, chat.people["ada"], conversation)) is allowed, who


async def test_who_may_give_which_role(chat: Chat) -> None:
    cases: list[tuple[str, str, Role, bool]] = [
        ("ada", "eve", "admin", True),
        ("ada", "eve", "owner", True),
        ("ada", "bob", "member", True),
        ("bob", "eve", "admin", False),
        ("bob", "ben", "member", False),
        ("bob", "bob", "owner", False),
        ("bob", "bob", "member", True),
        ("eve", "eve", "admin", False),
        ("eve", "eve", "member", True),
        ("eve", "bob", "member", False),
    ]
    for who, target, role, allowed in cases:
        conversation = await with_roles(chat)
        before = await roles(chat, chat.people["ada"], conversation)
        with nullcontext() if allowed else pytest.raises(Forbidden):
            member = await chat.members.update_role(chat.people[who], conversation, target, role)
            assert (member.user.username, member.role) == (target, role)
        now = await roles(chat, chat.people["ada"], conversation)
        assert now == (before | {target: role} if allowed else before), (who, target, role)


async def test_a_new_role_is_told_to_all_and_to_the_inbox(chat: Chat) -> None:
    conversation = await with_roles(chat)
    ada, eve, eli = (chat.people[name] for name in ("ada", "eve", "eli"))
    before = await chat.head()
    await chat.members.update_role(ada, conversation, "eve", "admin")
    assert await chat.types(eli, before) == ["member.updated"]
    assert await chat.types(eve, before) == ["member.updated"] * 2
    assert data_of((await chat.replay(eli, before))[0])["role"] == "admin"
    await chat.members.update_role(ada, conversation, "eve", "admin")
    assert len(await chat.types(eli, before)) == 1, "the same role again tells nothing"


async def test_the_last_owner_cannot_step_down_but_can_hand_over(chat: Chat) -> None:
    conversation = await with_roles(chat)
    ada = chat.people["ada"]
    with pytest.raises(LastOwner):
        await chat.members.update_role(ada, conversation, "ada", "member")
    await chat.members.update_role(ada, conversation, "eve", "owner")
    await chat.members.update_role(ada, conversation, "ada", "member")
    now = await roles(chat, ada, conversation)
    assert (now["ada"], now["eve"]) == ("member", "owner")


async def test_when_the_last_owner_leaves_the_oldest_admin_follows(chat: Chat) -> None:
    conversation = await with_roles(chat)
    ada, eve = chat.people["ada"], chat.people["eve"]
    before = await chat.head()
    await chat.members.remove(ada, conversation, "ada")
    now = await roles(chat, eve, conversation)
    assert sorted(now.values()) == ["admin", "member", "member", "owner"]
    (heir,) = [name for name, role in now.items() if role == "owner"]
    assert heir in ("bob", "ben")
    told = await chat.replay(eve, before)
    assert [e.type for e in told] == ["member.removed", "member.updated"]
    assert data_of(told[1])["user"]["username"] == heir
    assert await chat.types(ada, before) == ["member.removed"] * 2


async def test_with_no_admin_the_oldest_member_follows_and_the_last_leaves_it_empty(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada)
    for name in ("eve", "bob"):
        await chat.members.add(ada, conversation, [name])
    await chat.members.remove(ada, conversation, "ada")
    assert await roles(chat, eve, conversation) == {"eve": "owner", "bob": "member"}
    await chat.members.remove(eve, conversation, "eve")
    await chat.members.remove(bob, conversation, "bob")
    assert await chat.value("SELECT member_count FROM conversations WHERE id = $1", conversation) == 0


async def test_two_owners_who_leave_at_once_leave_one_owner_behind(chat: Chat) -> None:
    conversation = await with_roles(chat)
    ada, bob = chat.people["ada"], chat.people["bob"]
    await chat.members.update_role(ada, conversation, "bob", "owner")
    await asyncio.gather(
        chat.members.remove(ada, conversation, "ada"), chat.members.remove(bob, conversation, "bob")
    )
    now = await roles(chat, chat.people["eve"], conversation)
    assert now == {"ben": "owner", "eve": "member", "eli": "member"}


async def test_a_direct_conversation_takes_no_member_changes(chat: Chat) -> None:
    ada, bob, _ = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.direct(ada, bob)
    for call in (
        chat.members.add(ada, conversation, ["eve"]),
        chat.members.remove(ada, conversation, "bob"),
        chat.members.remove(ada, conversation, "ada"),
        chat.members.update_role(ada, conversation, "bob", "admin"),
    ):
        with pytest.raises(Forbidden):
            await call


async def test_who_is_not_in_cannot_be_removed_or_given_a_role(chat: Chat) -> None:
    conversation = await with_roles(chat)
    ada = chat.people["ada"]
    for name in ("zoe", "nobody", str(chat.people["zoe"].user), "\x00"):
        with pytest.raises(NotFound):
            await chat.members.remove(ada, conversation, name)
        with pytest.raises(NotFound):
            await chat.members.update_role(ada, conversation, name, "admin")


async def test_pages_of_members_hold_everyone_once_while_people_come_and_go(chat: Chat) -> None:
    people = await chat.crowd(*(f"user{n:02}" for n in range(7)))
    conversation = await chat.group(people[0])
    for person in people[1:]:
        await chat.members.add(people[0], conversation, [str(person.user)])
    first, after = await chat.members.list(people[0], conversation, after=None, limit=3)
    await chat.members.remove(people[1], conversation, "user01")
    await chat.members.add(people[0], conversation, ["user01"])
    await chat.person("late")
    await chat.members.add(people[0], conversation, ["late"])
    rest = []
    while after is not None:
        page, after = await chat.members.list(people[0], conversation, after=after, limit=3)
        rest += page
    assert [m.user.username for m in [*first, *rest]] == [f"user{n:02}" for n in range(7)]
    now, _ = await chat.members.list(people[0], conversation, after=None, limit=10)
    assert [m.user.username for m in now][-2:] == ["user01", "late"]


async def test_a_block_hides_no_members_of_a_group(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.group(ada, bob)
    await chat.block(bob, ada)
    assert set(await roles(chat, ada, conversation)) == {"ada", "bob"}
    await chat.members.remove(ada, conversation, "bob")


async def test_who_deletes_their_account_leaves_every_group(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    owned = await chat.group(ada, bob)
    joined = await chat.group(eve, ada)
    direct = await chat.direct(ada, bob)
    await chat.send(bob, owned, "hi")
    before = await chat.head()
    departure = GroupDeparture(chat.uow)
    await departure.leave(ada)
    async with chat.database.connection() as connection:
        assert await departure.is_out(connection, ada)
        await users.anonymise(connection, ada.tenant, ada.user)
    assert await roles(chat, bob, owned) == {"bob": "owner"}
    assert await roles(chat, eve, joined) == {"eve": "owner"}
    assert (await chat.get(bob, direct)).member_count == 2
    assert await chat.types(bob, before) == ["member.removed", "member.updated", "member.updated"]
    told = data_of((await chat.replay(bob, before))[0])["user"]
    (row,) = await _users(chat, ada)
    assert told == orjson.loads(show_user(row).model_dump_json()), "as everyone sees them from now on"
    await chat.send(bob, owned, "gone?")
    await chat.send(eve, joined, "gone?")
    assert [t for t in await chat.types(ada, before) if t != "member.removed"] == []
    assert (await chat.messages.get(bob, owned, 1)).status == "sent", "nobody else is left to receive it"


async def test_an_account_deleted_meanwhile_is_taken_in_nowhere(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.group(ada)
    leaving, deleted = asyncio.Event(), asyncio.Event()

    async def delete(tx: Transaction) -> None:
        await users.lock_user(tx.connection, bob.tenant, bob.user)
        await users.anonymise(tx.connection, bob.tenant, bob.user)
        leaving.set()
        await deleted.wait()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(chat.uow.run(delete))
        await leaving.wait()
        adding = tasks.create_task(refused(chat.members.add(ada, conversation, ["bob"])))
        starting = tasks.create_task(refused(chat.group(ada, bob)))
        alone = tasks.create_task(refused(chat.group(bob)))
        while await chat.value("SELECT count(*) FROM pg_locks WHERE NOT granted") < 3:
            assert not adding.done()
            assert not starting.done()
            assert not alone.done()
        deleted.set()
    assert isinstance(alone.result(), SessionRevoked)
    for refusal in (adding.result(), starting.result()):
        assert isinstance(refusal, UserNotFound)
        assert refusal.fields[0].pointer == "/members/0"
    assert await chat.value("SELECT count(*) FROM conversation_members WHERE user_id = $1", bob.user) == 0


async def test_leaving_many_groups_is_some_statements_and_not_some_for_each(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    departure = GroupDeparture(chat.uow)
    counts = []
    for many in (1, 7):
        groups = [await chat.group(ada, bob) for _ in range(many)]
        async with counted_statements(chat) as statements:
            await departure.leave(ada)
        counts.append(len(statements))
        for group in groups:
            assert await roles(chat, bob, group) == {"bob": "owner"}
            assert (await chat.get(bob, group)).member_count == 1
    assert counts[0] == counts[1]


async def test_no_more_groups_than_a_few_are_held_at_once(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    departure = GroupDeparture(chat.uow)
    departure.AT_ONCE = 2
    groups = [await chat.group(ada, bob) for _ in range(5)]
    async with counted_statements(chat) as statements:
        await departure.leave(ada)
    assert sum("log_heads" in statement for statement in statements) == 3
    for group in groups:
        assert await roles(chat, bob, group) == {"bob": "owner"}


async def _users(chat: Chat, of: Identity) -> list[PublicProfile]:
    async with chat.database.connection() as connection:
        record = await connection.fetchrow(f"SELECT {PROFILE} FROM users u WHERE u.id = $1", of.user)
    assert record is not None
    return [ProfileRow(*record)]


async def refused(work: Awaitable[object]) -> BaseException | None:
    (result,) = await asyncio.gather(work, return_exceptions=True)
    return result if isinstance(result, BaseException) else None
