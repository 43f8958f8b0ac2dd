"""Reactions to messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from domain.errors import InvalidFields, NotFound
from services.reactions import MAX_DIFFERENT, checked_emoji
from storage import reactions
from storage.messages import NAMED
from tests.support.chat import Chat, chat_on, counted_statements, data_of

FAMILY = "👩🏽\u200d❤️\u200d💋\u200d👨🏿"
SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"


@pytest.fixture
async def chat(database_url: str) -> AsyncIterator[Chat]:
    async with chat_on(database_url) as running:
        yield running


async def test_reactions_count_who_gave_them_in_order(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob, eve)
    await chat.send(ada, conversation)
    before = await chat.head()
    for who, emoji in ((eve, "👍"), (bob, "🎉"), (ada, "👍"), (bob, "👍"), (bob, FAMILY)):
        await chat.reactions.add(who, conversation, 1, emoji)
    shown = (await chat.messages.get(ada, conversation, 1)).reactions
    assert [(r.emoji, r.count, r.user_ids) for r in shown] == [
        ("👍", 3, [eve.user, ada.user, bob.user]),
        ("🎉", 1, [bob.user]),
        (FAMILY, 1, [bob.user]),
    ]
    told = await chat.replay(ada, before)
    assert [e.type for e in told] == ["reaction.added"] * 5
    assert data_of(told[0]) == {
        "conversation_id": str(conversation),
        "seq": 1,
        "emoji": "👍",
        "user_id": str(eve.user),
    }
    (listed,) = await chat.messages.list(bob, conversation, before=None, after=None, limit=1)
    assert listed.reactions == shown


async def test_reacting_reads_no_list_of_who_reacted(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    await chat.send(ada, conversation)
    async with counted_statements(chat) as statements:
        await chat.reactions.add(bob, conversation, 1, "👍")
        await chat.reactions.remove(bob, conversation, 1, "👍")
    assert [s for s in statements if "_agg(" in s] == []


async def test_of_a_crowd_that_reacts_all_are_counted_and_the_first_are_named(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    await chat.send(ada, conversation)
    crowd = [await chat.person(f"user{n}") for n in range(NAMED + 2)]
    async with chat.database.connection() as connection:
        for one in crowd:
            await reactions.insert(connection, ada.tenant, conversation, 1, "👍", one.user)
        await reactions.insert(connection, ada.tenant, conversation, 1, "🎉", bob.user)
        assert await reactions.count_different(connection, ada.tenant, conversation, 1) == 2
        assert await reactions.count_different(connection, ada.tenant, conversation, 2) == 0
    thumbs, party = (await chat.messages.get(ada, conversation, 1)).reactions
    assert (thumbs.count, thumbs.user_ids) == (NAMED + 2, [one.user for one in crowd[:NAMED]])
    assert (party.count, party.user_ids) == (1, [bob.user])


async def test_repeating_tells_nothing(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    await chat.send(ada, conversation)
    before = await chat.head()
    await asyncio.gather(*(chat.reactions.add(bob, conversation, 1, "👍") for _ in range(5)))
    await chat.reactions.remove(ada, conversation, 1, "👍")
    await asyncio.gather(*(chat.reactions.remove(bob, conversation, 1, "👍") for _ in range(5)))
    assert await chat.types(ada, before) == ["reaction.added", "reaction.removed"]
    assert (await chat.messages.get(ada, conversation, 1)).reactions == []


async def test_a_message_has_a_limit_of_different_emoji(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    await chat.send(ada, conversation)
    for n in range(MAX_DIFFERENT):
        await chat.reactions.add(ada, conversation, 1, f":e{n}:")
    with pytest.raises(InvalidFields) as refused:
        await chat.reactions.add(ada, conversation, 1, "👍")
    assert refused.value.code == "too_many_reactions"
    await chat.reactions.add(bob, conversation, 1, ":e0:")
    await chat.reactions.remove(ada, conversation, 1, ":e1:")
    await chat.reactions.add(ada, conversation, 1, "👍")
    assert len((await chat.messages.get(ada, conversation, 1)).reactions) == MAX_DIFFERENT


async def test_a_message_that_is_not_there_takes_none(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    for seq in (1, 2**63 - 1):
        with pytest.raises(NotFound):
            await chat.reactions.add(ada, conversation, seq, "👍")
        with pytest.raises(NotFound):
            await chat.reactions.remove(ada, conversation, seq, "not an emoji")


@pytest.mark.parametrize("emoji", ["👍", "❤️", "❤", FAMILY, SCOTLAND, "1️⃣", ":shipit:", "+1", "🫨", "ok"])
def test_emoji_and_names_are_taken_as_sent(emoji: str) -> None:
    assert checked_emoji(emoji) == emoji


@pytest.mark.parametrize(
    "emoji", ["", " ", "a b", "\x00", "\n", "\u200d", "\ufe0f", "\u00a0", "\ud83d", "👍" * 17, "x" * 65]
)
def test_what_is_no_emoji_is_refused(emoji: str) -> None:
    with pytest.raises(InvalidFields):
        checked_emoji(emoji)
