"""Turns routes into aiohttp handlers: the one place where a request is checked, in the order the contract fixes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from aiohttp import web
from pydantic import BaseModel

from domain.errors import (
    FieldError,
    IdempotencyInProgress,
    Invalid,
    InvalidFields,
    Malformed,
    NotFound,
    TooLarge,
    TooMany,
    Unauthenticated,
)
from domain.identity import Identity
from domain.ids import DEFAULT_TENANT, TenantId, UserId, parse_id
from handlers import keys
from handlers.endpoint import Call, Limit, Reply, Route, parse_number
from handlers.reading import parse_body, parse_query, read_body
from handlers.schemas.common import NoBody, NoQuery
from services.idempotency import Answer, KeptAnswer, fingerprint

MAX_KEY = 255
MAX_PATH_TEXT = 256
UNREADABLE = (Malformed, Invalid, TooLarge)
"""What can be wrong with a body or a query; a stranger is not told of it, but gets the 404 first."""


class Authenticator(Protocol):
    """Knows who a token belongs to. ``services.sessions.SessionDirectory`` is one."""

    async def authenticate(self, tenant: TenantId, access_token: str, /) -> Identity:
        """Raises Unauthenticated for a token that is not good, is over, or was revoked."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rate limit says: whether to go on, and the headers that tell the client where it stands."""

    allowed: bool = True
    retry_after: float = 0.0
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Limiter(Protocol):
    """Counts requests. Never raises: where its storage is away it counts in memory."""

    async def spend(
        self, limit: Limit, *, address: str = "", user: UserId | None = None, account: str = ""
    ) -> Verdict:
        """Takes one request from each allowance that is named: the address's, the user's, the account's."""
        ...


class Keeper(Protocol):
    """What the edge does for idempotency keys. ``services.idempotency.KeptAnswers`` is one."""

    async def find(self, keep: KeptAnswer, /) -> Answer | None:
        """The answer kept under this key. Raises IdempotencyKeyReused."""
        ...

    def lease(self, keep: KeptAnswer, /) -> AbstractAsyncContextManager[bool]:
        """Holds the key while its request runs. False: another request holds it."""
        ...


def register_routes(app: web.Application, routes: Iterable[Route], edge: Edge) -> None:
    """Puts every route on the application, with and without a trailing slash, and HEAD beside each plain GET."""
    for route in routes:
        handler = edge.handler(route)
        paths = [route.path, route.path.removesuffix("/") if route.path.endswith("/") else f"{route.path}/"]
        for path in paths:
            app.router.add_route(route.method, path, handler, expect_handler=_expect_later)
            if route.method == "GET" and not route.stream:
                app.router.add_route("HEAD", path, handler, expect_handler=_expect_later)


async def _expect_later(request: web.Request) -> None:
    """Nothing yet: ``100 Continue`` is sent once the body is wanted (:func:`read_body`), so a refusal comes first."""


class Edge:
    """Serves routes. Raises domain errors only; the error middleware turns them into answers."""

    def __init__(self, *, authenticator: Authenticator, limiter: Limiter, keeper: Keeper) -> None:
        self._authenticator = authenticator
        self._limiter = limiter
        self._keeper = keeper

    def handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The aiohttp handler of a route."""

        async def serve(request: web.Request) -> web.StreamResponse:
            request[keys.ROUTE] = route
            reply = await self._serve(route, request)
            return response_of(route, reply) if isinstance(reply, Reply) else reply

        return serve

    async def _serve(self, route: Route, request: web.Request) -> Reply | web.StreamResponse:
        tenant = request.get(keys.TENANT, DEFAULT_TENANT)
        caller = await self._caller(route, request, tenant)
        path = checked_path(request.match_info)
        raw, keep = await self._read(route, request, caller)
        if keep is None:
            return await self._run(route, request, tenant, path, caller, raw, None)
        async with self._keeper.lease(keep) as ours:
            # Also where the lease is ours: the first request may be long over, or Redis may have been away.
            if (known := await self._keeper.find(keep)) is not None:
                return Reply.of(known)
            if not ours:
                raise IdempotencyInProgress(retry_after=1.0)
            return await self._run(route, request, tenant, path, caller, raw, keep)

    async def _caller(self, route: Route, request: web.Request, tenant: TenantId) -> Identity | None:
        address = keys.client_of(request).address
        if not route.auth and route.sign_in is None:
            await self._spend(request, route.limit, address=address)
            return None
        try:
            if route.sign_in is not None:
                caller = await route.sign_in(request)
            else:
                caller = await self._authenticator.authenticate(tenant, bearer_token(request))
        except Unauthenticated:  # guessing tokens costs the address its allowance
            await self._spend(request, route.limit, address=address)
            raise
        request[keys.IDENTITY] = caller
        await self._spend(request, route.limit, address=address, user=caller.user)
        return caller

    async def _spend(
        self,
        request: web.Request,
        limit: Limit,
        *,
        address: str = "",
        user: UserId | None = None,
        account: str = "",
    ) -> None:
        if limit == "none":
            return
        verdict = await self._limiter.spend(limit, address=address, user=user, account=account)
        if verdict.headers:
            request.setdefault(keys.ANSWER_HEADERS, {}).update(verdict.headers)
        if not verdict.allowed:
            raise TooMany(retry_after=verdict.retry_after)

    async def _read(
        self, route: Route, request: web.Request, caller: Identity | None
    ) -> tuple[bytes, KeptAnswer | None]:
        takes_key = route.idempotent and caller is not None
        try:
            key = idempotency_key(request) if takes_key else None
            raw = await read_body(request) if route.body is not None or key is not None else b""
        except UNREADABLE:
            await self._check_visible(route, request, caller)
            raise
        if key is None or caller is None:
            return raw, None
        place = request.rel_url.raw_path.rstrip("/")
        return raw, KeptAnswer(caller.tenant, caller.user, key, fingerprint(request.method, place, raw))

    async def _run(
        self,
        route: Route,
        request: web.Request,
        tenant: TenantId,
        path: Mapping[str, str],
        caller: Identity | None,
        raw: bytes,
        keep: KeptAnswer | None,
    ) -> Reply | web.StreamResponse:
        body: BaseModel = NoBody()
        query: BaseModel = NoQuery()
        try:
            if route.body is not None:
                body = parse_body(request, raw, route.body, form=route.form)
            if route.query is not None:
                query = parse_query(request.query, route.query)
        except UNREADABLE:
            await self._check_visible(route, request, caller)
            raise
        if route.account is not None:
            account = f"{tenant}:{route.account(body).casefold()}"
            await self._spend(request, route.limit, account=account)
        return await route.handler(Call(request, tenant, body, query, path, keep, caller))

    @staticmethod
    async def _check_visible(route: Route, request: web.Request, caller: Identity | None) -> None:
        if route.visible is not None and caller is not None:
            await route.visible(request, caller)


def bearer_token(request: web.Request) -> str:
    """The token of ``Authorization: Bearer``. Raises Unauthenticated where there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated()
    return token


def idempotency_key(request: web.Request) -> str | None:
    """The request's key, by either name. Raises InvalidFields where it is not 1 to 255 characters of text."""
    for name in ("Idempotency-Key", "X-Idempotency-Key"):
        if (key := request.headers.get(name)) is not None:
            if not 1 <= len(key) <= MAX_KEY:
                raise InvalidFields([FieldError(name, f"must be 1 to {MAX_KEY} characters")])
            if not key.isprintable():  # surrogates stand for bytes that are not UTF-8
                raise InvalidFields([FieldError(name, "must be printable characters in UTF-8")])
            return key
    return None


def checked_path(values: Mapping[str, str]) -> Mapping[str, str]:
    """The values in a path, well formed. Raises NotFound: a malformed id names nothing."""
    for name, value in values.items():
        if name == "id" or name.endswith("_id"):
            if parse_id(value) is None:
                raise NotFound()
        elif name == "seq":
            parse_number(value)
        elif len(value) > MAX_PATH_TEXT or "\x00" in value:
            raise NotFound()
    return MappingProxyType(dict(values))


def response_of(route: Route, reply: Reply) -> web.Response:
    """The bytes of a reply."""
    content = reply.content
    body = content.model_dump_json().encode() if isinstance(content, BaseModel) else content
    response = web.Response(status=reply.status, body=body, headers=reply.headers)
    if body is not None and "Content-Type" not in reply.headers:
        response.headers["Content-Type"] = route.produces
    return response
