"""One user of the soak: an account, its sign-ins, its calls by REST, and what it was told, in order."""

from __future__ import annotations

import random
import time
import uuid
from collections import deque
from dataclasses import dataclass, field

import aiohttp
import orjson

from soak.tally import Tally

PASSWORD = "correct horse battery"
_OLD_SECONDS = 40.0
_RENEW_SECONDS = 20.0
_MINE = 20  # own messages that may still be edited, deleted or reacted to


@dataclass(slots=True)
class Chat:
    """A conversation as one user knows it."""

    id: str
    owned: bool
    others: list[str]
    last_seq: int = 0
    away: str | None = None
    """Whom its owner has taken out, and takes in again next."""


@dataclass(slots=True)
class Person:
    """`cursor` is where the last connection got to, `old` where one was some tens of seconds ago."""

    name: str
    ports: tuple[int, ...]
    rng: random.Random
    session: aiohttp.ClientSession
    tally: Tally
    id: str = ""
    access: str = field(default="", repr=False)
    access_at: float = 0.0
    refresh: str = field(default="", repr=False)
    cursor: str | None = None
    old: str | None = None
    old_at: float = 0.0
    chats: list[Chat] = field(default_factory=list)
    mine: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=_MINE))
    seen: dict[str, int] = field(default_factory=dict)

    def url(self, path: str) -> str:
        """On any instance."""
        return f"http://127.0.0.1:{self.rng.choice(self.ports)}/api/v1{path}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access}"}

    async def call(
        self, what: str, method: str, path: str, body: object = None, **headers: str
    ) -> dict[str, object] | None:
        """A REST call, counted as `what`; its answer where it was done and said anything."""
        data = None if body is None else orjson.dumps(body)
        sent = {**self.headers, "Content-Type": "application/json", **headers}
        try:
            async with self.session.request(method, self.url(path), data=data, headers=sent) as answer:
                text = await answer.read()
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            self.tally.refused[f"{what} cut"] += 1  # a kept connection that the server ended as it was taken
            return None
        except (TimeoutError, aiohttp.ClientError) as error:
            self.tally.went_wrong(what, repr(error))
            return None
        self.tally.answered(what, answer.status, text.decode(errors="replace"))
        if answer.status >= 300 or not text:
            return None
        found: dict[str, object] = orjson.loads(text)
        return found

    # Signing in

    async def register(self) -> None:
        self._signed_in(
            await self.call(
                "register",
                "POST",
                "/auth/register",
                {"username": self.name, "email": f"{self.name}@soak.example", "password": PASSWORD},
            )
        )

    async def sign_in(self) -> None:
        self._signed_in(
            await self.call("sign in", "POST", "/auth/token", {"username": self.name, "password": PASSWORD})
        )

    async def renew(self) -> None:
        """Refreshes the tokens; signs in where that is not possible any more."""
        answer = await self.call("refresh", "POST", "/auth/token/refresh", {"refresh_token": self.refresh})
        if answer is None:
            await self.sign_in()
        else:
            self._signed_in(answer)

    async def renew_in_time(self) -> None:
        """Refreshes the tokens where the next connection might outlive them."""
        if time.monotonic() > self.access_at + _RENEW_SECONDS:
            await self.renew()

    async def sign_out(self) -> None:
        await self.call("sign out", "POST", "/auth/logout")

    def _signed_in(self, answer: dict[str, object] | None) -> None:
        if answer is None:
            return
        self.access_at = time.monotonic()
        self.access, self.refresh = str(answer["access_token"]), str(answer["refresh_token"])
        user = answer.get("user")
        if isinstance(user, dict):
            self.id = str(user["id"])

    # What it is told

    def told(self, payload: bytes | str) -> str:
        """Takes one envelope or control frame; its type. Events of a conversation must come in order, and once."""
        frame = orjson.loads(payload)
        kind = str(frame.get("type"))
        if frame.get("cursor"):
            self.cursor = frame["cursor"]
            if (now := time.monotonic()) > self.old_at + _OLD_SECONDS:
                self.old, self.old_at = self.cursor, now
        self.tally.done["received " + ("events" if "topic" in frame else kind)] += 1
        if kind == "message.created":
            conversation, seq = frame["data"]["conversation_id"], frame["data"]["seq"]
            if seq <= self.seen.get(conversation, 0):
                self.tally.went_wrong(
                    "order", f"{self.name}: seq {seq} after {self.seen[conversation]} of {conversation}"
                )
            self.seen[conversation] = seq
            for chat in self.chats:
                if chat.id == conversation:
                    chat.last_seq = max(chat.last_seq, seq)
            if frame["data"]["sender_id"] == self.id:
                self.mine.append((conversation, seq))
        return kind

    def some_chat(self) -> Chat:
        return self.rng.choice(self.chats)

    def new_id(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
