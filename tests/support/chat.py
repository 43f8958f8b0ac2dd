"""Conversations on a real database, without a server: the services as the server wires them, and people to use them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aiojobs
import orjson

from domain.identity import Identity, Permission
from domain.ids import DEFAULT_TENANT, ClientId, ConversationId, SessionId, TenantId, UserId, new_id
from domain.log import StoredEvent, Window
from domain.resources import Conversation, OwnMessage
from services.conversations import Conversations, NewConversation
from services.members import Members
from services.message_commit import MessageCommitter
from services.messages import Messages, NewText
from services.reactions import Reactions
from services.receipts import Receipts
from services.unit_of_work import UnitOfWork
from storage import blocks, log, users
from storage.database import Connection, Database


class Told:
    """Keeps what was told after a commit, in the order of the log."""

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []

    def committed(self, events: Sequence[StoredEvent]) -> None:
        self.events += events


class Uncounted:
    def flushed(self, messages: int, seconds: float) -> None: ...

    def commit_queue(self, waiting: int) -> None: ...

    def flush_failed(self, *args: object) -> None: ...

    def refused_overloaded(self, *args: object) -> None: ...


@dataclass
class Chat:
    """The services, the people by name, and what the log holds."""

    database: Database
    uow: UnitOfWork
    told: Told
    conversations: Conversations
    members: Members
    messages: Messages
    reactions: Reactions
    receipts: Receipts
    people: dict[str, Identity] = field(default_factory=dict)

    async def person(self, name: str, tenant: TenantId = DEFAULT_TENANT) -> Identity:
        """Somebody with an account."""
        user = UserId(new_id())
        async with self.database.connection() as connection:
            stored = await users.insert_user(
                connection,
                tenant,
                user,
                username=name,
                email=f"{name}@example.com",
                password_hash="",
                display_name=name.title(),
                permissions=Permission.NONE,
            )
        assert isinstance(stored, users.UserRow)
        identity = Identity(tenant, user, SessionId(new_id()), Permission.NONE, 2**33)
        self.people.setdefault(name, identity)
        return identity

    async def crowd(self, *names: str) -> list[Identity]:
        return [await self.person(name) for name in names]

    async def direct(self, one: Identity, other: Identity) -> ConversationId:
        wanted = NewConversation("direct", [str(other.user)])
        answer = await self.conversations.start(one, wanted)
        return ConversationId(UUID(orjson.loads(answer.body)["id"]))

    async def group(self, owner: Identity, *others: Identity, history: Any = "joined") -> ConversationId:
        wanted = NewConversation("group", [str(o.user) for o in others], "A group", history)
        answer = await self.conversations.start(owner, wanted)
        return ConversationId(UUID(orjson.loads(answer.body)["id"]))

    async def send(
        self,
        sender: Identity,
        conversation: ConversationId,
        body: str = "hello",
        *,
        client_id: UUID | None = None,
        reply_to_seq: int | None = None,
    ) -> OwnMessage:
        known = ClientId(client_id) if client_id else None
        answer = await self.messages.send(sender, conversation, NewText(body, known, reply_to_seq))
        return OwnMessage.model_validate_json(answer.body)

    async def block(self, blocker: Identity, blocked: Identity) -> None:
        async with self.database.connection() as connection:
            await blocks.insert_block(connection, blocker.tenant, blocker.user, blocked.user)

    async def get(self, member: Identity, conversation: ConversationId) -> Conversation:
        return await self.conversations.get(member, conversation)

    async def head(self) -> int:
        async with self.database.connection() as connection:
            return (await log.read_head(connection)).position

    async def replay(self, reader: Identity, after: int = 0) -> list[StoredEvent]:
        """What the stored log gives a user, as every transport would."""
        async with self.database.connection() as connection:
            view = (await log.read_views(connection, [(reader.tenant, reader.user)]))[reader.user]
            events = await log.read_windows(connection, view.windows, after, view.head, 100_000)
        return [e for e in events if any(_within(w, e) for w in view.windows)]

    async def types(self, reader: Identity, after: int = 0) -> list[str]:
        return [event.type for event in await self.replay(reader, after)]

    async def value(self, statement: str, *args: object) -> Any:
        async with self.database.connection() as connection:
            return await connection.fetchval(statement, *args)


def _within(window: Window, event: StoredEvent) -> bool:
    inside = window.opens <= event.position <= (window.closes or event.position)
    return inside and window.topic == event.topic and event.control.shown_from(window.opens)


def data_of(event: StoredEvent) -> Any:
    return orjson.loads(event.data)


@asynccontextmanager
async def chat_on(database_url: str, pool_size: int = 6) -> AsyncIterator[Chat]:
    """Services on a database, with a committer that runs."""
    async with Database(database_url, pool_size=pool_size) as database:
        jobs = aiojobs.Scheduler()
        told = Told()
        uow = UnitOfWork(database, told, jobs)
        committer = MessageCommitter(database, told, Uncounted(), max_waiting=1000)
        await jobs.spawn(committer.run())
        try:
            yield Chat(
                database,
                uow,
                told,
                Conversations(database, uow),
                Members(database, uow),
                Messages(database, uow, committer),
                Reactions(uow),
                Receipts(database, uow, jobs),
            )
        finally:
            await jobs.close()


@asynccontextmanager
async def counted_statements(chat: Chat) -> AsyncIterator[list[str]]:
    """Every statement that goes to the database meanwhile, as the driver sends it."""
    statements: list[str] = []
    plain = chat.database.connection

    def note(record: Any) -> None:
        statements.append(record.query)

    @asynccontextmanager
    async def counted() -> AsyncIterator[Connection]:
        async with plain() as connection:
            connection.add_query_logger(note)
            try:
                yield connection
            finally:
                connection.remove_query_logger(note)

    chat.database.connection = counted  # type: ignore[method-assign]
    try:
        yield statements
    finally:
        del chat.database.connection
