"""Sending, reading, editing and deleting messages."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any
from uuid import uuid4

import orjson
import pytest

from domain.errors import Blocked, ClientIdReused, Forbidden, InvalidFields, NotFound
from domain.ids import ClientId, new_id
from services.idempotency import KeptAnswer
from services.messages import MessageGone, NewText
from tests.support.chat import Chat, chat_on, data_of

SECRET = "a text that must go"


@pytest.fixture
async def chat(database_url: str) -> AsyncIterator[Chat]:
    async with chat_on(database_url) as running:
        yield running


async def test_a_message_is_shown_the_same_everywhere(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    body = '  kept as given \n\t🙂 \u200d é e\u0301 \\ " </script>'
    sent = await chat.send(ada, conversation, body)
    assert (sent.seq, sent.body, sent.status, sent.sender_id) == (1, body, "sent", ada.user)
    assert await chat.messages.get(ada, conversation, 1) == sent
    theirs = await chat.messages.get(bob, conversation, 1)
    assert theirs == sent.model_copy(update={"status": None})
    (created,) = [e for e in await chat.replay(bob) if e.type == "message.created"]
    assert data_of(created) == orjson.loads(sent.model_dump_json(exclude={"status"}))


async def test_seqs_have_no_holes_whoever_sends(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    sent = await asyncio.gather(*(chat.send(who, conversation, "x") for who in [ada, bob] * 20))
    assert sorted(m.seq for m in sent) == list(range(1, 41))


async def test_a_repeated_client_id_answers_with_the_first_message_as_it_is_now(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.group(bob, ada)
    text = NewText("once", ClientId(uuid4()))
    first = await chat.messages.send(ada, conversation, text)
    again = await chat.messages.send(ada, conversation, text)
    assert (first.status, first.replayed, again.status, again.replayed) == (201, False, 200, True)
    assert orjson.loads(first.body) == orjson.loads(again.body)
    await chat.messages.edit(ada, conversation, 1, "twice")
    await chat.receipts.read(bob, conversation, 1)
    await chat.members.remove(ada, conversation, "ada")
    gone = await chat.messages.send(ada, conversation, text)
    assert (gone.status, gone.replayed) == (200, True)
    assert (orjson.loads(gone.body)["body"], orjson.loads(gone.body)["status"]) == ("twice", "read")
    assert await chat.value("SELECT count(*) FROM messages") == 1


async def test_a_client_id_used_for_something_else_is_refused(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation, other = await chat.direct(ada, bob), await chat.group(ada, bob)
    client_id = ClientId(uuid4())
    await chat.send(ada, conversation, "first")
    await chat.send(ada, other, "first")
    await chat.send(ada, conversation, "once", client_id=client_id, reply_to_seq=1)
    await chat.messages.edit(ada, conversation, 2, "edited")
    for where, text in (
        (conversation, NewText("edited", client_id, 1)),
        (conversation, NewText("once", client_id)),
        (other, NewText("once", client_id, 1)),
        (conversation, NewText("once", client_id, 1, [uuid4()])),
    ):
        for keep in (None, KeptAnswer(ada.tenant, ada.user, str(uuid4()), b"")):
            with pytest.raises(ClientIdReused):
                await chat.messages.send(ada, where, text, keep)
    theirs = await chat.messages.send(bob, conversation, NewText("mine", client_id))
    assert theirs.status == 201, "a client_id is its author's own"


async def test_a_kept_send_is_stored_with_its_answer(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    keep = KeptAnswer(ada.tenant, ada.user, "key", b"print")
    answers = await asyncio.gather(
        *(chat.messages.send(ada, conversation, NewText("hi"), keep) for _ in range(4))
    )
    assert {a.status for a in answers} == {201}
    assert sorted(a.replayed for a in answers) == [False, True, True, True]
    assert len({a.body for a in answers}) == 1
    message = orjson.loads(answers[0].body)
    assert (message["seq"], message["status"]) == (1, "sent")
    assert await chat.types(bob) == ["conversation.created", "message.created"]
    assert [e.type for e in chat.told.events] == ["conversation.created", "message.created"]
    stranger = await chat.person("eve")
    keep = KeptAnswer(stranger.tenant, stranger.user, "key", b"print")
    with pytest.raises(NotFound):
        await chat.messages.send(stranger, conversation, NewText("hi"), keep)
    assert await chat.value("SELECT count(*) FROM idempotency_keys") == 1


async def test_no_kept_answer_gives_a_deleted_text_back(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob, history="all")
    sending = KeptAnswer(ada.tenant, ada.user, "sending", b"print")
    adding = KeptAnswer(ada.tenant, ada.user, "adding", b"print")

    async def again() -> tuple[dict[str, Any], dict[str, Any]]:
        sent = await chat.messages.send(ada, conversation, NewText("secret"), sending)
        added = await chat.members.add(ada, conversation, ["eve"], adding)
        assert (sent.status, added.status) == (201, 200)
        return orjson.loads(sent.body), orjson.loads(added.body)

    sent, added = await again()
    assert (sent, added) == await again()
    assert sent["body"] == added["last_message"]["body"] == "secret"
    await chat.messages.delete(ada, conversation, 1)
    gone = {"body": None, "deleted_at": (await again())[0]["deleted_at"]}
    assert gone["deleted_at"] is not None
    assert await again() == (sent | gone, added | {"last_message": added["last_message"] | gone})
    shown = orjson.loads((await chat.messages.get(eve, conversation, 1)).model_dump_json())
    assert shown["deleted_at"] == gone["deleted_at"]


async def test_what_cannot_be_sent_says_why(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob)
    await chat.send(ada, conversation)
    await chat.members.add(ada, conversation, ["eve"])
    for who, reply in ((ada, 2), (eve, 1)):
        with pytest.raises(InvalidFields) as refused:
            await chat.send(who, conversation, "re", reply_to_seq=reply)
        assert [f.pointer for f in refused.value.fields] == ["/reply_to_seq"]
    with pytest.raises(InvalidFields) as refused:
        await chat.messages.send(ada, conversation, NewText("see", attachments=[uuid4()]))
    assert (refused.value.code, refused.value.fields[0].pointer) == (
        "media_not_found",
        "/attachments/0/media_id",
    )
    stranger = await chat.person("zoe")
    with pytest.raises(NotFound):
        await chat.messages.send(stranger, conversation, NewText("see", attachments=[uuid4()]))
    assert (await chat.send(ada, conversation, "re", reply_to_seq=1)).reply_to_seq == 1


async def test_a_block_closes_a_direct_conversation_to_what_is_new(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    direct, group = await chat.direct(ada, bob), await chat.group(ada, bob)
    for conversation in (direct, group):
        await chat.send(ada, conversation, "one")
    await chat.block(bob, ada)
    for who in (ada, bob):
        with pytest.raises(Blocked):
            await chat.send(who, direct, "two")
        with pytest.raises(Blocked):
            await chat.reactions.add(who, direct, 1, "👎")
    with pytest.raises(Blocked):
        await chat.messages.edit(ada, direct, 1, "two")
    await chat.messages.delete(ada, direct, 1)
    await chat.receipts.read(bob, direct, 1)
    await chat.send(ada, group, "two")
    await chat.messages.edit(ada, group, 1, "one!")
    await chat.reactions.add(bob, group, 1, "👍")
    assert [m.body for m in await chat.messages.list(bob, group, before=None, after=None, limit=9)] == [
        "two",
        "one!",
    ]


async def test_lists_go_both_ways_from_any_place(chat: Chat) -> None:
    ada, bob, _ = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob)
    for n in range(1, 8):
        await chat.send(ada, conversation, str(n))

    async def seqs(**bounds: int | None) -> list[int]:
        asked = {"before": None, "after": None, "limit": 3} | bounds
        return [m.seq for m in await chat.messages.list(bob, conversation, **asked)]  # type: ignore[arg-type]

    assert await seqs() == [7, 6, 5]
    assert await seqs(before=5) == [4, 3, 2]
    assert await seqs(before=2) == [1]
    assert await seqs(before=1) == []
    assert await seqs(before=0) == []
    assert await seqs(before=2**63 - 1) == [7, 6, 5]
    assert await seqs(after=0) == [1, 2, 3]
    assert await seqs(after=5) == [6, 7]
    assert await seqs(after=7) == []
    await chat.members.add(ada, conversation, ["eve"])
    await chat.send(ada, conversation, "8")
    eve = chat.people["eve"]
    for bounds in ({"before": None, "after": 0}, {"before": 9, "after": None}):
        listed = await chat.messages.list(eve, conversation, limit=100, **bounds)
        assert [m.seq for m in listed] == [8]
    assert await chat.messages.list(eve, conversation, before=8, after=None, limit=5) == []


async def test_status_is_the_lowest_over_all_other_members(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob, eve)
    await chat.send(ada, conversation, "one")

    async def status() -> str | None:
        (listed,) = await chat.messages.list(ada, conversation, before=None, after=None, limit=5)
        got = await chat.messages.get(ada, conversation, 1)
        shown = await chat.get(ada, conversation)
        assert shown.last_message == got == listed
        return got.status

    assert await status() == "sent"
    await chat.receipts.read(bob, conversation, 1)
    assert await status() == "sent"
    await chat.receipts.delivered(eve, conversation, 1)
    assert await status() == "delivered"
    await chat.receipts.read(eve, conversation, 1)
    assert await status() == "read"
    await chat.person("zoe")
    await chat.members.add(ada, conversation, ["zoe"])
    assert await status() == "read", "who joins later has nothing of it to read"
    assert (await chat.messages.get(bob, conversation, 1)).status is None


async def test_who_has_left_holds_no_status_back(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob, eve)
    await chat.send(ada, conversation, "one")
    await chat.receipts.read(bob, conversation, 1)
    assert (await chat.messages.get(ada, conversation, 1)).status == "sent"
    await chat.members.remove(eve, conversation, "eve")
    assert (await chat.messages.get(ada, conversation, 1)).status == "read"


async def test_an_edit_keeps_the_former_texts(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    await chat.send(ada, conversation, "one")
    await chat.reactions.add(bob, conversation, 1, "👍")
    assert await chat.messages.history(bob, conversation, 1) == []
    before = await chat.head()
    second = await chat.messages.edit(ada, conversation, 1, "two")
    third = await chat.messages.edit(ada, conversation, 1, "three")
    assert (second.body, third.body, third.status) == ("two", "three", "sent")
    assert second.edited_at is not None
    assert third.edited_at is not None
    assert third.created_at < second.edited_at < third.edited_at
    former = await chat.messages.history(bob, conversation, 1)
    assert [(f.body, f.edited_at) for f in former] == [("one", second.edited_at), ("two", third.edited_at)]
    told = await chat.replay(bob, before)
    assert [e.type for e in told] == ["message.updated"] * 2
    assert data_of(told[1]) == orjson.loads(third.model_dump_json(exclude={"status"}))
    assert data_of(told[1])["reactions"] == [{"emoji": "👍", "count": 1, "user_ids": [str(bob.user)]}]
    assert await chat.messages.get(bob, conversation, 1) == third.model_copy(update={"status": None})


async def test_the_same_text_again_is_no_edit(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    sent = await chat.send(ada, conversation, "one")
    before = await chat.head()
    assert await chat.messages.edit(ada, conversation, 1, "one") == sent
    assert await chat.head() == before
    assert await chat.messages.history(ada, conversation, 1) == []


async def test_only_its_sender_edits_a_message(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.group(ada, bob)
    await chat.send(bob, conversation, "mine")
    with pytest.raises(Forbidden):
        await chat.messages.edit(ada, conversation, 1, "yours")
    with pytest.raises(NotFound):
        await chat.messages.edit(ada, conversation, 2, "what")


async def test_who_may_delete_a_message(chat: Chat) -> None:
    ada, bob, eve, eli = await chat.crowd("ada", "bob", "eve", "eli")
    conversation = await chat.group(ada, bob, eve, eli)
    await chat.members.update_role(ada, conversation, "bob", "admin")
    for seq, (who, allowed) in enumerate([(eve, True), (ada, True), (bob, True), (eli, False)], start=1):
        await chat.send(eve, conversation, "hers")
        with nullcontext() if allowed else pytest.raises(Forbidden):
            await chat.messages.delete(who, conversation, seq)
        assert ((await chat.messages.get(eli, conversation, seq)).body is None) is allowed


async def test_nobody_deletes_the_other_ones_message_in_a_direct_conversation(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    await chat.send(ada, conversation, "hers")
    with pytest.raises(Forbidden):
        await chat.messages.delete(bob, conversation, 1)


async def test_a_deleted_text_is_nowhere_any_more(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    await chat.send(ada, conversation, SECRET)
    await chat.reactions.add(bob, conversation, 1, "👍")
    await chat.messages.edit(ada, conversation, 1, SECRET + "!")
    await chat.messages.edit(ada, conversation, 1, SECRET + "?")
    await chat.messages.delete(ada, conversation, 1)
    stone = await chat.messages.get(bob, conversation, 1)
    assert (stone.body, stone.reactions, stone.attachments, stone.seq) == (None, [], [], 1)
    assert stone.deleted_at is not None
    assert await chat.messages.history(ada, conversation, 1) == []
    told = await chat.replay(bob)
    assert [e.type for e in told] == [
        "conversation.created",
        "message.created",
        "reaction.added",
        "message.updated",
        "message.updated",
        "message.deleted",
    ]
    for event in told:
        assert SECRET.encode() not in event.data
        if event.type in ("message.created", "message.updated"):
            data = data_of(event)
            assert (data["body"], data["reactions"], data["seq"]) == (None, [], 1)
    deleted = told[-1]
    assert data_of(deleted)["seq"] == 1
    assert deleted.control.redacts == (told[1].position, told[3].position, told[4].position)
    for table in ("messages", "message_edits", "events"):
        found = await chat.value(f"SELECT count(*) FROM {table} t WHERE t::text LIKE $1", f"%{SECRET}%")
        assert found == 0, table


async def test_deleting_again_changes_nothing_and_a_tombstone_takes_nothing(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    client_id = uuid4()
    await chat.send(ada, conversation, "gone", client_id=client_id)
    await chat.messages.delete(ada, conversation, 1)
    before = await chat.head()
    await chat.messages.delete(ada, conversation, 1)
    with pytest.raises(MessageGone):
        await chat.messages.edit(ada, conversation, 1, "back")
    with pytest.raises(MessageGone):
        await chat.reactions.add(bob, conversation, 1, "👍")
    await chat.reactions.remove(bob, conversation, 1, "👍")
    assert await chat.head() == before
    again = await chat.messages.send(ada, conversation, NewText("gone", ClientId(client_id)))
    assert (again.status, orjson.loads(again.body)["body"]) == (200, None)


async def test_what_is_told_of_old_messages_is_not_for_who_joined_later(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob)
    await chat.send(ada, conversation, "old")
    await chat.members.add(ada, conversation, ["eve"])
    await chat.send(ada, conversation, "new")
    before = await chat.head()
    await chat.messages.edit(ada, conversation, 1, SECRET)
    await chat.reactions.add(bob, conversation, 1, "👍")
    await chat.reactions.remove(bob, conversation, 1, "👍")
    await chat.messages.edit(ada, conversation, 2, "newer")
    told = ["message.updated", "reaction.added", "reaction.removed", "message.updated"]
    assert await chat.types(bob, before) == told
    (seen,) = await chat.replay(eve, before)
    assert data_of(seen)["body"] == "newer"
    for call in (chat.messages.history(eve, conversation, 1), chat.reactions.add(eve, conversation, 1, "👍")):
        with pytest.raises(NotFound):
            await call


async def test_with_history_all_old_messages_are_for_everyone(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob, history="all")
    await chat.send(ada, conversation, "old")
    await chat.members.add(ada, conversation, ["eve"])
    before = await chat.head()
    await chat.messages.edit(ada, conversation, 1, "older")
    assert await chat.types(eve, before) == ["message.updated"]


async def test_an_edit_and_a_deletion_at_once_leave_no_text(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    for n in range(1, 11):
        await chat.send(ada, conversation, SECRET)
        await asyncio.gather(
            chat.messages.edit(ada, conversation, n, f"{SECRET} {n}"),
            chat.messages.delete(ada, conversation, n),
            chat.reactions.add(bob, conversation, n, "👍"),
            return_exceptions=True,
        )
        assert (await chat.messages.get(bob, conversation, n)).reactions == []
    for table in ("messages", "message_edits", "events"):
        found = await chat.value(f"SELECT count(*) FROM {table} t WHERE t::text LIKE $1", f"%{SECRET}%")
        assert found == 0, table
    assert await chat.value("SELECT count(*) FROM reactions") == 0


async def test_an_unknown_conversation_takes_no_message(chat: Chat) -> None:
    ada = await chat.person("ada")
    with pytest.raises(NotFound):
        await chat.send(ada, ClientId(new_id()))  # type: ignore[arg-type]


async def test_a_refusal_is_freed_at_once_and_not_left_to_the_garbage_collector(chat: Chat) -> None:
    """With its traceback it holds a whole request, and the collector looks at what is older only now and then."""
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.direct(ada, bob)
    await chat.send(ada, conversation)
    refusals = []
    gc.disable()
    try:
        for refused in (chat.messages.edit(eve, conversation, 1, "mine"), chat.send(eve, conversation)):
            try:
                await refused
            except NotFound as error:
                refusals.append(weakref.ref(error))
        await chat.head()
        assert [refusal() for refusal in refusals] == [None, None]
    finally:
        gc.enable()
