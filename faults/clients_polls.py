"""Long polling, as one connection: a row of polls."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlencode

import orjson

from faults.clients_events import FrameReader
from faults.clients_http import Entrance
from faults.clients_streams import GREETING_SECONDS, Owner, Wire
from faults.clients_wire import HttpAnswers, RawAnswer, WireError, request_bytes
from faults.history import Transport

POLL_SECONDS = 5
"""What a poll asks the server to wait."""


class PollWire(Wire):
    """A row of polls over one connection, each asking with the cursor of the answer before.

    `pause` is what it waits between two, as old clients do: it bounds what a busy conversation costs.
    """

    kind: Transport = "poll"

    def __init__(
        self,
        owner: Owner,
        reader: FrameReader,
        entrance: Entrance,
        token: str,
        cursor: str,
        pause: float = 0.2,
    ) -> None:
        super().__init__(owner, reader, entrance, token, cursor)
        self._answers = HttpAnswers()
        self._pause = pause
        self._next: asyncio.TimerHandle | None = None

    def request(self) -> bytes:
        """The first one answers at once, so that the connection counts as open."""
        return self._ask(0)

    def received(self, data: bytes) -> None:
        answer = self._answers.feed(data)
        if answer is None:
            return
        if answer.head.status != 200:
            self.refused(answer.head)
            return
        if not self.is_open:
            self.greeted()
            self._patience = POLL_SECONDS + GREETING_SECONDS
        more = self._read(answer)
        if answer.head.closes:
            self.end("sent away")
        elif not self.ended.done():
            pause = 0.0 if more else self._pause
            self._next = asyncio.get_running_loop().call_later(pause, self._ask_again)

    def _read(self, answer: RawAnswer) -> bool:
        """Hands it on; whether there is more to be had at once."""
        try:
            value = orjson.loads(answer.body)
            events, cursor, more = value["events"], value["cursor"], value["more"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise WireError(f"not a poll's answer: {answer.body[:200]!r}") from None
        if not isinstance(cursor, str) or (more and not events):
            raise WireError(f"not a poll's answer: {answer.body[:200]!r}")
        for event in events:
            self._owner.take(self, self._reader.of(event))
            if self.ended.done():
                return False
        self.cursor = cursor
        self._owner.reached(self, cursor)
        return bool(more)

    def _ask_again(self) -> None:
        self.heard = time.monotonic()  # it is this client that was silent
        self.write(self._ask(POLL_SECONDS))

    def _ask(self, wait: int) -> bytes:
        query = {"wait": wait, "limit": 200} | ({"cursor": self.cursor} if self.cursor else {})
        path = f"/api/v1/realtime/poll?{urlencode(query)}"
        return request_bytes("GET", path, self._entrance.authority, self.headers())

    def end(self, why: str, retry_after: float | None = None) -> None:
        super().end(why, retry_after)
        if self._next is not None:
            self._next.cancel()
