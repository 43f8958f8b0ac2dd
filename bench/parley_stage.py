"""Parley servers ready for a load: started, with the accounts and conversations a scenario needs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.chat import ChatSpec
from bench.clients import rest
from bench.fanout import Address
from bench.plan import Plan
from bench.processes import Server, parley
from bench.seed import seed_crowd
from server.embedded.postgres import EmbeddedPostgres

_CONVERSATIONS_EACH = 20
SETTINGS = {"PARLEY_ACCESS_TOKEN_SECONDS": "7200"}  # longer than any run


@dataclass(frozen=True, slots=True)
class Stage:
    """A server with users in pairs, and with one group of a publisher and its receivers."""

    chat: ChatSpec
    crowd: Address
    database_url: str
    server: Server

    @property
    def log(self) -> Path:
        """What the server writes."""
        return self.server.log


def database_of(server: Server) -> tuple[str, tuple[int, ...]]:
    """The URL of the server's embedded PostgreSQL, which runs already, and its first process."""
    url = EmbeddedPostgres(server.data_dir).ensure_running()
    postmaster = int((server.data_dir / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
    return url, (postmaster,)


@contextlib.contextmanager
def chat_server(plan: Plan) -> Iterator[Stage]:
    """Parley with everything S1 to S4 need, made over its REST interface. Raises StartError, WrongError."""
    with parley(**SETTINGS) as server:
        tokens, conversations, publisher, receivers, group = asyncio.run(_people(server.port, plan))
        url, helpers = database_of(server)
        chat = ChatSpec(
            kind="parley",
            port=server.port,
            pids=server.pids,
            conversations=conversations,
            seconds=plan.chat_seconds,
            warmup_seconds=plan.warmup_seconds,
            helpers=helpers,
            tokens=tokens,
        )
        crowd = Address("parley", server.port, server.pids, helpers, publisher, receivers, group)
        yield Stage(chat, crowd, url, server)


async def _people(
    port: int, plan: Plan
) -> tuple[tuple[str, ...], tuple[str, ...], str, tuple[str, ...], str]:
    async with rest(port) as api:
        users = await api.register("pair", 2 * plan.chat_pairs)
        pairs = [await api.direct(users[at], users[at + 1]) for at in range(0, len(users), 2)]
        publisher, *receivers = await api.register("crowd", plan.receivers + 1)
        group = await api.group(publisher, receivers)
        return (
            tuple(user.token for user in users),
            tuple(pairs),
            publisher.token,
            tuple(user.token for user in receivers),
            group,
        )


@contextlib.contextmanager
def crowded_server(plan: Plan) -> Iterator[Address]:
    """Parley with as many users as connections are held, each in 20 conversations, one of them common to all.

    They are written into its database directly. Raises StartError.
    """
    with parley(**SETTINGS) as server:
        url, helpers = database_of(server)
        crowd = asyncio.run(seed_crowd(url, server.data_dir, plan.held_connections, _CONVERSATIONS_EACH))
        publisher, *receivers = crowd.tokens
        yield Address(
            "parley",
            server.port,
            server.pids,
            helpers,
            publisher,
            tuple(receivers),
            crowd.common_conversation,
        )
