"""REST as the harness's clients speak it: connections that stay open, one request at a time on each.

Cheaper than a general client by an order, and exact about what is known: an answer counts when it is whole.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import orjson

from faults.clients_events import Json
from faults.clients_wire import Head, HttpAnswers, RawAnswer, WireError, request_bytes

ANSWER_SECONDS = 8.0
"""How long an answer may take before the same is asked again: longer than the server's own waits for its parts."""
PATIENCE_SECONDS = 120.0
CONNECT_SECONDS = 5.0
PASSING = frozenset({429, 502, 503, 504})
"""After these the same may succeed later."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """Where clients connect, and how to tell, from a client's own port, which instance it was given to."""

    host: str
    port: int
    instance_of: Callable[[int], str]

    @classmethod
    def at(cls, url: str, instance_of: Callable[[int], str]) -> Entrance:
        """A balancer's address."""
        parts = urlsplit(url)
        return cls(str(parts.hostname), parts.port or 80, instance_of)

    @classmethod
    def to(cls, url: str, instance: str) -> Entrance:
        """An instance's own address."""
        return cls.at(url, lambda _: instance)

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    def instance(self, transport: asyncio.Transport | None) -> str:
        """The instance a connection leads to; "" where that is not known yet."""
        name = transport.get_extra_info("sockname") if transport is not None else None
        return self.instance_of(int(name[1])) if name else ""


class Cut(Exception):
    """No answer: the connection ended, or the time ran out. Nothing is known of what was asked."""

    def __init__(self, why: str, instance: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.instance = instance


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `value` is None for an empty body."""

    status: int
    value: Json | None
    instance: str
    retry_after: float | None = None
    replayed: bool = False

    @property
    def json(self) -> Json:
        assert self.value is not None
        return self.value

    @property
    def code(self) -> str:
        """What a problem is called."""
        return str((self.value or {}).get("code", ""))

    @property
    def passing(self) -> bool:
        """Whether the same may succeed later."""
        return self.status in PASSING or self.code == "idempotency_in_progress"


class WrongAnswer(Exception):
    """An answer that the harness had no use for."""

    def __init__(self, what: str, answer: Answer) -> None:
        super().__init__(f"{what} was answered {answer.status} {answer.value}")
        self.answer = answer


def retry_after(head: Head) -> float | None:
    """Seconds of `Retry-After`."""
    text = head.headers.get("retry-after", "")
    return float(text) if text.isdigit() else None


class _Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, entrance: Entrance) -> None:
        self.instance = ""
        self._entrance = entrance
        self._answers = HttpAnswers()
        self._waiting: asyncio.Future[RawAnswer] | None = None
        self.transport: asyncio.Transport | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.is_open = cast("asyncio.Transport", transport), True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Cut("cut"))

    def data_received(self, data: bytes) -> None:
        waiting = self._waiting
        self.instance = self.instance or self._entrance.instance(self.transport)
        try:
            answer = self._answers.feed(data)
            if waiting is None or waiting.done():
                raise WireError("bytes that nobody had asked for")
        except WireError as error:
            self.hang_up()
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
            return
        if answer is not None:
            if answer.head.closes:
                self.hang_up()
            waiting.set_result(answer)

    async def ask(self, request: bytes) -> RawAnswer:
        assert self.transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._waiting

    def hang_up(self) -> None:
        self.is_open = False
        if self.transport is not None:
            self.transport.abort()


@dataclass(slots=True)
class Rest:
    """Requests to any instance. `close` it after use."""

    complain: Callable[[str], None]
    """Told of answers that no server of this contract gives."""
    _idle: dict[Entrance, list[_Line]] = field(default_factory=dict)

    async def call(
        self,
        at: Entrance,
        method: str,
        path: str,
        token: str | None = None,
        body: Json | None = None,
        *,
        seconds: float = ANSWER_SECONDS,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Asks once. Raises Cut where no whole answer came in time."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        payload = None if body is None else orjson.dumps(body)
        request = request_bytes(method, f"/api/v1{path}", at.authority, sent, payload)
        line: _Line | None = None
        answer: RawAnswer | None = None
        why = ""
        try:
            async with asyncio.timeout(seconds):
                line = await self._line(at)
                answer = await line.ask(request)
        except TimeoutError:
            why = "timeout"
        except OSError:
            why = "refused"
        except Cut as cut:
            why = cut.why
        except WireError as error:
            self.complain(f"{method} {path}: {error}")
            why = "wrong bytes"
        finally:
            instance = line.instance if line is not None else ""
            if line is not None and answer is None:
                line.hang_up()
        if line is None or answer is None:
            raise Cut(why, instance)
        if line.is_open:
            self._idle.setdefault(at, []).append(line)
        return self._read(instance, f"{method} {path}", answer)

    async def _line(self, at: Entrance) -> _Line:
        idle = self._idle.get(at, [])
        while idle:
            line = idle.pop()
            if line.is_open:
                return line
        _, made = await asyncio.get_running_loop().create_connection(lambda: _Line(at), at.host, at.port)
        return made

    def _read(self, instance: str, what: str, answer: RawAnswer) -> Answer:
        try:
            value = orjson.loads(answer.body) if answer.body else None
        except orjson.JSONDecodeError:
            self.complain(f"{what}: {answer.head.status} with {answer.body[:200]!r}")
            raise Cut("wrong bytes", instance) from None
        replayed = answer.head.headers.get("idempotent-replayed") == "true"
        return Answer(answer.head.status, value, instance, retry_after(answer.head), replayed)

    async def settle(
        self,
        at: Entrance,
        rng: random.Random,
        method: str,
        path: str,
        token: Callable[[], str] | None = None,
        body: Json | None = None,
        *,
        fine: Sequence[int] = (200, 201, 204),
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Asks until there is an answer that says something about what was asked.

        Raises WrongAnswer for one that is not `fine`, and Cut after two minutes without any.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        failures = 0
        while True:
            try:
                answer = await self.call(at, method, path, token and token(), body, headers=headers)
            except Cut:
                wait = None
                if time.monotonic() > deadline:
                    raise
            else:
                if not answer.passing or time.monotonic() > deadline:
                    if answer.status not in fine:
                        raise WrongAnswer(f"{method} {path}", answer)
                    return answer
                wait = answer.retry_after
            failures += 1
            await asyncio.sleep(backoff(rng, failures) if wait is None else wait * rng.uniform(1.0, 1.2))

    def close(self) -> None:
        """Hangs up."""
        for lines in self._idle.values():
            for line in lines:
                line.hang_up()
        self._idle.clear()


def backoff(rng: random.Random, failures: int) -> float:
    """Seconds to wait after so many failures in a row: doubled each time up to 1 s, with some chance in it."""
    return min(1.0, 0.025 * 2.0 ** min(failures, 10)) * rng.uniform(0.5, 1.0)
