"""What a route is, what its handler is given, and how the one becomes the other.

A handler is ``async def post_thing(call: Call[ThingCreate, NoQuery]) -> Reply``: it calls one service and shows the
result. Everything that is the same for all of them happens in :mod:`handlers.serving`, in the order the contract fixes:

1. who asks: 401; then the rate limits of the address and of the user: 429
2. an id in the path that is not one: 404
3. the answer kept under this caller's Idempotency-Key, given again
4. body and query: 400, 413, 422. Where they are wrong, ``Route.visible`` is asked first, so that a stranger gets the
   404 of a thing that is not there. Where they are right, the service decides what the caller may see.
5. the handler
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, Literal, Protocol, Self, TypeVar
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel

from domain.errors import NotFound, Unauthenticated
from domain.identity import Identity
from domain.ids import TenantId
from handlers import keys
from handlers.schemas.common import Query
from services.idempotency import Answer, KeptAnswer

BodyT = TypeVar("BodyT", bound=BaseModel)
QueryT = TypeVar("QueryT", bound=BaseModel)

API = "/api/v1"
"""Where every path but those of operators begins."""

Limit = Literal["none", "read", "write", "send", "auth", "realtime"]
"""Rate-limit class of a route; ``server/ratelimits.py`` says how much each allows."""

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Call(Generic[BodyT, QueryT]):
    """One validated request."""

    request: web.Request
    tenant: TenantId
    body: BodyT
    query: QueryT
    path: Mapping[str, str]
    """The values in the path, as sent. Ids and seqs are well formed: take them with :meth:`id` and :meth:`number`."""
    keep: KeptAnswer | None = None
    """This request's Idempotency-Key, to be handed to the service; None without one."""
    caller: Identity | None = None

    @property
    def identity(self) -> Identity:
        """Who asks. Raises Unauthenticated on a route with ``auth=False`` that nobody signed in to."""
        if self.caller is None:
            raise Unauthenticated()
        return self.caller

    @property
    def app(self) -> web.Application:
        """Where the services are: ``call.app[keys.MESSAGES]``."""
        return self.request.app

    @property
    def client(self) -> keys.Client:
        """Address, scheme and host of the peer, seen through the trusted proxies."""
        return keys.client_of(self.request)

    def id(self, name: str) -> UUID:
        """The path's ``{…_id}``."""
        return UUID(self.path[name])

    def number(self, name: str) -> int:
        """The path's ``{seq}``."""
        return int(self.path[name])


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. ``content``: a public resource, finished bytes (of ``Route.produces``), or nothing."""

    status: int
    content: BaseModel | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """The reply of an operation that keeps its answers: says so when it was given before."""
        headers = {"Idempotent-Replayed": "true"} if answer.replayed else NO_HEADERS
        return cls(answer.status, answer.body or None, headers)


class Visible(Protocol):
    """Raises NotFound where the caller may not know of what the path names; else does nothing."""

    async def __call__(self, request: web.Request, identity: Identity, /) -> None: ...


class SignIn(Protocol):
    """Finds out who asks in a route's own way (tickets, cookies). Raises Unauthenticated or Forbidden."""

    async def __call__(self, request: web.Request, /) -> Identity: ...


Handler = Callable[[Call[Any, Any]], Awaitable[Reply | web.StreamResponse]]
"""May also return a response it has streamed itself: WebSocket and SSE do."""


@dataclass(frozen=True, slots=True)
class Route:
    """One URL and method: how it is served, and all that the OpenAPI document says about it.

    Names in ``path`` tell their type: ``{id}`` and ``{…_id}`` are UUIDs, ``{seq}`` is a whole number from 1, the rest
    is text; what is not well formed is a 404. A GET answers HEAD too, unless it streams.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    body: type[BaseModel] | None = None
    query: type[Query] | None = None
    answers: Mapping[int, type[BaseModel] | None] = field(
        default_factory=lambda: MappingProxyType({200: None})
    )
    """Each 2xx it may give, and what it holds. 101 too, where it upgrades."""
    errors: tuple[int, ...] = ()
    """Statuses of its own errors, beside those that follow from the rest (401, 404, 413, 422, 429, 503 …)."""
    description: str = ""
    auth: bool = True
    """Needs ``Authorization: Bearer``. With False and no ``sign_in``, the caller is not known."""
    sign_in: SignIn | None = None
    """Another way to find out who asks, instead of the Bearer token."""
    limit: Limit = "read"
    account: Callable[[Any], str] | None = None
    """The account a body is about (a name or an email), for limits that hold by account whoever asks."""
    idempotent: bool = False
    """Takes an Idempotency-Key and hands it to its service as ``Call.keep``."""
    visible: Visible | None = None
    form: bool = False
    """Takes its body as application/x-www-form-urlencoded too."""
    produces: str = "application/json"
    stream: bool = False
    """Answers for long (WebSocket, SSE, long poll): no HEAD, and not measured as a request's duration."""


def parse_number(text: str) -> int:
    """A ``{seq}`` of a path. Raises NotFound."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and 1 <= int(text) < 2**63):
        raise NotFound()
    return int(text)
