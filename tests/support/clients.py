"""Clients of a running server as tests write them: a person with an account, and the three realtime transports."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

SECONDS = 10.0  # the longest a test waits for anything
_numbers = itertools.count(1)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A REST answer, whole."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Json:
        value: Json = json.loads(self.text)
        return value


Watcher = Callable[[str, str, Answer], None]


@dataclass(slots=True)
class Api:
    """REST of one instance. ``watch`` sees every answer: it checks them against the OpenAPI document."""

    http: aiohttp.ClientSession
    url: str
    watch: Watcher | None = None

    async def call(
        self, method: str, path: str, *, token: str | None = None, expect: int | None = None, **more: Any
    ) -> Answer:
        """One request below ``/api/v1`` (or at ``path`` itself where it starts with ``//``)."""
        url = self.url + (path[1:] if path.startswith("//") else "/api/v1" + path)
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with asyncio.timeout(SECONDS + 60):
            async with self.http.request(method, url, headers=headers, **more) as response:
                answer = Answer(response.status, response.headers, await response.text())
        if self.watch is not None:
            self.watch(method, url, answer)
        assert expect is None or answer.status == expect, (method, path, answer.status, answer.text)
        return answer

    async def register(self, name: str | None = None, **more: Any) -> Person:
        """A new account, signed in."""
        username = name or f"user_{next(_numbers)}_{uuid.uuid4().hex[:6]}"
        body = {"username": username, "email": f"{username}@example.com", "password": "correct horse", **more}
        made = (await self.call("POST", "/auth/register", json=body, expect=201)).json
        return Person(self, made["user"]["id"], username, made["access_token"], made["refresh_token"])


@dataclass(slots=True)
class Person:
    """An account and one sign-in of it. ``at`` gives the same person on another instance."""

    api: Api
    id: str
    username: str
    token: str
    refresh_token: str
    password: str = field(default="correct horse")

    def at(self, api: Api) -> Person:
        return Person(api, self.id, self.username, self.token, self.refresh_token, self.password)

    async def sign_in(self) -> Person:
        """The same person on another device."""
        body = {"username": self.username, "password": self.password}
        made = (await self.api.call("POST", "/auth/token", json=body, expect=200)).json
        return Person(self.api, self.id, self.username, made["access_token"], made["refresh_token"])

    async def call(self, method: str, path: str, *, expect: int | None = None, **more: Any) -> Answer:
        return await self.api.call(method, path, token=self.token, expect=expect, **more)

    async def get(self, path: str, *, expect: int = 200, **more: Any) -> Json:
        return (await self.call("GET", path, expect=expect, **more)).json

    async def post(self, path: str, body: object = None, *, expect: int = 201, **more: Any) -> Json:
        answer = await self.call("POST", path, json=body, expect=expect, **more)
        return answer.json if answer.text else {}

    async def direct_with(self, other: Person) -> str:
        """The id of the direct conversation of the two."""
        body = {"kind": "direct", "members": [other.username]}
        answer = await self.call("POST", "/conversations", json=body)
        assert answer.status in (200, 201), answer.text
        return str(answer.json["id"])

    async def group_with(self, *others: Person, **more: Any) -> str:
        """The id of a new group of this person and the others."""
        names = [other.username for other in others]
        return str(
            (
                await self.post(
                    "/conversations", {"kind": "group", "title": "A group", "members": names, **more}
                )
            )["id"]
        )

    async def say(self, conversation: str, body: str = "hello", **more: Any) -> Json:
        """Sends a message by REST; the message."""
        return await self.post(f"/conversations/{conversation}/messages", {"body": body, **more})

    async def poll(self, cursor: str | None = None, wait: int = 0, expect: int = 200, **more: Any) -> Json:
        """One long poll."""
        params = {"wait": str(wait), **{name: str(value) for name, value in more.items()}}
        if cursor is not None:
            params["cursor"] = cursor
        return (await self.call("GET", "/realtime/poll", params=params, expect=expect)).json

    async def poll_until(self, cursor: str, count: int) -> tuple[list[Json], str]:
        """Polls until ``count`` events have come: they, and the cursor after them."""
        events: list[Json] = []
        while len(events) < count:
            answer = await self.poll(cursor, wait=5)
            events += answer["events"]
            cursor = answer["cursor"]
        return events, cursor

    @asynccontextmanager
    async def ws(self, cursor: str | None = None, **params: str) -> AsyncIterator[Socket]:
        """An open WebSocket, its ``hello`` read."""
        if cursor is not None:
            params["cursor"] = cursor
        headers = {"Authorization": f"Bearer {self.token}"}
        url = self.api.url + "/api/v1/realtime/ws"
        async with self.api.http.ws_connect(
            url, headers=headers, params=params, protocols=["parley.v1"], autoping=True
        ) as ws:
            socket = Socket(ws)
            socket.hello = await socket.receive()
            assert socket.hello["type"] == "hello", socket.hello
            yield socket

    @asynccontextmanager
    async def sse(
        self, cursor: str | None = None, *, headers: Mapping[str, str] | None = None, **params: str
    ) -> AsyncIterator[Stream]:
        """An open event stream, its ``hello`` read."""
        if cursor is not None:
            params["cursor"] = cursor
        all_headers = {
            "Authorization": f"Bearer {self.token}",
            "Accept": "text/event-stream",
            **(headers or {}),
        }
        async with self.api.http.get(
            self.api.url + "/api/v1/realtime/sse",
            headers=all_headers,
            params=params,
            timeout=aiohttp.ClientTimeout(),
        ) as response:
            assert response.status == 200, await response.text()
            stream = Stream(response)
            stream.hello = (await stream.receive()).json
            assert stream.hello["type"] == "hello", stream.hello
            yield stream


class Closed(Exception):
    """The server ended the connection."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Socket:
    """A WebSocket, frame by frame. Replies are taken out of the stream of events by their id."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.hello: Json = {}
        self.cursor: str | None = None
        self._replies: dict[str, Json] = {}
        self._events: list[Json] = []
        self._ids = itertools.count(1)

    async def receive(self, seconds: float = SECONDS) -> Json:
        """The next frame of any kind. Raises :class:`Closed`."""
        message = await self.ws.receive(seconds)
        if message.type is not aiohttp.WSMsgType.TEXT:
            reason = message.extra if isinstance(message.extra, str) else ""
            raise Closed(self.ws.close_code, reason)
        value: Json = json.loads(message.data)
        return value

    async def event(self, type_: str | None = None, seconds: float = SECONDS) -> Json:
        """The next event (of that type; others are passed over). Heartbeats are passed over too."""
        async with asyncio.timeout(seconds):
            while True:
                frame = self._events.pop(0) if self._events else await self.receive(seconds)
                if frame["type"] == "reply":
                    self._replies[str(frame["id"])] = frame
                elif frame["type"] != "heartbeat" and (type_ is None or frame["type"] == type_):
                    self.cursor = frame.get("cursor") or self.cursor
                    return frame

    async def events(self, count: int, type_: str | None = None) -> list[Json]:
        return [await self.event(type_) for _ in range(count)]

    async def closed(self, seconds: float = SECONDS) -> Closed:
        """Waits for the server to close; passes over what comes before."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await self.receive(seconds)
                except Closed as closing:
                    return closing

    async def tell(self, op: str, data: Json | None = None) -> str:
        """Sends a command without waiting for its reply; the id."""
        name = f"c{next(self._ids)}"
        await self.ws.send_str(json.dumps({"id": name, "op": op, "data": data or {}}))
        return name

    async def reply(self, id: str, seconds: float = SECONDS) -> Json:
        """The reply to the command with that id; events that come before it are kept."""
        async with asyncio.timeout(seconds):
            while id not in self._replies:
                frame = await self.receive(seconds)
                if frame["type"] == "reply":
                    self._replies[str(frame["id"])] = frame
                else:
                    self._events.append(frame)
        return self._replies.pop(id)

    async def command(self, op: str, data: Json | None = None) -> Json:
        """Sends a command and gives its reply's data; asserts that it succeeded."""
        reply = await self.reply(await self.tell(op, data))
        assert reply["ok"], reply
        result: Json = reply["data"]
        return result

    async def failing(self, op: str, data: Json | None = None) -> Json:
        """Sends a command that must fail; the problem."""
        reply = await self.reply(await self.tell(op, data))
        assert not reply["ok"], reply
        error: Json = reply["error"]
        return error

    async def say(self, conversation: str, body: str = "hello", client_id: str | None = None) -> Json:
        client_id = client_id or str(uuid.uuid4())
        return await self.command(
            "message.send", {"conversation_id": conversation, "body": body, "client_id": client_id}
        )


@dataclass(frozen=True, slots=True)
class Block:
    """One event of a stream, as ``EventSource`` would dispatch it."""

    event: str
    id: str | None
    data: str

    @property
    def json(self) -> Json:
        value: Json = json.loads(self.data)
        return value


class Stream:
    """A Server-Sent Events stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.hello: Json = {}
        self.retry: int | None = None
        self.comments = 0
        self.last_event_id: str | None = None

    async def receive(self, seconds: float = SECONDS) -> Block:
        """The next event. Raises :class:`Closed` where the stream has ended."""
        event, place = "message", None
        data: list[str] = []
        async with asyncio.timeout(seconds):
            while True:
                raw = await self.response.content.readline()
                if not raw:
                    raise Closed(None, "end of stream")
                line = raw.decode().rstrip("\r\n")
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not line:
                    if data:
                        self.last_event_id = place or self.last_event_id
                        return Block(event, place, "\n".join(data))
                    event, place = "message", None
                elif not name:
                    self.comments += 1
                elif name == "event":
                    event = value
                elif name == "data":
                    data.append(value)
                elif name == "id":
                    place = value
                elif name == "retry":
                    self.retry = int(value)

    async def event(self, type_: str | None = None, seconds: float = SECONDS) -> Json:
        """The next event (of that type), as its envelope; heartbeats are passed over."""
        async with asyncio.timeout(seconds):
            while True:
                block = await self.receive(seconds)
                if block.event != "heartbeat" and (type_ is None or block.event == type_):
                    return block.json

    async def closed(self, seconds: float = SECONDS) -> list[Block]:
        """Waits for the end of the stream; what came before it."""
        blocks: list[Block] = []
        async with asyncio.timeout(seconds):
            while True:
                try:
                    blocks.append(await self.receive(seconds))
                except (Closed, aiohttp.ClientPayloadError):
                    return blocks
