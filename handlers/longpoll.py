"""Long polling: ``GET /realtime/poll``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

from domain.errors import Unauthenticated, Unavailable
from domain.identity import Identity
from domain.waiting import within
from handlers import keys
from handlers.endpoint import Call, Reply, Route
from handlers.realtime import Realtime, StreamQuery, begin, check_room, parse_topics, sign_in
from handlers.schemas.common import NoBody, QueryInt
from realtime.codec import encode_cursor
from realtime.events import Event, Group
from realtime.places import NotFresh, Place
from realtime.poll import Poll
from realtime.shared import encode_answer

POLL = "/api/v1/realtime/poll"


class PollQuery(StreamQuery):
    wait: QueryInt = Field(25, ge=0, le=55, description="Seconds to wait where there is nothing yet.")
    limit: QueryInt = Field(100, ge=1, le=500, description="How many events at most.")


@dataclass(frozen=True, slots=True)
class Polled:
    """What a poll asked for, and for whom, that was let in by its Authorization header."""

    identity: Identity
    cursor: str
    groups: frozenset[Group] | None
    wait: int
    limit: int


class PollAnswer(BaseModel):
    """What there was after the cursor, oldest first. With ``more`` there is more to be had at once."""

    events: list[dict[str, Any]] = Field(description="Envelopes as on every transport, or one `resync`.")
    cursor: str
    more: bool


async def get_poll(call: Call[NoBody, PollQuery]) -> Reply:
    """Answers with what came after the cursor: at once, or as soon as there is something, or empty after ``wait``."""
    realtime = call.app[keys.REALTIME]
    identity = call.identity
    groups = parse_topics(call.query.topics)
    view, place = await begin(realtime, identity, call.query.cursor or None)
    check_room(realtime, view)
    if place.resync is not None:
        return _resync(place)
    poll = realtime.hub.poll(view, sign_in=identity.session, expires_at=identity.expires_at, groups=groups)
    realtime.metrics.connection_opened("poll")
    try:
        wait = call.query.wait if call.query.cursor else 0
        events, reached, more = await _read(realtime, poll, place.position, call.query.limit, wait)
    finally:
        realtime.hub.detach(poll)
        realtime.metrics.connection_closed("poll", "answered")
    if poll.expired:
        raise Unauthenticated("the credential has expired", code="token_expired")
    if poll.ended:
        raise Unauthenticated("the session has ended", code="session_revoked")
    if call.query.cursor and "Authorization" in call.request.headers:
        call.request[keys.POLLED] = Polled(
            identity, call.query.cursor, groups, call.query.wait, call.query.limit
        )
    return Reply(200, encode_answer(poll.epoch, events, reached, more))


async def _read(
    realtime: Realtime, poll: Poll, position: int, limit: int, wait: float
) -> tuple[list[Event], int, bool]:
    """Reads, and waits where there is nothing. Writes nothing that was read while the instance was not fresh (I9)."""
    deadline = realtime.hub.clock() + wait
    reached, more = position, False
    while True:
        try:
            events, upto, more = await poll.read(reached, limit)
        except NotFresh as error:
            raise Unavailable("the log cannot be read right now") from error
        if poll.draining:
            # Nothing of it: where the hub has skipped a part of the log, this view of it is void.
            return [], reached, False
        if events and not realtime.hub.fresh:
            try:
                await within(max(1.0, deadline - realtime.hub.clock()), realtime.hub.until_fresh())
            except TimeoutError:
                raise Unavailable("the log cannot be read right now") from None
            continue  # what was read may have been withdrawn meanwhile
        reached = upto
        remaining = deadline - realtime.hub.clock()
        if events or poll.ended or remaining <= 0:
            return events, reached, more
        await poll.wait(remaining)


def _resync(place: Place) -> Reply:
    """The only entry, and the cursor to go on from."""
    cursor = encode_cursor(place.epoch, place.position).encode()
    assert place.resync is not None
    return Reply(
        200,
        b'{"events":[{"type":"resync","reason":"%b","cursor":"%b"}],"cursor":"%b","more":false}'
        % (place.resync.encode(), cursor, cursor),
    )


ROUTES = (
    Route(
        "GET",
        POLL,
        get_poll,
        "Waits for events (long polling).",
        "Realtime",
        query=PollQuery,
        answers={200: PollAnswer},
        errors=(400, 403, 429),
        description="The answer acknowledges nothing; asking with its cursor does.",
        auth=False,
        sign_in=sign_in,
        limit="realtime",
        stream=True,
    ),
)
