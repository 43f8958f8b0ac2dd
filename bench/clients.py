"""Setting the stage over Parley's public REST interface: accounts and conversations for the load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import orjson

from bench.checker import WrongError

_AT_ONCE = 16
_MEMBERS_AT_ONCE = 100
_TIMEOUT = aiohttp.ClientTimeout(total=30)


@dataclass(frozen=True, slots=True)
class Account:
    """A user that can sign in; the token lasts for the server's access token time."""

    username: str
    token: str = field(repr=False)


@asynccontextmanager
async def rest(port: int) -> AsyncIterator[Rest]:
    """The REST interface of the server at 127.0.0.1:`port`."""
    connector = aiohttp.TCPConnector(limit=_AT_ONCE)
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{port}/api/v1/", connector=connector, timeout=_TIMEOUT
    ) as session:
        yield Rest(session)


class Rest:
    """A few calls of the public contract. Each raises WrongError when the answer is not the one expected."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def register(self, prefix: str, count: int) -> list[Account]:
        """`count` new accounts named after `prefix`."""
        return list(await asyncio.gather(*(self._register(f"{prefix}{index:05d}") for index in range(count))))

    async def _register(self, username: str) -> Account:
        answer = await self._post(
            "auth/register",
            {"username": username, "email": f"{username}@bench.example", "password": "correct horse battery"},
        )
        return Account(username, str(answer["access_token"]))

    async def sign_in(self, username: str, password: str) -> Account:
        """An account that is there already."""
        answer = await self._post("auth/token", {"username": username, "password": password})
        return Account(username, str(answer["access_token"]))

    async def say(self, sender: Account, conversation: str, bodies: Sequence[str]) -> None:
        """Messages in no particular order."""
        path = f"conversations/{conversation}/messages"
        await asyncio.gather(*(self._post(path, {"body": body}, sender) for body in bodies))

    async def direct(self, one: Account, other: Account) -> str:
        """The id of the direct conversation of two accounts."""
        return await self._conversation(one, {"kind": "direct", "members": [other.username]})

    async def group(self, owner: Account, members: Sequence[Account]) -> str:
        """The id of a new group of the owner and all `members`."""
        conversation = await self._conversation(
            owner, {"kind": "group", "title": "bench", "members": [], "history": "joined"}
        )
        for start in range(0, len(members), _MEMBERS_AT_ONCE):
            names = [member.username for member in members[start : start + _MEMBERS_AT_ONCE]]
            await self._post(f"conversations/{conversation}/members", {"members": names}, owner)
        return conversation

    async def _conversation(self, owner: Account, wanted: dict[str, object]) -> str:
        return str((await self._post("conversations", wanted, owner))["id"])

    async def _post(self, path: str, body: object, account: Account | None = None) -> dict[str, object]:
        headers = {"Content-Type": "application/json"}
        if account is not None:
            headers["Authorization"] = f"Bearer {account.token}"
        async with self._session.post(path, data=orjson.dumps(body), headers=headers) as response:
            answer = await response.read()
            if response.status not in (200, 201):
                raise WrongError(f"POST {path} answered {response.status}: {answer[:500]!r}")
            parsed: dict[str, object] = orjson.loads(answer)
            return parsed
