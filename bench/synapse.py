"""Matrix Synapse as a peer of S1: one process, its database on the PostgreSQL that Parley uses, nothing in its way.

Rate limits, federation, presence, URL previews and statistics are off, accounts are made with the shared secret, and it
logs warnings only: it is given every advantage that its configuration offers to one process.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import asyncpg

from bench.checker import WrongError
from bench.processes import ROOT, Server, StartError, free_port, listens, running

PYTHON = ROOT / ".venv-synapse" / "bin" / "python"
_DATABASE = "bench_synapse"
_NAME = "bench.example"
_AT_ONCE = 8
_TIMEOUT = aiohttp.ClientTimeout(total=60)
_LIMITS = (
    "rc_message",
    "rc_registration",
    "rc_admin_redaction",
    "rc_joins_per_room",
    "rc_room_creation",
    "rc_3pid_validation",
)
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Pairs:
    """User 2k and 2k + 1 share `rooms[k]`. `filters` are those of each user that select messages alone."""

    users: tuple[str, ...]
    tokens: tuple[str, ...]
    filters: tuple[str, ...]
    rooms: tuple[str, ...]


def is_installed() -> bool:
    """Whether `make bench SYNAPSE=1` has prepared its environment."""
    return PYTHON.exists()


@contextlib.contextmanager
def synapse(database_url: str) -> Iterator[tuple[Server, str]]:
    """A running Synapse and its registration secret; its database is made anew and removed. Raises StartError."""
    if not is_installed():
        raise StartError("Synapse is not installed: make bench SYNAPSE=1 does it")
    asyncio.run(_database(database_url, make=True))
    try:
        with tempfile.TemporaryDirectory(prefix="parley-bench-") as name:
            directory, port, secret = Path(name), free_port(), secrets.token_hex(16)
            files = {"homeserver.yaml": _config(directory, port, database_url, secret), "log.yaml": _LOGGING}
            for file, content in files.items():
                (directory / file).write_text(json.dumps(content))  # JSON is YAML
            command = [
                str(PYTHON),
                "-m",
                "synapse.app.homeserver",
                "-c",
                str(directory / "homeserver.yaml"),
            ]
            with running(command, os.environ, directory, lambda: listens(port)) as process:
                yield Server("Synapse", port, (process.pid,), directory), secret
    finally:
        asyncio.run(_database(database_url, make=False))


_LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"level": "WARNING", "handlers": ["console"]},
    "disable_existing_loggers": False,
}


def _config(directory: Path, port: int, database_url: str, secret: str) -> dict[str, object]:
    unlimited = {"per_second": 1e6, "burst_count": 1_000_000}
    key = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    return {
        "server_name": _NAME,
        "pid_file": str(directory / "pid"),
        "listeners": [
            {
                "port": port,
                "type": "http",
                "tls": False,
                "bind_addresses": ["127.0.0.1"],
                "resources": [{"names": ["client"], "compress": False}],
            }
        ],
        "database": {
            "name": "psycopg2",
            "args": {"dsn": database_url, "database": _DATABASE, "cp_min": 5, "cp_max": 10},
        },
        "log_config": str(directory / "log.yaml"),
        "media_store_path": str(directory / "media"),
        "signing_key": f"ed25519 a_bench {key}",
        "macaroon_secret_key": secrets.token_hex(16),
        "form_secret": secrets.token_hex(16),
        "registration_shared_secret": secret,
        "report_stats": False,
        "trusted_key_servers": [],
        "federation_domain_whitelist": [],
        "presence": {"enabled": False},
        "bcrypt_rounds": 4,
        **dict.fromkeys(_LIMITS, unlimited),
        "rc_login": dict.fromkeys(("address", "account", "failed_attempts"), unlimited),
        "rc_joins": dict.fromkeys(("local", "remote"), unlimited),
        "rc_invites": dict.fromkeys(("per_room", "per_user", "per_issuer"), unlimited),
    }


async def _database(url: str, *, make: bool) -> None:
    admin = await asyncpg.connect(url, timeout=10)
    try:
        await admin.execute(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
        if make:
            await admin.execute(
                f"CREATE DATABASE {_DATABASE} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
            )
    finally:
        await admin.close(timeout=10)


async def make_pairs(port: int, secret: str, count: int) -> Pairs:
    """`count` pairs of users, each pair in a room of its own. Raises WrongError."""
    connector = aiohttp.TCPConnector(limit=_AT_ONCE)
    base = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(base, connector=connector, timeout=_TIMEOUT) as session:
        names = [f"user{number:05d}" for number in range(2 * count)]
        accounts = await _some_at_once(names, partial(_register, session, secret))
        pairs = list(zip(accounts[::2], accounts[1::2], strict=True))
        rooms = await _some_at_once(pairs, partial(_room, session))
        filters = await _some_at_once(accounts, partial(_filter, session))
    return Pairs(
        tuple(user for user, _ in accounts),
        tuple(token for _, token in accounts),
        tuple(filters),
        tuple(rooms),
    )


async def _some_at_once(items: Sequence[Item], make: Callable[[Item], Awaitable[Made]]) -> list[Made]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(item: Item) -> Made:
        async with gate:
            return await make(item)

    return list(await asyncio.gather(*(one(item) for item in items)))


async def _post(session: aiohttp.ClientSession, path: str, body: object, token: str = "") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with session.post(path, json=body, headers=headers) as answer:
        if answer.status != 200:
            raise WrongError(f"Synapse answered POST {path} with {answer.status}: {await answer.text()}")
        found: dict[str, Any] = await answer.json()
        return found


async def _register(session: aiohttp.ClientSession, secret: str, name: str) -> tuple[str, str]:
    async with session.get("/_synapse/admin/v1/register") as answer:
        nonce = (await answer.json())["nonce"]
    said = b"\0".join(part.encode() for part in (nonce, name, "password", "notadmin"))
    mac = hmac.new(secret.encode(), said, hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": name, "password": "password", "admin": False, "mac": mac}
    made = await _post(session, "/_synapse/admin/v1/register", body)
    return str(made["user_id"]), str(made["access_token"])


async def _room(session: aiohttp.ClientSession, pair: tuple[tuple[str, str], tuple[str, str]]) -> str:
    one, other = pair
    body = {"preset": "trusted_private_chat", "is_direct": True, "invite": [other[0]]}
    room = str((await _post(session, "/_matrix/client/v3/createRoom", body, one[1]))["room_id"])
    await _post(session, f"/_matrix/client/v3/rooms/{room}/join", {}, other[1])
    return room


async def _filter(session: aiohttp.ClientSession, account: tuple[str, str]) -> str:
    user, token = account
    nothing: dict[str, object] = {"types": []}
    room = {
        "timeline": {"limit": 100, "types": ["m.room.message"]},
        "state": nothing,
        "ephemeral": nothing,
        "account_data": nothing,
    }
    body = {"presence": nothing, "account_data": nothing, "room": room}
    return str((await _post(session, f"/_matrix/client/v3/user/{user}/filter", body, token))["filter_id"])
