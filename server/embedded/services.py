"""The embedded services as one resource of an instance."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from server.data_dir import data_dir_error, prepare_data_dir
from server.embedded.postgres import EmbeddedPostgres
from server.embedded.redis import EmbeddedRedis
from server.embedded.sharing import Service, SharedService
from server.settings import Settings
from server.startup import StartupError

_CHECK_SECONDS = 1.0
_log: structlog.stdlib.BoundLogger = structlog.get_logger("parley.embedded")


class EmbeddedServices:
    """PostgreSQL and Redis for one instance: the given ones, or embedded ones under the data directory.

    An async context manager. Entering takes 1 to 4 s the first time and well under 1 s after that.
    Instances on one data directory share the services; leaving stops them if no other instance is left,
    also where an instance that was killed had started them. Blocking work runs in threads.

    Raises `StartupError` where a service cannot be started.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shared: list[SharedService] = []
        self._database_url = settings.database_url
        self._redis_url = settings.redis_url

    @property
    def data_dir(self) -> Path:
        """Where the embedded ones keep their data."""
        return self._settings.data_dir

    @property
    def database_url(self) -> str:
        """Where PostgreSQL is. Only inside the context."""
        assert self._database_url is not None
        return self._database_url

    @property
    def redis_url(self) -> str:
        """Where Redis is. Only inside the context."""
        assert self._redis_url is not None
        return self._redis_url

    async def __aenter__(self) -> Self:
        # A start in a thread cannot be cut short without leaving its service behind: cancelled, it ends first.
        try:
            await _whole(self._join())
        except BaseException:
            await _whole(self._leave())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _whole(self._leave())

    async def supervise(self) -> None:
        """Starts a service again that died under us. Runs until cancelled; needs the context."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            for shared in self._shared:
                try:
                    if await asyncio.to_thread(shared.heal):
                        _log.warning("embedded_service_restarted", service=shared.name)
                except (StartupError, OSError) as error:
                    _log.error("embedded_service_down", service=shared.name, problem=str(error))

    async def _join(self) -> None:
        data_dir = self._settings.data_dir
        self._shared = await asyncio.to_thread(_needed, self._settings)
        joins = (asyncio.to_thread(_join_service, shared, data_dir) for shared in self._shared)
        outcomes = await asyncio.gather(*joins, return_exceptions=True)
        for shared, outcome in zip(self._shared, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            if shared.name == EmbeddedPostgres.name:
                self._database_url = outcome
            else:
                self._redis_url = outcome

    async def _leave(self) -> None:
        shared, self._shared = self._shared, []
        outcomes = await asyncio.gather(*(asyncio.to_thread(s.leave) for s in shared), return_exceptions=True)
        for service, outcome in zip(shared, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                _log.error("embedded_service_not_stopped", service=service.name, problem=str(outcome))


def _needed(settings: Settings) -> list[SharedService]:
    services: list[Service] = []
    if settings.database_url is None:
        services.append(EmbeddedPostgres(settings.data_dir))
    if settings.redis_url is None:
        services.append(EmbeddedRedis(settings.data_dir))
    if not services:
        return []
    locks = prepare_data_dir(settings.data_dir)
    return [SharedService(service, locks) for service in services]


def _join_service(shared: SharedService, data_dir: Path) -> str:
    try:
        return shared.join()
    except OSError as error:
        raise data_dir_error(data_dir, error) from error


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` to its end even if the caller is cancelled meanwhile, then passes the cancellation on."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error from None
        raise
