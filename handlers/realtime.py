"""What the three transports share: who may connect, where a session starts, and what it listens to."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import ClassVar, Protocol

from aiohttp import web
from pydantic import Field

from domain.errors import (
    FieldError,
    InvalidFields,
    OriginRefused,
    TooManyConnections,
    Unauthenticated,
    Unavailable,
)
from domain.identity import Identity
from domain.ids import DEFAULT_TENANT, parse_id
from handlers import keys
from handlers.origins import Origins
from handlers.pacing import Paces
from handlers.schemas.common import Query
from handlers.serving import bearer_token
from realtime.events import GROUPS, Group
from realtime.hub import Hub
from realtime.places import NotFresh, Place
from realtime.views import UserView
from services.delivery import DeliveryMarks
from services.sessions import SessionDirectory
from services.tickets import Tickets

COOKIE = "parley_realtime"


class StreamQuery(Query):
    """What every transport takes."""

    # An unusable cursor gets a resync, an unusable ticket 401, whatever they hold.
    never_stored: ClassVar[frozenset[str]] = frozenset({"cursor", "ticket"})

    cursor: str | None = Field(
        None, description="Where to go on; `Last-Event-ID` wins over it. None: from now on."
    )
    topics: str = Field(
        "all", description="`all`, or a comma list of `messages`, `notifications`, `feed`, `post:{id}`."
    )
    ticket: str | None = Field(
        None, description="A ticket of `POST /realtime/tickets`, where headers cannot be set."
    )


class ConnectionMetrics(Protocol):
    """What the transports count."""

    def connection_opened(self, transport: str) -> None: ...

    def connection_closed(self, transport: str, reason: str) -> None: ...

    def command(self, op: str, outcome: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Realtime:
    """The parts a transport works with."""

    hub: Hub
    directory: SessionDirectory
    tickets: Tickets
    origins: Origins
    marks: DeliveryMarks
    metrics: ConnectionMetrics
    spawn: Callable[[Coroutine[object, object, None]], None]
    max_per_user: int
    max_connections: int
    paces: Paces | None
    """How many commands each user may send over WebSockets; None: any number."""


async def sign_in(request: web.Request) -> Identity:
    """Who opens a realtime connection: by header, else by cookie, else by ticket. Foreign origins are sent away first.

    A good cookie leaves the ticket beside it unspent: a browser reconnects to the URL it was first given. Raises
    OriginRefused and Unauthenticated. A token in the query string is never looked at: URLs end up in logs.

    Raises Unavailable where the log cannot be read, before PostgreSQL is asked who this is: one that is frozen would
    keep the request waiting for as long as a statement may take, for a session that cannot begin anyway.
    """
    realtime = request.app[keys.REALTIME]
    if not realtime.origins.allows(request.headers.get("Origin"), keys.client_of(request)):
        raise OriginRefused()
    try:
        await realtime.hub.be_fresh()
    except NotFresh as error:
        raise _unreadable() from error
    tenant = request.get(keys.TENANT, DEFAULT_TENANT)
    if "Authorization" in request.headers:
        return await realtime.directory.authenticate(tenant, bearer_token(request))
    cookie = request.cookies.get(COOKIE)
    if cookie:
        try:
            return await realtime.directory.authenticate_cookie(tenant, cookie)
        except Unauthenticated:
            if "ticket" not in request.query:
                raise
    ticket = request.query.get("ticket")
    if ticket:
        return await realtime.tickets.redeem(tenant, ticket)
    raise Unauthenticated()


def parse_topics(text: str) -> frozenset[Group] | None:
    """The groups a session listens to; None for all. Raises InvalidFields."""
    if text == "all":
        return None
    groups: set[Group] = {"always"}
    for name in text.split(","):
        kind, _, post = name.partition(":")
        if kind == "post" and parse_id(post) is not None:
            continue
        group = next((g for g in GROUPS if g == name and g != "always"), None)
        if group is None:
            raise InvalidFields([FieldError("topics", f"{name[:40]!r} is not a topic")])
        groups.add(group)
    return frozenset(groups)


def presented_cursor(request: web.Request, query: StreamQuery) -> str | None:
    """The cursor a stream goes on from. ``Last-Event-ID`` arrives as UTF-8 or not at all."""
    return request.headers.get("Last-Event-ID") or query.cursor or None


async def begin(
    realtime: Realtime, identity: Identity, presented: str | None, found: Place | None = None
) -> tuple[UserView, Place]:
    """The user's view and the place their session starts at, to be used without waiting in between.

    ``found``: the place an earlier call gave for the same cursor. A cursor that is presented says that everything up to
    it has arrived: that is noted where no session of the user here has said so before. Raises Unavailable while the log
    is away.
    """
    try:
        while True:
            place = found or await realtime.hub.places.find(presented)
            view = await realtime.hub.view(identity.tenant, identity.user)
            if realtime.hub.places.holds(place):
                break
            found = None
    except NotFresh as error:
        raise _unreadable() from error
    if presented is not None and place.resync is None:
        note_arrived(realtime, view, place.position)
    return view, place


def note_arrived(realtime: Realtime, view: UserView, position: int) -> None:
    """Notes that everything up to there has reached the user, where no client of theirs here has said so before."""
    if position > view.delivered:
        view.delivered = position
        realtime.marks.mark(view.tenant, view.user, position)


def _unreadable() -> Unavailable:
    return Unavailable("the log cannot be read right now")


def check_room(realtime: Realtime, view: UserView) -> None:
    """Raises TooManyConnections where the user, or the instance, has as many as it may."""
    if not has_room(realtime, view):
        raise TooManyConnections(retry_after=5)


def has_room(realtime: Realtime, view: UserView) -> bool:
    """Whether the user, and the instance, may have one more connection."""
    return len(view.sessions) < realtime.max_per_user and len(realtime.hub) < realtime.max_connections


def hello(realtime: Realtime, identity: Identity, cursor: str) -> dict[str, object]:
    """The first frame of a WebSocket and the first event of a stream."""
    return {
        "type": "hello",
        "cursor": cursor,
        "session_id": str(identity.session),
        "user_id": str(identity.user),
        "heartbeat_seconds": realtime.hub.heartbeat,
    }
