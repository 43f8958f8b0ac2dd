"""Starting, listing, showing and changing conversations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson
import pytest

from domain.errors import Forbidden, InvalidFields, NotFound, UserNotFound
from domain.ids import ConversationId, TenantId, new_id
from services.conversations import MAX_MEMBERS, ConversationChange, NewConversation
from tests.support.chat import Chat, chat_on, counted_statements, data_of


@pytest.fixture
async def chat(database_url: str) -> AsyncIterator[Chat]:
    async with chat_on(database_url) as running:
        yield running


async def test_a_pair_has_one_direct_conversation_whoever_starts_it(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    first = await chat.conversations.start(ada, NewConversation("direct", ["bob"]))
    again = await chat.conversations.start(ada, NewConversation("direct", [str(bob.user)]))
    other = await chat.conversations.start(bob, NewConversation("direct", ["ADA"]))
    assert [first.status, again.status, other.status] == [201, 200, 200]
    shown = [orjson.loads(answer.body) for answer in (first, again, other)]
    assert len({c["id"] for c in shown}) == 1
    assert shown[0]["kind"] == "direct"
    assert shown[0]["title"] is None
    assert shown[0]["role"] == "member"
    assert {m["user"]["username"] for m in shown[0]["members"]} == {"ada", "bob"}
    assert await chat.types(bob) == ["conversation.created"]


async def test_many_starts_of_one_pair_at_once_make_one_conversation(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    starts = [
        chat.conversations.start(one, NewConversation("direct", [other]))
        for one, other in [(ada, "bob"), (bob, "ada")] * 6
    ]
    answers = await asyncio.gather(*starts)
    assert sorted(answer.status for answer in answers) == [200] * 11 + [201]
    assert len({orjson.loads(answer.body)["id"] for answer in answers}) == 1
    assert await chat.types(ada) == ["conversation.created"]


async def test_what_cannot_be_started_says_where(chat: Chat) -> None:
    ada, *_ = await chat.crowd("ada", "bob", "eve")
    for wanted, pointer in (
        (NewConversation("direct", ["ada"]), "/members/0"),
        (NewConversation("direct", []), "/members"),
        (NewConversation("direct", ["bob", "eve"]), "/members"),
        (NewConversation("direct", ["bob"], title="Us"), "/title"),
        (NewConversation("direct", ["bob"], history="all"), "/history"),
        (NewConversation("direct", ["nobody"]), "/members/0"),
        (NewConversation("group", ["bob"]), "/title"),
        (NewConversation("group", ["bob", "nobody"], title="Us"), "/members/1"),
        (NewConversation("group", ["bob", ""], title="Us"), "/members/1"),
        (NewConversation("group", ["bob", "\x00"], title="Us"), "/members/1"),
    ):
        with pytest.raises(InvalidFields) as refused:
            await chat.conversations.start(ada, wanted)
        assert [field.pointer for field in refused.value.fields] == [pointer], wanted
    assert await chat.value("SELECT count(*) FROM conversations") == 0
    assert await chat.head() == 0


async def test_a_blocked_user_cannot_be_named_and_what_was_there_stays_readable(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.direct(ada, bob)
    await chat.send(bob, conversation, "hi")
    await chat.block(ada, bob)
    await chat.block(eve, ada)
    for name in ("bob", "eve"):
        for wanted in (NewConversation("direct", [name]), NewConversation("group", [name], "Title")):
            with pytest.raises(UserNotFound) as refused:
                await chat.conversations.start(ada, wanted)
            assert refused.value.fields[0].pointer == "/members/0"
    shown = await chat.get(ada, conversation)
    assert shown.last_message is not None
    assert shown.last_message.body == "hi"


async def test_the_maker_of_a_group_owns_it_and_all_are_told_at_once(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    wanted = NewConversation("group", ["bob", "eve", "bob", "ada"], "Friends", "all")
    answer = await chat.conversations.start(ada, wanted)
    assert answer.status == 201
    shown = orjson.loads(answer.body)
    assert (shown["title"], shown["history"], shown["role"]) == ("Friends", "all", "owner")
    assert (shown["member_count"], shown["last_seq"], shown["unread_count"]) == (3, 0, 0)
    assert shown["last_message"] is None
    for member in (ada, bob, eve):
        (created,) = await chat.replay(member)
        assert created.type == "conversation.created"
        data = data_of(created)
        assert data["id"] == shown["id"]
        assert data["members"] == shown["members"]
        assert not {"role", "read_seq", "unread_count", "pinned", "muted_until", "last_message"} & set(data)
    got = await chat.get(bob, ConversationId(UUID(shown["id"])))
    assert got.role == "member"
    assert [m.model_dump(mode="json") for m in got.members] == shown["members"]


async def test_a_group_has_a_limit(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_MEMBERS >= 1000
    monkeypatch.setattr("services.conversations.MAX_MEMBERS", 2)
    ada, bob, _ = await chat.crowd("ada", "bob", "eve")
    with pytest.raises(InvalidFields) as refused:
        await chat.group(ada, bob, chat.people["eve"])
    assert refused.value.code == "group_full"
    conversation = await chat.group(ada, bob)
    with pytest.raises(InvalidFields):
        await chat.members.add(ada, conversation, ["eve"])


async def test_strangers_leavers_and_other_tenants_get_the_same_404(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob)
    await chat.send(ada, conversation)
    await chat.members.remove(bob, conversation, "bob")
    acme = TenantId(new_id())
    await chat.value("INSERT INTO tenants (id, slug, name) VALUES ($1, 'acme', 'Acme')", acme)
    foreign = await chat.person("zoe", acme)
    for who in (bob, eve, foreign):
        for call in (
            chat.conversations.get(who, conversation),
            chat.conversations.update(who, conversation, ConversationChange(title="Mine", pinned=True)),
            chat.members.list(who, conversation, after=None, limit=5),
            chat.members.add(who, conversation, ["nobody"]),
            chat.members.remove(who, conversation, "ada"),
            chat.members.update_role(who, conversation, "ada", "member"),
            chat.messages.list(who, conversation, before=None, after=None, limit=5),
            chat.messages.get(who, conversation, 1),
            chat.messages.history(who, conversation, 1),
            chat.messages.edit(who, conversation, 1, "mine"),
            chat.messages.delete(who, conversation, 1),
            chat.send(who, conversation, "me too"),
            chat.reactions.add(who, conversation, 1, "👍"),
            chat.reactions.remove(who, conversation, 1, "👍"),
            chat.receipts.read(who, conversation, 1),
            chat.receipts.delivered(who, conversation, 1),
        ):
            with pytest.raises(NotFound) as refused:
                await call
            assert (refused.value.code, refused.value.detail) == ("not_found", "Not found")
    assert (await chat.conversations.list(eve, after=None, limit=5)) == ([], None)


async def test_the_list_shows_what_each_member_needs(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    quiet = await chat.group(ada, bob)
    busy = await chat.direct(ada, eve)
    await chat.send(eve, busy, "one")
    await chat.send(ada, busy, "two")
    await chat.send(eve, busy, "three")
    await chat.reactions.add(ada, busy, 3, "👍")
    await chat.send(bob, quiet, "later")
    items, more = await chat.conversations.list(ada, after=None, limit=10)
    assert more is None
    assert [c.id for c in items] == [quiet, busy]
    first, second = items
    assert (first.unread_count, second.unread_count) == (1, 1)
    assert first.last_message is not None
    assert first.last_message.status is None
    assert second.last_message is not None
    assert second.last_message.body == "three"
    assert [(r.emoji, r.count) for r in second.last_message.reactions] == [("👍", 1)]
    assert items == [await chat.get(ada, quiet), await chat.get(ada, busy)]
    ((theirs,), _) = await chat.conversations.list(eve, after=None, limit=10)
    assert theirs.unread_count == 0
    assert theirs.last_message is not None
    assert theirs.last_message.status == "sent"


async def test_lists_take_one_round_trip_whatever_their_size(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    made = [await chat.group(ada, bob, eve) for _ in range(12)]
    for conversation in made:
        for n in range(1, 4):
            await chat.send(ada, conversation)
            await chat.reactions.add(bob, conversation, n, "👍")
    for limit in (1, 12, 100):
        async with counted_statements(chat) as statements:
            items, _ = await chat.conversations.list(ada, after=None, limit=limit)
        assert (len(items), len(statements)) == (min(limit, 12), 1)
        async with counted_statements(chat) as statements:
            shown = await chat.messages.list(ada, made[0], before=None, after=None, limit=limit)
        assert (len(shown), len(statements)) == (min(limit, 3), 1)
        async with counted_statements(chat) as statements:
            members, _ = await chat.members.list(ada, made[0], after=None, limit=limit)
        assert (len(members), len(statements)) == (min(limit, 3), 1)


async def test_a_deleted_last_message_is_shown_as_its_tombstone(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    await chat.send(ada, conversation, "oops")
    await chat.messages.delete(ada, conversation, 1)
    shown = await chat.get(bob, conversation)
    assert shown.last_message is not None
    assert (shown.last_message.body, shown.last_message.seq) == (None, 1)
    assert shown.unread_count == 1


async def test_only_the_first_ten_members_are_shown(chat: Chat) -> None:
    people = await chat.crowd(*(f"user{n:02}" for n in range(13)))
    conversation = await chat.group(*people)
    shown = await chat.get(people[5], conversation)
    assert (shown.member_count, len(shown.members)) == (13, 10)
    listed, _ = await chat.members.list(people[0], conversation, after=None, limit=10)
    assert listed == shown.members


async def test_pages_skip_and_repeat_nothing_while_messages_arrive(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    made = [await chat.group(ada, bob) for _ in range(9)]
    for n in (3, 1, 7):
        await chat.send(bob, made[n])
    expected = [7, 1, 3, 8, 6, 5, 4, 2, 0]
    seen: list[int] = []
    after = None
    for step in range(20):
        items, after = await chat.conversations.list(ada, after=after, limit=2)
        seen += [made.index(ConversationId(c.id)) for c in items]
        if after is None:
            break
        # What is still to come moves to the front, what was shown moves again, and new ones appear.
        await chat.send(bob, made[expected[-1]])
        await chat.send(bob, made[expected[len(seen) + step % 2 - 1]])
        await chat.group(bob, ada)
        await chat.send(ada, made[expected[0]])
    assert seen == expected
    front, _ = await chat.conversations.list(ada, after=None, limit=1)
    assert front[0].id == made[7]


async def test_being_added_brings_a_quiet_group_to_the_front(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    quiet = await chat.group(ada)
    busy = await chat.direct(ada, bob)
    await chat.send(ada, busy)
    await chat.members.add(ada, quiet, ["bob"])
    items, _ = await chat.conversations.list(bob, after=None, limit=10)
    assert [c.id for c in items] == [quiet, busy]
    items, _ = await chat.conversations.list(ada, after=None, limit=10)
    assert [c.id for c in items] == [busy, quiet]


async def test_leading_members_change_the_group_and_all_are_told(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob, eve)
    await chat.members.update_role(ada, conversation, "bob", "admin")
    before = await chat.head()
    shown = await chat.conversations.update(bob, conversation, ConversationChange(title="New", history="all"))
    assert (shown.title, shown.history) == ("New", "all")
    (told,) = await chat.replay(eve, before)
    assert told.type == "conversation.updated"
    assert (data_of(told)["title"], data_of(told)["history"]) == ("New", "all")
    await chat.conversations.update(bob, conversation, ConversationChange(title="New"))
    assert await chat.head() == before + 1, "nothing changed, so nothing is told"
    with pytest.raises(Forbidden):
        await chat.conversations.update(eve, conversation, ConversationChange(title="Mine", pinned=True))
    assert not (await chat.get(eve, conversation)).pinned


async def test_a_direct_conversation_has_no_title(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    with pytest.raises(Forbidden):
        await chat.conversations.update(ada, conversation, ConversationChange(title="Us"))
    with pytest.raises(Forbidden):
        await chat.conversations.update(ada, conversation, ConversationChange(history="all"))


async def test_muting_and_pinning_are_ones_own_and_told_to_nobody(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    before = await chat.head()
    until = datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    shown = await chat.conversations.update(
        ada, conversation, ConversationChange(pinned=True, mute=True, muted_until=until)
    )
    assert (shown.pinned, shown.muted_until) == (True, until)
    shown = await chat.conversations.update(ada, conversation, ConversationChange(pinned=False))
    assert (shown.pinned, shown.muted_until) == (False, until)
    later = until + timedelta(days=1)
    shown = await chat.conversations.update(
        ada, conversation, ConversationChange(mute=True, muted_until=later)
    )
    assert shown.muted_until == later
    shown = await chat.conversations.update(ada, conversation, ConversationChange(mute=True))
    assert shown.muted_until is None
    theirs = await chat.get(bob, conversation)
    assert (theirs.pinned, theirs.muted_until) == (False, None)
    assert await chat.head() == before
