"""Group commit on the real PostgreSQL: idempotent, ordered, dense, and without deadlocks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from domain.errors import NotFound, Overloaded, ParleyError
from domain.ids import DEFAULT_TENANT, ClientId, ConversationId, UserId, new_id
from domain.log import StoredEvent
from services.message_commit import Known, MessageCommitter, SendDraft, Stored
from storage.database import Connection, Database

TENANT = DEFAULT_TENANT


class NoMetrics:
    def flushed(self, batch: int, seconds: float) -> None: ...

    def flush_failed(self) -> None: ...

    def refused_overloaded(self) -> None: ...


@dataclass
class Told:
    """Takes the place of the log's publisher."""

    events: list[StoredEvent] = field(default_factory=list)

    def committed(self, events: Sequence[StoredEvent]) -> None:
        self.events += events


@asynccontextmanager
async def committer(
    database: Database, told: Told, max_waiting: int = 10_000
) -> AsyncIterator[MessageCommitter]:
    made = MessageCommitter(database, told, NoMetrics(), max_waiting=max_waiting)
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        await made.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as made:
        yield made


async def insert_user(connection: Connection) -> UserId:
    user = UserId(new_id())
    await connection.execute(
        "INSERT INTO users (tenant_id, id, username, email, password_hash, display_name)"
        " VALUES ($1, $2, $3, $4, 'x', 'x')",
        TENANT,
        user,
        "u" + str(user)[-12:],
        f"{user}@example.com",
    )
    return user


async def insert_group(connection: Connection, *users: UserId) -> ConversationId:
    conversation = ConversationId(new_id())
    await connection.execute(
        "INSERT INTO conversations (tenant_id, id, kind, created_by) VALUES ($1, $2, 'group', $3)",
        TENANT,
        conversation,
        users[0],
    )
    await connection.executemany(
        "INSERT INTO conversation_members (tenant_id, conversation_id, user_id) VALUES ($1, $2, $3)",
        [(TENANT, conversation, user) for user in users],
    )
    return conversation


def draft(
    conversation: ConversationId, sender: UserId, body: str = "hello", client_id: ClientId | None = None
) -> SendDraft:
    return SendDraft(TENANT, conversation, sender, client_id or ClientId(new_id()), body, None)


async def test_what_is_acknowledged_is_stored_with_its_event(database: Database) -> None:
    told = Told()
    async with database.connection() as connection:
        ann = await insert_user(connection)
        group = await insert_group(connection, ann)
        async with committer(database, told) as sending:
            results = await asyncio.gather(*(sending.send(draft(group, ann, str(n))) for n in range(50)))
        bodies = await connection.fetch("SELECT body, position FROM messages ORDER BY seq")
        events = await connection.fetch("SELECT position, data::jsonb->>'body' FROM events ORDER BY position")
        head = await connection.fetchval("SELECT position FROM log_heads")
    stored = [result for result in results if isinstance(result, Stored)]
    assert [result.seq for result in stored] == list(range(1, 51))
    assert [row[0] for row in bodies] == [str(n) for n in range(50)]
    assert [tuple(row) for row in events] == [(row[1], row[0]) for row in bodies]
    assert [event.position for event in told.events] == list(range(1, 51))
    assert head == 50


async def test_one_id_twice_in_a_batch_is_one_message_with_two_answers(database: Database) -> None:
    async with database.connection() as connection:
        ann = await insert_user(connection)
        group = await insert_group(connection, ann)
        once = draft(group, ann)
        async with committer(database, Told()) as sending:
            first, second = await asyncio.gather(sending.send(once), sending.send(once))
        count = await connection.fetchval("SELECT count(*) FROM messages")
    assert isinstance(first, Stored)
    assert isinstance(second, Known)
    assert count == 1


async def test_a_message_that_postgresql_refuses_fails_alone(database: Database) -> None:
    async with database.connection() as connection:
        ann = await insert_user(connection)
        group = await insert_group(connection, ann)
        async with committer(database, Told()) as sending:
            results = await asyncio.gather(
                *(sending.send(draft(group, ann, "\0" if n == 7 else str(n))) for n in range(20)),
                return_exceptions=True,
            )
        bodies = [row[0] for row in await connection.fetch("SELECT body FROM messages ORDER BY seq")]
        seqs = [row[0] for row in await connection.fetch("SELECT seq FROM messages ORDER BY seq")]
    assert [n for n, result in enumerate(results) if isinstance(result, ParleyError)] == [7]
    assert bodies == [str(n) for n in range(20) if n != 7]
    assert seqs == list(range(1, 20))


async def test_who_is_no_member_is_refused_and_takes_no_position(database: Database) -> None:
    async with database.connection() as connection:
        ann, eve = await insert_user(connection), await insert_user(connection)
        group = await insert_group(connection, ann)
        async with committer(database, Told()) as sending:
            results = await asyncio.gather(
                sending.send(draft(group, eve)), sending.send(draft(group, ann)), return_exceptions=True
            )
        head = await connection.fetchval("SELECT position FROM log_heads")
    assert isinstance(results[0], NotFound)
    assert isinstance(results[1], Stored)
    assert results[1].seq == 1
    assert head == 1


async def test_an_id_is_known_also_after_its_author_has_left(database: Database) -> None:
    async with database.connection() as connection:
        ann = await insert_user(connection)
        group = await insert_group(connection, ann)
        once = draft(group, ann)
        async with committer(database, Told()) as sending:
            await sending.send(once)
            await connection.execute("UPDATE conversation_members SET left_at = now()")
            assert isinstance(await sending.send(once), Known)
            with pytest.raises(NotFound):
                await sending.send(draft(group, ann))


async def test_past_its_ceiling_the_queue_refuses_at_once(database: Database) -> None:
    async with database.connection() as connection:
        ann = await insert_user(connection)
        group = await insert_group(connection, ann)
    waiting = MessageCommitter(database, Told(), NoMetrics(), max_waiting=2)
    answers: list[object] = []
    waiting.submit(draft(group, ann), answers.append)
    waiting.submit(draft(group, ann), answers.append)
    with pytest.raises(Overloaded) as refused:
        waiting.submit(draft(group, ann), answers.append)
    assert refused.value.retry_after is not None
    assert answers == []


async def test_four_writers_on_the_same_conversations_never_deadlock_and_leave_no_hole(
    database_url: str, database: Database
) -> None:
    rng = random.Random(7)
    async with database.connection() as connection:
        users = [await insert_user(connection) for _ in range(4)]
        groups = [await insert_group(connection, *users) for _ in range(12)]
    told = Told()
    async with AsyncExitStack() as stack:
        writers = []
        for _ in range(4):
            own = await stack.enter_async_context(Database(database_url, pool_size=1))
            writers.append(await stack.enter_async_context(committer(own, told)))

        async def write(writer: MessageCommitter, user: UserId) -> list[ClientId]:
            drafts = [draft(rng.choice(groups), user) for _ in range(150)]
            results = await asyncio.gather(*(writer.send(one) for one in drafts))
            assert all(isinstance(result, Stored) for result in results)
            return [one.client_id for one in drafts if one.client_id is not None]

        sent = await asyncio.gather(*(write(w, u) for w, u in zip(writers, users, strict=True)))
    async with database.connection() as connection:
        positions = [
            row[0] for row in await connection.fetch("SELECT position FROM events ORDER BY position")
        ]
        seqs = await connection.fetch(
            "SELECT conversation_id, max(seq) AS newest, count(*) AS messages FROM messages GROUP BY 1"
        )
        stored = {row[0] for row in await connection.fetch("SELECT client_id FROM messages")}
    assert positions == list(range(1, 601))
    assert all(row["newest"] == row["messages"] for row in seqs)
    assert stored == {client_id for ids in sent for client_id in ids}


async def test_one_id_sent_to_two_conversations_through_two_instances_is_one_message(
    database_url: str, database: Database
) -> None:
    async with database.connection() as connection:
        ann = await insert_user(connection)
        here, there = await insert_group(connection, ann), await insert_group(connection, ann)
        async with (
            Database(database_url) as other,
            committer(database, Told()) as a,
            committer(other, Told()) as b,
        ):
            for _ in range(20):
                client_id = ClientId(new_id())
                results = await asyncio.gather(
                    a.send(draft(here, ann, client_id=client_id)),
                    b.send(draft(there, ann, client_id=client_id)),
                )
                assert sorted(type(result).__name__ for result in results) == ["Known", "Stored"]
        head = await connection.fetchval("SELECT position FROM log_heads")
        events = await connection.fetchval("SELECT count(*) FROM events")
    assert head == events == 20


async def test_what_goes_wrong_after_the_commit_stores_nothing_again(database: Database) -> None:
    class Broken(Told):
        def committed(self, events: Sequence[StoredEvent]) -> None:
            super().committed(events)
            raise RuntimeError("the readers cannot be told")

    async with database.connection() as connection:
        ann = await insert_user(connection)
        group = await insert_group(connection, ann)
        told = Broken()
        async with committer(database, told) as sending:
            results = await asyncio.gather(*(sending.send(draft(group, ann)) for _ in range(3)))
        count = await connection.fetchval("SELECT count(*) FROM messages")
    assert all(isinstance(result, Stored) for result in results)
    assert count == len(told.events) == 3
