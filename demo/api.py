"""REST, as much of it as the show needs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
import orjson

from demo.frames import Json, checked

SECONDS = 30.0
"""How long an answer may take: making an account hashes a password, which is slow on purpose."""
PAGE = 100


@dataclass(frozen=True, slots=True)
class Account:
    """Who somebody is, and what proves it, on any instance."""

    id: str
    username: str
    token: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`replayed`: this repeats what an earlier try had done already."""

    body: Json
    replayed: bool


class Api:
    """Requests to whichever instance is named. Raises one of CUTS where trying again makes sense, else Refused."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def call(
        self,
        url: str,
        method: str,
        path: str,
        token: str | None = None,
        body: Json | None = None,
        seconds: float = SECONDS,
    ) -> Answer:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            asyncio.timeout(seconds),
            self._http.request(method, f"{url}/api/v1{path}", headers=headers, json=body) as response,
        ):
            raw = await response.read()
        value: Json = orjson.loads(raw) if raw else {}
        checked(response.status, value)
        return Answer(value, response.headers.get("Idempotent-Replayed") == "true")

    async def register(self, url: str, username: str) -> Account:
        body = {
            "username": username,
            "email": f"{username}@example.com",
            "password": f"{username} and the stars",
        }
        made = (await self.call(url, "POST", "/auth/register", body=body)).body
        return Account(made["user"]["id"], username, made["access_token"])

    async def make_group(self, url: str, owner: Account, title: str, members: list[str]) -> str:
        """The id of the conversation."""
        body = {"kind": "group", "title": title, "members": members}
        made = await self.call(url, "POST", "/conversations", owner.token, body)
        return str(made.body["id"])

    async def place(self, url: str, account: Account) -> str:
        """A cursor for now."""
        return str((await self.call(url, "GET", "/realtime/poll?wait=0", account.token)).body["cursor"])

    async def history(self, url: str, account: Account, conversation: str) -> list[Json]:
        """Every message of the conversation, oldest first."""
        messages: list[Json] = []
        while True:
            after = messages[-1]["seq"] if messages else 0
            path = f"/conversations/{conversation}/messages?after_seq={after}&limit={PAGE}"
            page = (await self.call(url, "GET", path, account.token)).body["items"]
            if not page:
                return messages
            messages += page

    async def replay(self, url: str, account: Account, cursor: str) -> list[str]:
        """The cursor of every event after `cursor` that this account may see, in the log's order."""
        cursors: list[str] = []
        while True:
            path = f"/realtime/poll?wait=0&limit=500&cursor={cursor}"
            answer = (await self.call(url, "GET", path, account.token)).body
            cursors += [event["cursor"] for event in answer["events"]]
            cursor = answer["cursor"]
            if not answer["more"]:
                return cursors
