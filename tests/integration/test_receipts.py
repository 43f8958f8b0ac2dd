"""Receipts: what is stored, and what is told when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise

import pytest

from domain.identity import Identity
from domain.ids import ConversationId
from services.receipts import MAX_TOLD_MEMBERS, decide
from storage.receipts import Mark, ReceiptState
from tests.support.chat import Chat, chat_on, data_of


@pytest.fixture
async def chat(database_url: str) -> AsyncIterator[Chat]:
    async with chat_on(database_url) as running:
        yield running


async def pair(chat: Chat, messages: int) -> tuple[Identity, Identity, ConversationId]:
    """ada has sent bob some messages."""
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.direct(ada, bob)
    for n in range(messages):
        await chat.send(ada, conversation, str(n))
    return ada, bob, conversation


async def receipts_of(chat: Chat, reader: Identity) -> list[tuple[str, int]]:
    return [
        (e.type.removeprefix("receipt."), data_of(e)["seq"])
        for e in await chat.replay(reader)
        if e.type.startswith("receipt.")
    ]


async def marks_of(chat: Chat, user: Identity) -> tuple[int, int]:
    async with chat.database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT read_seq, delivered_seq FROM conversation_members WHERE user_id = $1", user.user
        )
    assert row is not None
    return row["read_seq"], row["delivered_seq"]


async def pass_time(chat: Chat, seconds: float) -> None:
    """Makes everything that was told so far that much older."""
    age = timedelta(seconds=seconds)
    async with chat.database.connection() as connection:
        await connection.execute(
            "UPDATE conversation_members SET read_announced_at = read_announced_at - $1::interval, "
            "delivered_announced_at = delivered_announced_at - $1::interval",
            age,
        )
        await connection.execute("UPDATE receipts_owed SET due_at = due_at - $1::interval", age)


async def test_marks_never_go_back_and_stop_at_the_newest_message(chat: Chat) -> None:
    _, bob, conversation = await pair(chat, 5)
    assert await marks_of(chat, bob) == (0, 0)
    for kind, seq, expected in (
        ("delivered", 3, (0, 3)),
        ("read", 2, (2, 3)),
        ("delivered", 1, (2, 3)),
        ("read", 4, (4, 4)),
        ("read", 0, (4, 4)),
        ("read", 2**63 - 1, (5, 5)),
        ("delivered", 2**63 - 1, (5, 5)),
    ):
        await getattr(chat.receipts, kind)(bob, conversation, seq)
        assert await marks_of(chat, bob) == expected, (kind, seq)
    shown = await chat.get(bob, conversation)
    assert (shown.read_seq, shown.unread_count) == (5, 0)


async def test_sending_reads_what_came_before(chat: Chat) -> None:
    ada, bob, conversation = await pair(chat, 2)
    await chat.send(bob, conversation)
    assert await marks_of(chat, bob) == (3, 3)
    assert (await chat.get(bob, conversation)).unread_count == 0
    assert (await chat.get(ada, conversation)).unread_count == 1


async def test_a_receipt_is_told_once_and_only_where_it_is_news(chat: Chat) -> None:
    ada, bob, conversation = await pair(chat, 3)
    await chat.receipts.delivered(bob, conversation, 2)
    await chat.receipts.read(bob, conversation, 2)
    await chat.receipts.read(bob, conversation, 2)
    await chat.receipts.delivered(bob, conversation, 1)
    assert await receipts_of(chat, ada) == [("delivered", 2), ("read", 2)]
    event = (await chat.replay(ada))[-1]
    assert data_of(event) == {
        "conversation_id": str(conversation),
        "user_id": str(bob.user),
        "seq": 2,
    }
    assert await chat.value("SELECT count(*) FROM receipts_owed") == 0


async def test_reading_tells_of_delivery_too(chat: Chat) -> None:
    ada, bob, conversation = await pair(chat, 3)
    await chat.receipts.read(bob, conversation, 3)
    await chat.receipts.delivered(bob, conversation, 3)
    assert await receipts_of(chat, ada) == [("read", 3)]


async def test_at_most_one_of_a_kind_a_second_and_the_newest_always(chat: Chat) -> None:
    ada, bob, conversation = await pair(chat, 9)
    for seq in range(1, 10):
        await chat.receipts.read(bob, conversation, seq)
    assert await marks_of(chat, bob) == (9, 9), "stored before it is answered"
    assert await receipts_of(chat, ada) == [("read", 1), ("delivered", 2)]
    assert await chat.receipts.announce_owed() == 0, "it is not a second yet"
    await pass_time(chat, 1)
    assert await chat.receipts.announce_owed() == 1
    assert await receipts_of(chat, ada) == [("read", 1), ("delivered", 2), ("read", 9)]
    await pass_time(chat, 1)
    assert await chat.receipts.announce_owed() == 0
    assert await chat.value("SELECT count(*) FROM receipts_owed") == 0


async def test_events_of_one_kind_are_a_second_apart_by_their_own_times(chat: Chat) -> None:
    ada, bob, conversation = await pair(chat, 60)

    async def read_on() -> None:
        for seq in range(1, 61):
            await chat.receipts.read(bob, conversation, seq)

    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read_on())
        while not reading.done() or await chat.value("SELECT count(*) FROM receipts_owed"):
            await chat.receipts.announce_owed()
    told = [e for e in await chat.replay(ada) if e.type.startswith("receipt.")]
    for kind in ("receipt.read", "receipt.delivered"):
        times = [e.at for e in told if e.type == kind]
        assert all(later - earlier >= timedelta(seconds=1) for earlier, later in pairwise(times))
    assert max(data_of(e)["seq"] for e in told if e.type == "receipt.read") == 60


async def test_what_is_owed_survives_the_instance_that_owed_it(chat: Chat, database_url: str) -> None:
    ada, bob, conversation = await pair(chat, 3)
    await chat.receipts.read(bob, conversation, 1)
    await chat.receipts.read(bob, conversation, 3)
    await pass_time(chat, 1)
    async with chat_on(database_url) as one, chat_on(database_url) as other:
        told = await asyncio.gather(*(i.receipts.announce_owed() for i in (one, other, one, other)))
    assert sum(told) == 1, "several may sweep; one tells"
    assert (await receipts_of(chat, ada))[-1] == ("read", 3)


async def test_sending_settles_what_was_owed(chat: Chat) -> None:
    ada, bob, conversation = await pair(chat, 3)
    await chat.receipts.read(bob, conversation, 1)
    await chat.receipts.read(bob, conversation, 3)
    await chat.send(bob, conversation)
    before = await receipts_of(chat, ada)
    await pass_time(chat, 1)
    assert await chat.receipts.announce_owed() == 0
    assert await chat.value("SELECT count(*) FROM receipts_owed") == 0
    assert await receipts_of(chat, ada) == before


async def test_who_leaves_owes_nothing(chat: Chat) -> None:
    ada, bob = await chat.crowd("ada", "bob")
    conversation = await chat.group(ada, bob)
    for _ in range(3):
        await chat.send(ada, conversation)
    await chat.receipts.read(bob, conversation, 1)
    await chat.receipts.read(bob, conversation, 3)
    assert await chat.value("SELECT count(*) FROM receipts_owed") == 1
    await chat.members.remove(bob, conversation, "bob")
    assert await chat.value("SELECT count(*) FROM receipts_owed") == 0


async def test_large_groups_are_told_nothing_and_status_is_still_there(chat: Chat) -> None:
    people = await chat.crowd(*(f"user{n:02}" for n in range(MAX_TOLD_MEMBERS + 1)))
    sender, others = people[0], people[1:]
    conversation = await chat.group(*people)
    await chat.send(sender, conversation)
    await chat.send(sender, conversation)
    for person in others:
        await chat.receipts.read(person, conversation, 1)
    assert (await chat.messages.get(sender, conversation, 1)).status == "read"
    assert (await chat.messages.get(sender, conversation, 2)).status == "sent"
    assert await receipts_of(chat, sender) == []
    await pass_time(chat, 1)
    assert await chat.receipts.announce_owed() == 0
    await chat.members.remove(sender, conversation, "user01")
    await chat.receipts.read(others[1], conversation, 2)
    assert await receipts_of(chat, sender) == [("read", 2)], "as a small one, it tells again"


async def test_a_crowd_that_reads_costs_few_transactions(chat: Chat) -> None:
    people = await chat.crowd(*(f"user{n:02}" for n in range(30)))
    conversation = await chat.group(*people)
    await chat.send(people[0], conversation)
    before = await chat.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    await asyncio.gather(*(chat.receipts.read(person, conversation, 1) for person in people[1:]))
    after = await chat.value("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    assert after - before <= 5
    assert (await chat.messages.get(people[0], conversation, 1)).status == "read"
    assert Counter(await receipts_of(chat, people[0])) == {("read", 1): 29}


async def test_a_stranger_among_the_readers_fails_alone(chat: Chat) -> None:
    _, bob, conversation = await pair(chat, 1)
    eve = await chat.person("eve")
    results = await asyncio.gather(
        *(chat.receipts.read(who, conversation, 1) for who in (eve, bob, eve)), return_exceptions=True
    )
    assert [type(result).__name__ for result in results] == ["NotFound", "NoneType", "NotFound"]
    assert await marks_of(chat, bob) == (1, 1)


async def test_delivery_up_to_a_position_marks_every_conversation_up_to_there(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    first, second = await chat.direct(ada, bob), await chat.group(ada, bob, eve)
    positions = []
    for _ in range(20):
        await chat.send(ada, first)
        await chat.send(ada, second)
        positions.append(await chat.head())

    async def marks(who: Identity) -> dict[ConversationId, int]:
        async with chat.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT conversation_id, delivered_seq FROM conversation_members WHERE user_id = $1", who.user
            )
        return {ConversationId(row[0]): row[1] for row in rows}

    async def up_to(bob_at: int, eve_at: int) -> None:
        await chat.receipts.delivered_up_to({(bob.tenant, bob.user): bob_at, (eve.tenant, eve.user): eve_at})

    await up_to(0, positions[0])
    assert await marks(bob) == {first: 0, second: 0}
    assert await marks(eve) == {second: 1}
    await up_to(positions[12], positions[12] - 1)
    assert await marks(bob) == {first: 13, second: 13}
    assert await marks(eve) == {second: 12}
    await up_to(positions[3], positions[19] + 1000)
    assert await marks(bob) == {first: 13, second: 13}
    assert await marks(eve) == {second: 20}
    assert (await chat.messages.get(ada, first, 13)).status == "delivered"
    assert (await chat.messages.get(ada, first, 14)).status == "sent"
    head = await chat.head()
    await up_to(positions[12], positions[19])
    assert await chat.head() == head, "nothing new, nothing told"


async def test_delivery_before_joining_marks_nothing(chat: Chat) -> None:
    ada, bob, eve = await chat.crowd("ada", "bob", "eve")
    conversation = await chat.group(ada, bob)
    await chat.send(ada, conversation)
    await chat.members.remove(bob, conversation, "bob")
    await chat.send(ada, conversation)
    old = await chat.head()
    await chat.members.add(ada, conversation, ["bob", "eve"])
    await chat.send(ada, conversation)
    await chat.receipts.delivered_up_to({(bob.tenant, bob.user): old, (eve.tenant, eve.user): old})
    assert await marks_of(chat, eve) == (2, 2)
    await chat.receipts.delivered_up_to({(eve.tenant, eve.user): old + 100})
    assert await marks_of(chat, eve) == (2, 3)
    assert await marks_of(chat, bob) == (2, 2)


async def test_a_batch_takes_its_locks_by_id(chat: Chat) -> None:
    """Any other order could deadlock with a batch of sends."""
    ada, bob = await chat.crowd("ada", "bob")
    made = sorted([await chat.group(ada, bob) for _ in range(12)])
    for conversation in made:
        await chat.send(ada, conversation)
    head = await chat.head()
    lock = "SELECT count(*) FROM (SELECT 1 FROM conversations WHERE id = ANY($1) FOR UPDATE SKIP LOCKED) l"
    async with chat.database.transaction() as first:
        assert await first.fetchval(lock, made[:1]) == 1
        delivery = asyncio.create_task(chat.receipts.delivered_up_to({(bob.tenant, bob.user): head}))
        while not await chat.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass
        async with chat.database.transaction() as second:
            assert await second.fetchval(lock, made[1:]) == 11, "one behind it is locked already"
    await delivery
    assert {(await chat.messages.get(ada, c, 1)).status for c in made} == {"delivered"}


async def test_receipts_and_sends_at_once_do_not_deadlock(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A deadlock is tried again, and so would not be seen.
    monkeypatch.setattr("services.unit_of_work.RETRY", ())
    monkeypatch.setattr("services.message_commit.RETRY", ())
    ada, bob = await chat.crowd("ada", "bob")
    made = [await chat.group(ada, bob) for _ in range(4)]
    for conversation in made:
        await chat.send(ada, conversation)

    async def read(who: Identity) -> None:
        for seq in range(1, 20):
            await asyncio.gather(*(chat.receipts.read(who, c, seq) for c in reversed(made)))

    async def send(who: Identity) -> None:
        for _ in range(20):
            await asyncio.gather(*(chat.send(who, c) for c in made))

    async def deliver() -> None:
        for _ in range(20):
            head = await chat.head()
            await chat.receipts.delivered_up_to({(p.tenant, p.user): head for p in (ada, bob)})

    await asyncio.gather(read(ada), read(bob), send(ada), send(bob), deliver())
    for who in (ada, bob):
        for conversation in made:
            shown = await chat.get(who, conversation)
            assert shown.last_seq == 41
            assert shown.unread_count == shown.last_seq - shown.read_seq


def state(**changes: int | bool) -> ReceiptState:
    values: dict[str, object] = {
        "last_seq": 10,
        "member_count": 2,
        "read": 3,
        "delivered": 5,
        "read_told": 3,
        "delivered_told": 5,
        "read_lately": False,
        "delivered_lately": False,
    }
    return ReceiptState(None, None, None, **(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "read", "delivered", "expected"),
    [
        (state(), 3, 5, None),
        (state(), 0, 0, None),
        (state(), 4, 0, (4, 5, 4, 5, True, False)),
        (state(), 7, 0, (7, 7, 7, 7, True, False)),
        (state(), 0, 7, (3, 7, 3, 7, False, True)),
        (state(), 99, 0, (10, 10, 10, 10, True, False)),
        (state(read_lately=True), 7, 0, (7, 7, 3, 7, False, True)),
        (state(read_lately=True, delivered_lately=True), 7, 0, (7, 7, 3, 5, False, False)),
        (state(read=7, delivered=7), 0, 0, (7, 7, 7, 7, True, False)),
        (state(delivered=7, delivered_lately=True), 0, 0, None),
        (state(member_count=33), 7, 8, (7, 8, 7, 8, False, False)),
        (state(member_count=33, read=5), 0, 0, (5, 5, 5, 5, False, False)),
    ],
)
def test_what_is_told_follows_from_what_is_new_and_what_was_told(
    before: ReceiptState, read: int, delivered: int, expected: tuple[int | bool, ...] | None
) -> None:
    mark = Mark(None, None, None, read, delivered)  # type: ignore[arg-type]
    write = decide(before, mark)
    assert (
        write
        and (
            write.read,
            write.delivered,
            write.read_told,
            write.delivered_told,
            write.tell_read,
            write.tell_delivered,
        )
    ) == expected
