"""Runs one instance from start to stop: services, schema, the application, and the order of leaving."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator

import structlog
from aiohttp import web

from server.data_dir import with_secret_key
from server.embedded import EmbeddedServices
from server.preflight import FEWEST_DESCRIPTORS, check_redis, few_descriptors, migrate_database
from server.protocol import Runner
from server.settings import Settings, unknown_names
from server.startup import StartupError

_log: structlog.stdlib.BoundLogger = structlog.get_logger("parley.serve")
_BACKLOG = 65_535  # the kernel takes its own limit (net.core.somaxconn) where that is lower


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP. Calls `announce` with the banner once it accepts requests.

    Leaves in this order: drain (sessions sent away in batches, then the last requests answered), the application's
    own cleanup (pools last), then the embedded services if no other instance uses them. A second signal cuts the drain
    short.
    Raises `StartupError` where it cannot start.
    """
    with _stop_on_signals() as stop, _listening(settings) as sockets:
        settings = await asyncio.to_thread(with_secret_key, settings)
        for name, meant in unknown_names(os.environ).items():
            _log.warning("unknown_setting", name=name, did_you_mean=meant)
        if (limit := few_descriptors()) is not None:
            _log.warning("few_descriptors", limit=limit, advised=FEWEST_DESCRIPTORS)
        async with EmbeddedServices(settings) as services:
            await migrate_database(services.database_url)
            await _note_redis(services.redis_url)
            if not stop.is_set():
                await _serve_application(settings, services, sockets, stop, announce)


async def _serve_application(
    settings: Settings,
    services: EmbeddedServices,
    sockets: list[socket.socket],
    stop: asyncio.Event,
    announce: Callable[[str], None],
) -> None:
    from server.app import DRAIN, create_app
    from server.drain import stop_listening

    app = await create_app(settings, database_url=services.database_url, redis_url=services.redis_url)
    # Also cancels handlers: a client that went away must not leave its long poll behind.
    runner = Runner(app)
    await runner.setup()
    try:
        for listening in sockets:
            try:
                await web.SockSite(runner, listening, backlog=_BACKLOG).start()
            except OSError as error:
                raise _address_error(settings, error) from error
        _settle_garbage_collection()
        announce(banner(settings, sockets[0]))
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(services.supervise())
            await stop.wait()
            await app[DRAIN].announce()
            await stop_listening(runner, sockets)
            await app[DRAIN].send_away()
            await runner.hang_up()
            await app[DRAIN].answer_the_last()
            watching.cancel()
        _log.info("stopping")
    finally:
        await runner.cleanup()


def _settle_garbage_collection() -> None:
    """Takes what lives for ever out of the collector's sight, and has it look at the rest less often.

    By default every 70,000 new objects start a pass over all there are: with many connections open that was a sixth of
    the server's time under load, and pauses long enough to be taken for a log that cannot be read. Nearly all garbage
    here is freed by its reference count at once.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _note_redis(url: str) -> None:
    """Redis is never the truth, so an instance starts without it; the operator should know."""
    try:
        await check_redis(url)
    except StartupError as error:
        _log.warning("redis_unreachable", problem=str(error))


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[asyncio.Event]:
    """An event that the first signal sets; the second cancels the task, which then leaves without a drain."""
    loop, stop, task = asyncio.get_running_loop(), asyncio.Event(), asyncio.current_task()
    assert task is not None

    def heard() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    heeded = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for each in heeded:
        loop.add_signal_handler(each, heard)
    try:
        yield stop
    finally:
        for each in heeded:
            loop.remove_signal_handler(each)


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """Bound sockets, taken before anything else is started: a port that is taken should be said at once."""
    sockets: list[socket.socket] = []
    try:
        try:
            _bind(settings, sockets)
        except OSError as error:
            raise _address_error(settings, error) from error
        yield sockets
    finally:
        for made in sockets:
            made.close()


def _bind(settings: Settings, sockets: list[socket.socket]) -> None:
    addresses = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
    )
    if settings.port == 0:
        addresses = addresses[:1]  # each would get another port
    for family, kind, protocol, _, address in dict.fromkeys(addresses):
        made = socket.socket(family, kind, protocol)
        sockets.append(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.setblocking(False)


def _address_error(settings: Settings, error: OSError) -> StartupError:
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return StartupError(
            f"port {settings.port} on {settings.host} is taken by another program.",
            f"Stop that one, or choose another: PARLEY_PORT={settings.port + 1 if settings.port < 65535 else 8080}.",
        )
    if error.errno == errno.EACCES:
        return StartupError(f"no right to listen on {where}.", "Choose a PARLEY_PORT of 1024 or above.")
    reason = (error.strerror or str(error)).lower()
    return StartupError(f"cannot listen on {where}: {reason}.", "Correct PARLEY_HOST or PARLEY_PORT.")


def banner(settings: Settings, listening: socket.socket) -> str:
    """What a newcomer needs to see: where things are and what to type next."""
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    url = f"http://{shown}:{port}"
    data = settings.data_dir
    postgres = "given by DATABASE_URL" if settings.database_url else f"embedded, in {data / 'postgres'}"
    redis = "given by REDIS_URL" if settings.redis_url else "embedded"
    return f"""
  Parley is running at {url}

    docs         {url}/api/docs/
    health       {url}/healthz
    data         {data}
    PostgreSQL   {postgres}
    Redis        {redis}

  Make an account:

    curl -s {url}/api/v1/auth/register -H 'Content-Type: application/json' \\
      -d '{{"username": "ada", "email": "ada@example.com", "password": "correct horse"}}'

  Ctrl-C stops it.
"""
