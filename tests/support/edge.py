"""A small application behind the real edge: real middlewares, PostgreSQL and Redis, a few routes of its own."""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import aiojobs
from aiohttp import web
from pydantic import Field

from domain.errors import Forbidden, NotFound, Unauthenticated
from domain.identity import Identity, Permission
from domain.ids import DEFAULT_TENANT, SessionId, TenantId, UserId, new_id
from domain.log import StoredEvent
from domain.resources import Resource
from handlers.endpoint import Call, Limit, Reply, Route
from handlers.origins import Origins
from handlers.schemas.common import Body, NoQuery, PageQuery
from handlers.serving import Edge, Limiter, register_routes
from server.drain import Ongoing
from server.metrics import Metrics
from server.middleware import install
from server.protocol import Runner
from server.ratelimits import ALLOWANCES, NoLimits, RateLimits, Scope
from server.settings import Settings
from services.idempotency import KeptAnswers, answer_of, run_kept
from services.unit_of_work import Transaction, UnitOfWork
from storage.database import Database
from storage.idempotency import Leases
from storage.redis import connect

INSERT_USER = """
INSERT INTO users (tenant_id, id, username, email, password_hash, display_name)
VALUES ($1, $2, $3, $3 || '@example.com', '', $3)
"""
SECRET_THING = "0192f0c0-0000-7000-8000-000000000001"
"""A thing that nobody may know of."""


class Thing(Resource):
    id: uuid.UUID
    name: str


class ThingCreate(Body):
    name: str = Field(min_length=1, max_length=10)
    size: int | None = Field(None, ge=1, le=100)
    tags: list[str] = Field(default_factory=list, max_length=5)


class AllOptional(Body):
    flag: bool = False


class Tokens:
    """Tokens are user ids. ``bad`` and everything else is refused."""

    async def authenticate(self, tenant: TenantId, access_token: str, /) -> Identity:
        try:
            user = UserId(uuid.UUID(access_token))
        except ValueError:
            raise Unauthenticated() from None
        return Identity(tenant, user, SessionId(user), Permission.NONE, 2**33)


class Hosts:
    """One tenant beside the default one."""

    ACME = TenantId(uuid.UUID("0192f0c0-0000-7000-8000-00000000acee"))

    async def of_host(self, host: str, /) -> TenantId:
        name = host.partition(":")[0]
        if name == "acme.parley.test":
            return self.ACME
        if name.endswith(".parley.test"):
            raise NotFound()
        return DEFAULT_TENANT


class Silent:
    def committed(self, events: Sequence[StoredEvent]) -> None:
        pass


@dataclass
class EdgeApp:
    """The parts a test may look at or turn."""

    url: str = ""
    draining: bool = False
    created: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Creating a thing named ``slow`` waits for it, inside the transaction."""
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    metrics: Metrics = field(default_factory=Metrics)
    tokens: dict[str, str] = field(default_factory=dict)
    database: Database | None = None
    uow: UnitOfWork | None = None
    session: aiohttp.ClientSession | None = None
    kept: KeptAnswers | None = None

    async def create(self, call: Call[ThingCreate, NoQuery]) -> Reply:
        assert self.uow is not None
        body = call.body

        async def work(tx: Transaction) -> Thing:
            self.entered.set()
            if body.name == "slow":
                await self.gate.wait()
            if body.name == "forbidden":
                raise Forbidden()
            self.created.append(body.name)
            return Thing(id=new_id(), name=body.name)

        return Reply.of(await run_kept(self.uow, call.keep, work, lambda thing: answer_of(201, thing)))

    async def raw(self, request: bytes) -> bytes:
        """Sends bytes as they are and reads until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        try:
            writer.write(request)
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()

    async def call(self, method: str, path: str, **options: Any) -> Answered:
        """Sends a request as the user ``as_user`` (None: as nobody)."""
        assert self.session is not None
        as_user = options.pop("as_user", None)
        headers = dict(options.pop("headers", {}))
        if as_user is not None:
            headers["Authorization"] = f"Bearer {self.tokens[as_user]}"
        if isinstance(options.get("data"), bytes):
            options["data"] = io.BytesIO(options["data"])
        async with self.session.request(method, self.url + path, headers=headers, **options) as response:
            return await Answered.read(response)


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes
    json: Any

    @classmethod
    async def read(cls, response: aiohttp.ClientResponse) -> Self:
        body = await response.read()
        is_json = response.content_type.endswith("json") and body
        return cls(
            response.status,
            response.headers,
            body,
            await response.json(content_type=None) if is_json else None,
        )

    @property
    def pointers(self) -> list[str]:
        return [error["pointer"] for error in self.json["errors"]]


def routes(app: EdgeApp) -> list[Route]:
    async def show(call: Call[Any, Any]) -> Reply:
        return Reply(200, Thing(id=call.id("id"), name=str(call.identity.user)))

    async def visible(request: web.Request, identity: Identity, /) -> None:
        if request.match_info.get("id") == SECRET_THING:
            raise NotFound()

    async def create_in(call: Call[ThingCreate, NoQuery]) -> Reply:
        await visible(call.request, call.identity)
        return await app.create(call)

    async def listing(call: Call[Any, PageQuery]) -> Reply:
        return Reply(200, f"{call.query.limit} {call.query.cursor}".encode())

    async def open_to_all(call: Call[Any, Any]) -> Reply:
        return Reply(200, f"{call.client.address} {call.client.scheme} {call.tenant}".encode())

    async def broken(call: Call[Any, Any]) -> Reply:
        raise RuntimeError("a secret detail")

    async def late(call: Call[Any, Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(call.request)
        await response.write(b"begun")
        raise RuntimeError("after the start")

    async def waits(call: Call[Any, Any]) -> Reply:
        app.entered.set()
        await app.gate.wait()
        return Reply(204)

    async def login(call: Call[ThingCreate, NoQuery]) -> Reply:
        return Reply(204)

    async def optional(call: Call[AllOptional, NoQuery]) -> Reply:
        return Reply(200, str(call.body.flag).encode())

    def route(
        method: str, path: str, handler: Callable[[Call[Any, Any]], Awaitable[Any]], **more: Any
    ) -> Route:
        return Route(method, path, handler, "A test route", "Tests", **more)

    thing = {"answers": {201: Thing}, "body": ThingCreate, "idempotent": True, "limit": "write"}
    return [
        route("GET", "/api/v1/things/{id}", show, answers={200: Thing}, visible=visible, query=PageQuery),
        route("POST", "/api/v1/things", app.create, **thing),
        route("POST", "/api/v1/things/{id}/parts", create_in, visible=visible, **thing),
        route("GET", "/api/v1/things", listing, query=PageQuery, produces="text/plain"),
        route("GET", "/api/v1/open", open_to_all, auth=False, produces="text/plain"),
        route("GET", "/api/v1/broken", broken, auth=False),
        route("GET", "/api/v1/late", late, auth=False),
        route("GET", "/api/v1/waits", waits, auth=False, stream=True),
        route(
            "POST", "/api/v1/login", login, auth=False, body=ThingCreate, form=True, limit="auth",
            account=lambda body: body.name,
        ),
        route("POST", "/api/v1/optional", optional, auth=False, body=AllOptional, produces="text/plain"),
    ]  # fmt: skip


@asynccontextmanager
async def edge_app(
    database_url: str,
    redis_url: str,
    *,
    limits: Mapping[Limit, Mapping[Scope, str]] | None = None,
    settings: Settings | None = None,
    users: Sequence[str] = ("ada", "bob"),
) -> AsyncIterator[EdgeApp]:
    """Serves the application on a free port, with the users given."""
    if settings is None:
        settings = await asyncio.to_thread(Settings)
    app = EdgeApp()
    async with AsyncExitStack() as stack:
        app.database = database = await stack.enter_async_context(Database(database_url, pool_size=4))
        redis = connect(redis_url)
        stack.push_async_callback(redis.aclose)
        jobs = aiojobs.Scheduler()
        stack.push_async_callback(jobs.close)
        app.uow = UnitOfWork(database, Silent(), jobs)
        prefix = f"test:{uuid.uuid4().hex}:"
        limiter: Limiter = NoLimits()
        if limits is not None:
            limiter = RateLimits(
                redis.connection_pool,
                prefix=prefix,
                limited=app.metrics.rate_limited,
                allowances={**ALLOWANCES, **limits},
                clock=lambda: 1_000_000_040.0,  # never at the edge of a window
            )
        app.kept = KeptAnswers(database, Leases(redis, prefix=prefix))
        edge = Edge(authenticator=Tokens(), limiter=limiter, keeper=app.kept)
        application = web.Application(client_max_size=settings.max_body_bytes)
        install(
            application,
            settings,
            metrics=app.metrics,
            tenants=Hosts(),
            origins=Origins(settings.allowed_origins),
            ongoing=Ongoing(),
            draining=lambda: app.draining,
        )
        register_routes(application, routes(app), edge)
        async with database.connection() as connection:
            for name in users:
                app.tokens[name] = str(new_id())
                await connection.execute(INSERT_USER, DEFAULT_TENANT, uuid.UUID(app.tokens[name]), name)
        runner = Runner(application, shutdown_timeout=2)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        app.url = f"http://{host}:{port}"
        app.session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20), auto_decompress=True)
        )
        yield app
        app.gate.set()
