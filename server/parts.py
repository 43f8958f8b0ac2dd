"""The parts of one instance, made and joined in one place."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import uuid4

import aiojobs
from redis.asyncio import Redis

from domain.ids import TenantId, UserId
from domain.log import View
from handlers.origins import Origins
from handlers.pacing import Paces
from handlers.realtime import Realtime
from realtime.bus import Bus
from realtime.hub import Hub, HubLimits
from realtime.log import LogReader
from realtime.places import NotFresh
from realtime.publisher import LogPublisher
from realtime.ring import Ring
from server.metrics import Metrics
from server.settings import Settings
from server.tasks import TaskSet
from services.batching import Batcher
from services.delivery import DeliveryMarks
from services.deployment import Deployment, ensure_deployment
from services.log_source import StoredLog
from services.message_commit import MessageCommitter
from services.receipts import Receipts
from services.security.tokens import TokenSigner
from services.sessions import SessionDirectory
from services.tickets import Tickets
from services.unit_of_work import UnitOfWork
from storage.database import Database
from storage.redis import connect

REDIS_SECONDS = 2.0
COMMANDS_A_SECOND = 50.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What an instance is made of, below HTTP."""

    settings: Settings
    database: Database
    vital: Database
    """Two connections that no request can keep busy: for the head of the log, for commits, and for ``/readyz``."""
    redis: Redis
    deployment: Deployment
    instance: str
    """Tells this instance from the others, and from what ran here before."""
    metrics: Metrics
    jobs: aiojobs.Scheduler
    tasks: TaskSet
    reader: LogReader
    bus: Bus
    hub: Hub
    uow: UnitOfWork
    committer: MessageCommitter
    tokens: TokenSigner
    directory: SessionDirectory
    receipts: Receipts
    marks: DeliveryMarks
    realtime: Realtime


async def make_parts(
    settings: Settings, stack: AsyncExitStack, *, database_url: str, redis_url: str
) -> Parts:
    """Connects to PostgreSQL and makes every part. ``stack`` takes what has to be closed. Raises Unavailable."""
    database = await stack.enter_async_context(Database(database_url, pool_size=settings.database_pool_size))
    # One connection reads the head and one commits messages, whatever else keeps the pool busy.
    vital = await stack.enter_async_context(Database(database_url, pool_size=2))
    redis = connect(redis_url, seconds=REDIS_SECONDS)
    stack.push_async_callback(redis.aclose)
    assert settings.secret_key is not None, "the start makes a key where none is given"
    secret = settings.secret_key.get_secret_value()
    previous = [key.get_secret_value() for key in settings.previous_secret_keys]
    deployment = await ensure_deployment(database, secret_key=secret, previous_secret_keys=previous)
    metrics = Metrics()
    jobs = aiojobs.Scheduler(limit=None, close_timeout=5.0)
    tasks = TaskSet()
    source = StoredLog(database, vital)
    ring = Ring(max_events=settings.ring_events, max_bytes=settings.ring_bytes)
    reader = LogReader(source, ring, metrics, time.monotonic)
    instance = _instance_name()
    bus = Bus(redis, str(deployment.id), instance, gap=reader.poke)
    publisher = LogPublisher(reader, bus, metrics)
    hub = Hub(
        reader,
        source,
        _ViewLoader(source, jobs),
        metrics,
        clock=time.monotonic,
        wall=time.time,
        spawn=tasks.start,
        limits=HubLimits(
            heartbeat=settings.heartbeat_seconds,
            queue_events=settings.session_queue_events,
            queue_bytes=settings.session_queue_bytes,
        ),
    )
    uow = UnitOfWork(database, publisher, jobs)
    committer = MessageCommitter(vital, publisher, metrics, max_waiting=settings.commit_queue_items)
    tokens = TokenSigner(
        secret,
        previous,
        issuer=settings.issuer,
        audience=settings.audience,
        access_seconds=settings.access_token_seconds,
    )
    directory = SessionDirectory(database, tokens, jobs, fresh=lambda: reader.fresh)
    hub.revoked = directory.forget
    hub.missed = directory.forget_all
    receipts = Receipts(database, uow, jobs)
    marks = DeliveryMarks(receipts)
    realtime = Realtime(
        hub=hub,
        directory=directory,
        tickets=Tickets(database, uow, tokens, directory, jobs),
        origins=Origins(settings.allowed_origins),
        marks=marks,
        metrics=metrics,
        spawn=tasks.start,
        max_per_user=settings.max_connections_per_user,
        max_connections=settings.max_connections,
        paces=Paces(COMMANDS_A_SECOND) if settings.rate_limits else None,
    )
    return Parts(
        settings,
        database,
        vital,
        redis,
        deployment,
        instance,
        metrics,
        jobs,
        tasks,
        reader,
        bus,
        hub,
        uow,
        committer,
        tokens,
        directory,
        receipts,
        marks,
        realtime,
    )


def _instance_name() -> str:
    return f"{os.getpid():x}-{uuid4().hex[:12]};"


class _ViewLoader:
    """What users may read, many users to a query."""

    def __init__(self, source: StoredLog, jobs: aiojobs.Scheduler) -> None:
        self._source = source
        self._batcher: Batcher[tuple[TenantId, UserId], View] = Batcher(self._load, jobs)

    async def __call__(self, key: tuple[TenantId, UserId]) -> View:
        view = await self._batcher.get(key)
        if view is None:
            raise NotFresh
        return view

    async def _load(self, keys: Sequence[tuple[TenantId, UserId]]) -> dict[tuple[TenantId, UserId], View]:
        views = await self._source.views(keys)
        return {key: views[key[1]] for key in keys if key[1] in views}
