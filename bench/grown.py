"""S12's stages: an empty Parley, and one whose store was filled by its own seeding command, both running at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from bench.chat import ChatSpec
from bench.clients import Account, Rest, rest
from bench.dialects import body
from bench.parley_stage import SETTINGS, database_of
from bench.plan import Plan
from bench.processes import Server, empty_directory, instance, seed
from bench.resume import ResumeSpec
from bench.scenario import say
from realtime.codec import encode_cursor
from server.commands import SEED_PASSWORD

MISSED = (10, 1000)
_SEED_SECONDS = 900.0  # on a machine that is busy with other things; alone it is one or two minutes
# Small, so that what is resumed from has left it and comes from PostgreSQL at both, also in a short run.
_SETTINGS = {**SETTINGS, "PARLEY_RING_EVENTS": "5000"}

# Everything that a user may read behind a place in the log, by the log itself.
_MISSED = """
SELECT e.position FROM membership_windows w
JOIN events e ON e.topic_id = w.conversation_id AND e.position >= w.opens AND e.position > $2
WHERE w.user_id = $1 AND w.closes IS NULL ORDER BY e.position
"""
# Of some users, the one to whom least was ever told, and the one to whom about a thousand things were.
_TOLD = """
SELECT u.username, count(*) AS told FROM (SELECT * FROM users ORDER BY id DESC LIMIT 300) u
JOIN membership_windows w ON w.user_id = u.id
JOIN events e ON e.topic_id = w.conversation_id AND e.position >= w.opens
GROUP BY u.id, u.username ORDER BY abs(count(*) - $1) LIMIT 1
"""

# With the one in which the reader is spoken to.
_CONVERSATIONS = """
SELECT count(*) FROM membership_windows w JOIN users u ON u.id = w.user_id WHERE u.username = $1 AND w.closes IS NULL
"""


@dataclass(frozen=True, slots=True)
class Store:
    """A server with users in pairs, and a reader who can miss as much as is asked for."""

    server: Server
    chat: ChatSpec
    url: str
    reader: Account
    epoch: int

    async def resume(self, reader: Account, after: int, times: int) -> ResumeSpec:
        """Coming back from a place in the log."""
        connection = await asyncpg.connect(self.url, timeout=10, command_timeout=60)
        try:
            user: UUID = await connection.fetchval(
                "SELECT id FROM users WHERE username = $1", reader.username
            )
            rows = await connection.fetch(_MISSED, user, after)
        finally:
            await connection.close(timeout=10)
        return ResumeSpec(
            self.server.port,
            self.server.pids,
            self.chat.helpers,
            reader.token,
            encode_cursor(self.epoch, after),
            tuple(encode_cursor(self.epoch, row[0]).encode() for row in rows),
            times,
        )

    async def place(self, missed: int) -> int:
        """Where the reader was before the last so many messages were said to them."""
        connection = await asyncpg.connect(self.url, timeout=10, command_timeout=60)
        try:
            return int(
                await connection.fetchval(
                    "SELECT m.position - 1 FROM messages m JOIN users u ON u.username = $1"
                    " JOIN membership_windows w ON w.user_id = u.id AND w.conversation_id = m.conversation_id"
                    " WHERE m.sender_id IN (SELECT id FROM users WHERE username = 'speaker00000')"
                    " ORDER BY m.position DESC LIMIT 1 OFFSET $2",
                    self.reader.username,
                    missed - 1,
                )
            )
        finally:
            await connection.close(timeout=10)


@dataclass(frozen=True, slots=True)
class Stores:
    """The two that are compared. `busy` is a user of made-up history to whom it told about a thousand things."""

    empty: Store
    grown: Store
    busy: Account
    rows: int
    seed_seconds: float


@contextlib.contextmanager
def stores(plan: Plan) -> Iterator[Stores]:
    """Raises StartError, WrongError."""
    sizes = (plan.grown_users, 10 * plan.grown_users, 100 * plan.grown_users)
    with empty_directory() as bare, empty_directory() as full, contextlib.ExitStack() as stack:
        began = time.monotonic()
        options = zip(("--users", "--messages", "--log-rows"), map(str, sizes), strict=True)
        seed(full, _SEED_SECONDS, *(word for option in options for word in option))
        seconds = time.monotonic() - began
        say(f"  seeded {sizes[2]:,} log rows, {sizes[1]:,} messages, {sizes[0]:,} users in {seconds:.0f} s")
        server = stack.enter_context(instance(full, 1, **_SETTINGS))
        quiet, busy = asyncio.run(_seeded_users(server, (0, MISSED[-1])))
        grown = asyncio.run(_store(server, plan, quiet))
        new = stack.enter_context(instance(bare, 1, **_SETTINGS))
        empty = asyncio.run(_store(new, plan, asyncio.run(_conversations_of(server, quiet))))
        for store in (empty, grown):
            asyncio.run(_settled(store))
        yield Stores(empty, grown, busy, sizes[2], seconds)


async def _settled(store: Store) -> None:
    """Writes out what filling the store left to be written: else that goes on behind the first measurements."""
    connection = await asyncpg.connect(store.url, timeout=10, command_timeout=300)
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close(timeout=10)


async def _seeded_users(server: Server, told: Sequence[int]) -> list[Account]:
    """Users of made-up history, signed in, to whom about so much was told."""
    url, _ = database_of(server)
    connection = await asyncpg.connect(url, timeout=10, command_timeout=60)
    try:
        names = [await connection.fetchval(_TOLD, count) for count in told]
    finally:
        await connection.close(timeout=10)
    async with rest(server.port) as api:
        return [await api.sign_in(name, SEED_PASSWORD) for name in names]


async def _conversations_of(server: Server, user: Account) -> int:
    connection = await asyncpg.connect(database_of(server)[0], timeout=10, command_timeout=60)
    try:
        return int(await connection.fetchval(_CONVERSATIONS, user.username))
    finally:
        await connection.close(timeout=10)


async def _store(server: Server, plan: Plan, reader: Account | int) -> Store:
    """With that reader, or with a new one who is in so many conversations: a replay looks into each of them."""
    url, helpers = database_of(server)
    async with rest(server.port) as api:
        users = await api.register("pair", 2 * plan.chat_pairs)
        pairs = [await api.direct(users[at], users[at + 1]) for at in range(0, len(users), 2)]
        if isinstance(reader, int):
            among, (reader,) = users[: reader - 1], await api.register("reader", 1)
            for user in among:
                await api.direct(user, reader)
        await _speak(api, reader)
    connection = await asyncpg.connect(url, timeout=10, command_timeout=60)
    try:
        epoch = await connection.fetchval("SELECT epoch FROM log_heads WHERE log = 0")
    finally:
        await connection.close(timeout=10)
    chat = ChatSpec(
        kind="parley",
        port=server.port,
        pids=server.pids,
        conversations=tuple(pairs),
        seconds=plan.chat_seconds,
        warmup_seconds=plan.warmup_seconds,
        helpers=helpers,
        tokens=tuple(user.token for user in users),
    )
    return Store(server, chat, url, reader, epoch)


async def _speak(api: Rest, reader: Account) -> None:
    """Somebody says to the reader all that they will ever miss."""
    (speaker,) = await api.register("speaker", 1)
    conversation = await api.direct(speaker, reader)
    await api.say(speaker, conversation, [body(number).decode() for number in range(MISSED[-1])])
