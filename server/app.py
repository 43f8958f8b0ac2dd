"""The composition root: joins the parts to HTTP, and says in which order they start and stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import aiojobs
import structlog
from aiohttp import web

from handlers import keys
from handlers.ops import COMMANDS
from handlers.routes import ROUTES
from handlers.service import Readiness
from handlers.serving import Edge, register_routes
from server import asyncapi, health, middleware, openapi
from server.docs import documents
from server.drain import Drain
from server.fast_polls import FastPolls
from server.live import Live, make_live
from server.parts import Parts, make_parts
from server.protocol import FAST_POLLS
from server.ratelimits import NoLimits, RateLimits
from server.settings import Settings
from server.tasks import forever
from services.accounts import Accounts
from services.admin import Admin
from services.blocks import Blocks
from services.conversations import Conversations
from services.idempotency import KeptAnswers
from services.members import GroupDeparture, Members
from services.messages import Messages
from services.profiles import Profiles
from services.reactions import Reactions
from services.retention import Retention
from services.security.passwords import PasswordHasher
from services.sign_ins import SignIns
from services.tenants import Tenants
from services.upkeep import SignInUpkeep
from storage.idempotency import Leases

logger = structlog.get_logger(__name__)

DRAIN: web.AppKey[Drain] = web.AppKey("drain", Drain)


async def create_app(settings: Settings, *, database_url: str, redis_url: str) -> web.Application:
    """An application on a migrated database. Closing it closes all it opened. Raises Unavailable."""
    async with AsyncExitStack() as stack:
        parts = await make_parts(settings, stack, database_url=database_url, redis_url=redis_url)
        app = web.Application(client_max_size=settings.max_body_bytes)
        live = make_live(parts)
        app[DRAIN] = drain = Drain(parts.hub, live.presence_here, grace=settings.drain_grace_seconds)
        _services(app, parts, live)
        await _pages(app, parts, drain)
        _edge(app, parts, drain)
        app.cleanup_ctx.append(_lifetime(parts, live, stack.pop_all()))
        return app


def _services(app: web.Application, parts: Parts, live: Live) -> None:
    """Every service under its key. Services know the parts, never each other's insides."""
    settings, database, uow = parts.settings, parts.database, parts.uow
    passwords = PasswordHasher(rounds=settings.bcrypt_rounds)
    sign_ins = SignIns(
        database,
        uow,
        parts.tokens,
        passwords,
        parts.directory,
        refresh_seconds=settings.refresh_token_seconds,
        refresh_leeway_seconds=settings.refresh_leeway_seconds,
    )
    members = Members(database, uow)
    accounts = Accounts(
        database,
        uow,
        passwords,
        sign_ins,
        parts.directory,
        departure=GroupDeparture(uow),
        changed=live.visibility_changed,
    )
    app[keys.SIGN_INS] = sign_ins
    app[keys.ACCOUNTS] = accounts
    app[keys.ADMIN] = Admin(database, uow, accounts, parts.directory)
    app[keys.PROFILES] = Profiles(database, uow, changed=live.visibility_changed)
    app[keys.BLOCKS] = Blocks(database, uow, changed=live.visibility_changed)
    app[keys.TICKETS] = parts.realtime.tickets
    app[keys.CONVERSATIONS] = Conversations(database, uow)
    app[keys.MEMBERS] = members
    app[keys.MESSAGES] = Messages(database, uow, parts.committer)
    app[keys.REACTIONS] = Reactions(uow)
    app[keys.RECEIPTS] = parts.receipts
    app[keys.COMMITTER] = parts.committer
    app[keys.REALTIME] = parts.realtime
    app[keys.COMMANDS] = COMMANDS
    app[keys.TYPING] = live.typing
    app[keys.PRESENCE] = live.presence
    app.cleanup_ctx.append(_entered(passwords))


def _entered(resource: PasswordHasher) -> Callable[[web.Application], AsyncIterator[None]]:
    async def context(app: web.Application) -> AsyncIterator[None]:
        async with resource:
            yield

    return context


async def _pages(app: web.Application, parts: Parts, drain: Drain) -> None:
    """Health, metrics and the documents."""
    app[keys.READINESS] = Readiness(
        {
            "database": health.database_check(parts.vital),
            "log": health.flag_check(lambda: parts.reader.fresh, "the log has not been read for a second"),
            "redis": health.redis_check(parts.redis),
            "secret_key": health.flag_check(
                lambda: parts.deployment.key_matches,
                "PARLEY_SECRET_KEY is not the one this database was used with",
            ),
        },
        draining=lambda: drain.begun,
    )
    app[keys.SCRAPE] = parts.metrics
    document = openapi.encode(openapi.build(ROUTES))
    protocol = openapi.encode(asyncapi.build(COMMANDS))
    app[keys.DOCUMENTS] = await asyncio.to_thread(documents, document, protocol)


def _edge(app: web.Application, parts: Parts, drain: Drain) -> None:
    """Middlewares and routes."""
    namespace = f"parley:{parts.deployment.id}:"
    limiter = (
        RateLimits(parts.redis.connection_pool, prefix=namespace, limited=parts.metrics.rate_limited)
        if parts.settings.rate_limits
        else NoLimits()
    )
    keeper = KeptAnswers(parts.database, Leases(parts.redis, prefix=namespace))
    register_routes(app, ROUTES, Edge(authenticator=parts.directory, limiter=limiter, keeper=keeper))
    app[FAST_POLLS] = FastPolls(
        parts.realtime,
        limiter,
        parts.metrics.repeated_polls,
        drain.ongoing,
        draining=lambda: drain.begun,
        spawn=parts.tasks.start,
        limited=parts.settings.rate_limits,
    )
    middleware.install(
        app,
        parts.settings,
        metrics=parts.metrics,
        tenants=Tenants(parts.database, parts.jobs, base_domain=parts.settings.base_domain),
        origins=parts.realtime.origins,
        ongoing=drain.ongoing,
        draining=lambda: drain.begun,
    )


def _watch(parts: Parts) -> None:
    """What is asked at each scrape."""
    metrics, loop = parts.metrics, asyncio.get_running_loop()
    metrics.watch_redis(lambda: parts.bus.connected)
    metrics.watch_tasks(lambda: len(asyncio.all_tasks(loop)))
    metrics.watch_depth("sessions", lambda: len(parts.hub))
    metrics.watch_depth("commits", lambda: len(parts.committer))
    metrics.watch_cache("ring", lambda: len(parts.reader.ring))
    metrics.watch_cache("sign-ins", lambda: len(parts.directory))
    metrics.watch_cache("tokens", lambda: parts.tokens.remembered)


def _lifetime(
    parts: Parts, live: Live, stack: AsyncExitStack
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Starts and stops what runs by itself.

    Stopping: no message is taken any more and every one taken is answered; what has arrived where is stored; writes
    under way end; the loops end; the connections close.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with stack:
            # Who comes back after a deploy is served from memory, too.
            await parts.reader.start(parts.settings.ring_events)
            parts.hub.start()
            loops = aiojobs.Scheduler(limit=None, close_timeout=5.0)
            retention = Retention(parts.database, keep_hours=parts.settings.log_retention_hours)
            for name, run in {
                "tasks": parts.tasks.run,
                "log": parts.reader.run,
                "bus": parts.bus.run,
                "hub": parts.hub.run,
                "commits": parts.committer.run,
                "delivery": parts.marks.run,
                "sign-ins": parts.directory.run,
                "upkeep": SignInUpkeep(parts.database).run,
                "retention": retention.run,
                "kept answers": KeptAnswers(parts.database).run,
                **live.loops,
            }.items():
                await loops.spawn(forever(name, run))
            _watch(parts)
            yield
            await parts.committer.close()
            await parts.marks.flush()
            await parts.jobs.wait_and_close(5.0)
            await loops.close()

    return context
