"""Long polls that repeat themselves, answered without being parsed, routed and signed in each time.

A client that polls asks the same again and again: on a connection it keeps, the same bytes but for the cursor. Served
the usual way each of these requests is parsed, becomes a request object and a task, passes four middlewares, is matched
to a route, has its token, its query and its origin looked at, becomes a response object and is turned into bytes. All
of that gives what it gave the time before. It is most of what a poll costs; the figures are in docs/adr/0011.

So the usual way is the teacher. Once it has answered a poll, and the connection was seen to be between two requests
when exactly that one came (so it is not the connection's first), a :class:`Lane` is laid on the connection: it knows
the request's bytes before and after the cursor, what they were found to mean (:class:`handlers.longpoll.Polled`), and
the head of the answer. The next request that differs in nothing but the cursor is served by the lane. What it was given
for free it never looks at again; what can have changed since, it looks at each time:

- the sign-in: its end, and whether the directory still vouches for it; rate limits, room, drain, freshness of the log;
- the cursor: decoded, and of this log, neither past its head nor before its floor;
- the events: read from memory by the same :class:`realtime.poll.Poll`; request id, date and length of the answer.

The rule that keeps this honest: **the lane decides nothing unusual.** Where anything is not as it was, it does not take
the request, or gives it back (:meth:`Lane._hand_over`): the bytes go to aiohttp as if they had just arrived, and
whatever is to be said about them, be it 401, 429, 503 or a resync, is said there. A lane ends with the first bytes that
are not such a request, and the next poll lays a new one. So nothing here knows a status other than 200.

What comes while a poll waits is kept, and read when it is answered, as aiohttp keeps pipelined requests. Bytes that
were held back by a slow client are aiohttp's to deal with: while any are, the lane takes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from email.utils import formatdate
from typing import Protocol

from aiohttp import web

from handlers.longpoll import POLL
from handlers.outlet import Outlet
from handlers.realtime import Realtime, has_room, note_arrived
from handlers.serving import Limiter, Verdict
from realtime.codec import CURSOR_CHARS
from realtime.events import Event
from realtime.poll import PromptPoll
from realtime.views import UserView
from server.drain import Ongoing
from server.metrics import RepeatedPolls
from server.middleware.requests import debugging, new_id, write_line
from server.repeated import Repeated, learn

BEGINNING = b"GET %b?" % POLL.encode()
"""How the request line of every poll begins that a lane may be laid for."""

MAX_EARLY = 65_536
"""Bytes kept of what comes while a poll waits; the connection is not read from while there are more."""

_UNLIMITED = Verdict()


class Connection(Protocol):
    """What a lane needs of the connection it is laid on."""

    def is_idle(self) -> bool:
        """Whether every request that came has been answered, and the next is waited for."""

    def serve(self, data: bytes) -> None:
        """Takes bytes as if they had just come from the client."""

    def serve_slowly(self, data: bytes) -> None:
        """The same, without the lane, which is no more."""

    def keep_alive(self, val: bool) -> None:
        """Ends the connection's own watch over its idleness."""

    def force_close(self) -> None: ...


class FastPolls:
    """What the lanes of one instance share."""

    def __init__(
        self,
        realtime: Realtime,
        limiter: Limiter,
        counts: RepeatedPolls,
        ongoing: Ongoing,
        *,
        draining: Callable[[], bool],
        spawn: Callable[[Coroutine[object, object, None]], None],
        limited: bool,
    ) -> None:
        """``limited``: whether the limiter counts at all."""
        self.realtime = realtime
        self.limiter = limiter
        self.counts = counts
        self.ongoing = ongoing
        self.draining = draining
        self.spawn = spawn
        self.limited = limited
        self._second = 0
        self._date = b""
        self._heads: dict[bytes, bytes] = {}

    def lane(
        self,
        connection: Connection,
        transport: asyncio.Transport,
        asked: bytes,
        request: web.BaseRequest,
        response: web.StreamResponse,
        *,
        idle_seconds: float,
    ) -> Lane | None:
        """A lane for requests like this one, which was all of ``asked`` and has been answered. None where it was not
        an ordinary poll."""
        repeated = learn(asked, request, response)
        if repeated is None:
            return None
        if len(self._heads) > 1000:
            self._heads.clear()
        head = self._heads.setdefault(repeated.head, repeated.head)  # most clients get the same
        return Lane(self, connection, transport, replace(repeated, head=head), idle_seconds)

    def date(self) -> bytes:
        """Now, as the ``Date`` of an answer (RFC 9110, 6.6.1)."""
        now = int(time.time())
        if now != self._second:
            self._second, self._date = now, formatdate(now, usegmt=True).encode()
        return self._date


class Lane:
    """The polls of one connection, one at a time."""

    __slots__ = (
        "_asked",
        "_began",
        "_connection",
        "_early",
        "_idle_seconds",
        "_idle_since",
        "_idle_timer",
        "_loop",
        "_outlet",
        "_poll",
        "_reached",
        "_repeated",
        "_shared",
        "_timer",
        "_transport",
        "_verdict",
    )

    def __init__(
        self,
        shared: FastPolls,
        connection: Connection,
        transport: asyncio.Transport,
        repeated: Repeated,
        idle_seconds: float,
    ) -> None:
        self._shared = shared
        self._connection = connection
        self._transport = transport
        self._outlet = Outlet(transport)
        self._repeated = repeated
        self._loop = asyncio.get_running_loop()
        self._idle_seconds = idle_seconds
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asked: bytes | None = None
        """The request that is being served."""
        self._early = b""
        self._poll: PromptPoll | None = None
        self._reached = 0
        self._began = 0.0
        self._verdict = _UNLIMITED

    # What the connection calls.

    def takes(self, data: bytes) -> bool:
        """Serves these bytes where it can. False: they are for the usual way, and the lane is to be :meth:`left`."""
        if self._asked is not None:
            self._keep(data)
            return True
        repeated, shared = self._repeated, self._shared
        if (
            len(data) != repeated.length
            or not data.startswith(repeated.before)
            or not data.endswith(repeated.after)
            or not self._connection.is_idle()
            or self._outlet.buffered()
            or shared.draining()
            or not shared.realtime.directory.vouches_for(repeated.polled.identity)
            or self._find(data) is None  # before it is paid for: elsewhere it would be again
        ):
            return False
        self._asked = data
        self._count_in()
        if shared.limited:
            shared.spawn(self._pay())
            return True
        if self._begin():
            return True
        self._withdraw()
        return False

    @property
    def is_busy(self) -> bool:
        """Whether a poll waits for its answer."""
        return self._asked is not None

    def lost(self) -> None:
        """The connection is gone."""
        if self._asked is not None:
            self._end(499)
        self.leave()

    def leave(self) -> None:
        """The lane is not used any more."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    # One poll.

    async def _pay(self) -> None:
        """Takes the request from what the client is allowed, then begins."""
        repeated = self._repeated
        try:
            self._verdict = verdict = await self._shared.limiter.spend(
                "realtime", address=repeated.client.address, user=repeated.polled.identity.user
            )
            if self._asked is None:
                return  # the connection was lost meanwhile
            if not verdict.allowed or verdict.headers.keys() != repeated.limits or not self._begin():
                self._hand_over()
        except Exception:
            self._fail()
            raise

    def _find(self, asked: bytes) -> tuple[UserView, int] | None:
        """Whose events to read, and from where. None where only the usual way can say what there is to say."""
        repeated, realtime = self._repeated, self._shared.realtime
        identity, hub = repeated.polled.identity, realtime.hub
        position = hub.places.find_at_once(self._cursor_in(asked))
        view = hub.known_view(identity.user)
        if position is None or view is None or not has_room(realtime, view):
            return None
        if hub.leaving or hub.has_ended(identity.session) or not hub.replay.in_memory(position):
            return None
        return view, position

    def _begin(self) -> bool:
        """Answers, or waits. False where only the usual way can go on."""
        assert self._asked is not None
        found = self._find(self._asked)
        if found is None:
            return False
        view, position = found
        realtime, polled = self._shared.realtime, self._repeated.polled
        hub = realtime.hub
        self._poll = hub.prompt_poll(
            view,
            sign_in=polled.identity.session,
            expires_at=polled.identity.expires_at,
            groups=polled.groups,
            stirred=self._stirred,
        )
        self._reached = position
        events: Sequence[Event] = ()
        more = False
        if position < hub.position:
            read = self._poll.read_at_once(position, polled.limit)
            if read is None:
                return False
            events, self._reached, more = read
        note_arrived(realtime, view, position)
        if events or not polled.wait:
            self._answer(events, more)
        else:
            self._timer = self._loop.call_later(polled.wait, self._wait_is_over)
        return True

    def _stirred(self, fresh: bool) -> None:
        """There is something for the poll: an event, or its end."""
        try:
            self._go_on(fresh)
        except Exception:
            self._fail()
            raise

    def _go_on(self, fresh: bool) -> None:
        poll = self._poll
        if poll is None:
            return  # it has been answered
        if poll.ended or not (fresh or poll.draining):
            self._hand_over()
        elif poll.draining:
            # Nothing of what came: where the hub has skipped a part of the log, this view of it is void.
            self._answer((), False)
        else:
            limit = self._repeated.polled.limit
            found = poll.take_offered(limit) or poll.read_at_once(self._reached, limit)
            if found is None:
                self._hand_over()
                return
            events, self._reached, more = found
            if events:
                self._answer(events, more)

    def _wait_is_over(self) -> None:
        self._timer = None
        try:
            self._give_what_there_is()
        except Exception:
            self._fail()
            raise

    def _give_what_there_is(self) -> None:
        poll, hub = self._poll, self._shared.realtime.hub
        if poll is None:
            return
        if poll.stirring:
            self._go_on(hub.fresh)
        if self._poll is not None:
            # What it may see would have stirred it.
            self._reached = max(self._reached, hub.position)
            self._answer((), False)

    # Its end.

    def _answer(self, events: Sequence[Event], more: bool) -> None:
        assert self._poll is not None
        shared, repeated = self._shared, self._repeated
        body = shared.realtime.hub.shared.answer(self._poll.epoch, events, self._reached, more)
        request_id = repeated.request_id or new_id()
        closes = shared.draining()
        values: dict[bytes, bytes | int] = {
            b"id": request_id.encode(),
            b"date": shared.date(),
            b"length": len(body),
            b"close": b"Connection: close\r\n" if closes else b"",
        }
        for name in repeated.limits:
            values[name.encode()] = self._verdict.headers[name].encode()
        self._end(200, request_id)
        self._outlet.write(repeated.head % values + body)
        if closes:
            self._outlet.finish()
        else:
            self._rest()

    def _rest(self) -> None:
        """Waits for the next request, with what came too early for it."""
        self._idle_since = self._loop.time()
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(self._idle_seconds, self._idle)
        early, self._early = self._early, b""
        if early:
            if len(early) > MAX_EARLY:
                self._transport.resume_reading()
            self._connection.serve(early)

    def _hand_over(self) -> None:
        """Lets the usual way have the request, as if it had just come."""
        assert self._asked is not None
        data = self._asked + self._early
        if len(self._early) > MAX_EARLY:
            self._transport.resume_reading()
        self._shared.ongoing.enter()
        self._withdraw()
        self._connection.serve_slowly(data)
        # Its task begins two turns from now: till then a drain must not take it for answered.
        self._loop.call_soon(self._loop.call_soon, self._shared.ongoing.leave)

    def _fail(self) -> None:
        """Something raised that is not foreseen here: the client asks again on another connection, and nothing waits
        for this one."""
        try:
            if self._asked is not None:
                self._end(500)
        finally:
            self._connection.force_close()

    def _cursor_in(self, asked: bytes) -> str:
        cut = len(self._repeated.before)
        return asked[cut : cut + CURSOR_CHARS].decode("latin-1")

    def _keep(self, data: bytes) -> None:
        before = len(self._early)
        self._early += data
        if before <= MAX_EARLY < len(self._early):
            self._transport.pause_reading()

    # Counting.

    def _count_in(self) -> None:
        self._connection.keep_alive(True)
        self._began = time.perf_counter()
        self._shared.ongoing.enter()
        self._shared.counts.now += 1

    def _end(self, status: int, request_id: str | None = None) -> None:
        """The poll is over, and counted."""
        shared, repeated = self._shared, self._repeated
        asked = self._forget()
        shared.counts.ended[status] = shared.counts.ended.get(status, 0) + 1
        if status == 200 and not debugging():
            return
        write_line(
            "GET",
            repeated.url.update_query({"cursor": self._cursor_in(asked)}),
            POLL,
            status,
            time.perf_counter() - self._began,
            repeated.client,
            repeated.polled.identity.user,
            request_id=request_id or repeated.request_id or new_id(),
        )

    def _withdraw(self) -> None:
        """The poll is none of the lane's any more, and is counted where it goes."""
        self._forget()
        self._early = b""

    def _forget(self) -> bytes:
        asked, self._asked = self._asked, None
        assert asked is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._shared.ongoing.leave()
        self._shared.counts.now -= 1
        poll, self._poll = self._poll, None
        if poll is not None:
            self._shared.realtime.hub.detach(poll)
        return asked

    def _idle(self) -> None:
        """Closes a connection on which nothing was asked for too long."""
        self._idle_timer = None
        if self._asked is not None:
            return  # its answer begins the time anew
        left = self._idle_since + self._idle_seconds - self._loop.time()
        if left > 0:
            self._idle_timer = self._loop.call_later(left, self._idle)
        else:
            self._connection.force_close()
