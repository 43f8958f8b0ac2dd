"""The service's own pages: alive, ready, metrics, the documents of the contract and the page that shows them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from domain.errors import NotFound
from handlers import keys
from handlers.endpoint import Call, Reply, Route
from handlers.schemas.common import NoBody, NoQuery

PartStatus = Literal["ok", "degraded", "down"]
CHECK_SECONDS = 2.0
OPTIONAL_SECONDS = 0.5
"""For what is not vital: many balancers wait 1 s, and must not take a frozen Redis for a dead instance."""
REPORT_SECONDS = 0.25
"""How long one report is given again: many balancers may ask at once, and none may tire the database."""

DOCS_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""The docs page is of our own and the package's files only. The viewer sets inline styles; scripts never are inline."""


class Alive(BaseModel):
    model_config = ConfigDict(extra="forbid")

    status: Literal["ok"] = "ok"


class PartReport(BaseModel):
    model_config = ConfigDict(extra="forbid")

    status: PartStatus
    detail: str | None = Field(None, description="What is wrong, in a few words.")
    milliseconds: float = Field(description="How long the check took.")


class ReadyReport(BaseModel):
    """Whether this instance should be sent requests, and how each of its parts is."""

    model_config = ConfigDict(extra="forbid")

    status: PartStatus = Field(
        description="`ok`; `degraded`: all that is durable works; `down`: send requests elsewhere."
    )
    parts: dict[str, PartReport]


@dataclass(frozen=True, slots=True)
class Part:
    """How one part is. ``detail`` is shown to anyone, so it names no host and no secret."""

    status: PartStatus
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """How to find out. ``vital`` False: where this part is down, the instance is degraded, not down."""

    run: Callable[[], Awaitable[Part]]
    vital: bool = True


class Readiness:
    """Asks every part at once, the vital within 2 s, the others within 0.5 s. Who raises or is late is ``down``."""

    def __init__(
        self,
        checks: Mapping[str, Check],
        *,
        draining: Callable[[], bool],
        timeout: float = CHECK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = dict(checks)
        self._draining = draining
        self._timeout = timeout
        self._clock = clock
        self._made_at = -math.inf
        self._parts: Mapping[str, PartReport] = {}
        self._checking = asyncio.Lock()

    async def report(self) -> ReadyReport:
        """The state of all parts, :data:`REPORT_SECONDS` old at most; draining shows at once."""
        # One asks, the others wait for its answer: many balancers cost no more than one.
        async with self._checking:
            if self._clock() - self._made_at >= REPORT_SECONDS:
                await self._ask()
        leaving = self._draining()
        drain = PartReport(
            status="down" if leaving else "ok", detail="leaving" if leaving else None, milliseconds=0
        )
        return ReadyReport(
            status="down" if leaving else self._overall(self._parts), parts={**self._parts, "drain": drain}
        )

    async def _ask(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(self._check(check)) for name, check in self._checks.items()}
        self._parts = {name: task.result() for name, task in tasks.items()}
        self._made_at = self._clock()

    async def _check(self, check: Check) -> PartReport:
        began = self._clock()
        seconds = self._timeout if check.vital else min(self._timeout, OPTIONAL_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                part = await check.run()
        except TimeoutError:
            part = Part("down", f"no answer within {seconds:g} s")
        except Exception as error:
            part = Part("down", f"cannot be reached ({type(error).__name__})")
        spent = round((self._clock() - began) * 1000, 1)
        return PartReport(status=part.status, detail=part.detail, milliseconds=spent)

    def _overall(self, parts: Mapping[str, PartReport]) -> PartStatus:
        if any(parts[name].status == "down" and check.vital for name, check in self._checks.items()):
            return "down"
        return "ok" if all(part.status == "ok" for part in parts.values()) else "degraded"


class Scrape(Protocol):
    """What ``/metrics`` shows. ``server.metrics.Metrics`` is one."""

    def render(self) -> bytes:
        """The metrics as text. Reads files, so it runs in a thread."""
        ...


@dataclass(frozen=True, slots=True)
class Documents:
    """The contract as documents, and the page that shows them. Made once at start."""

    openapi: bytes
    asyncapi: bytes
    page: bytes
    assets: Mapping[str, Path]
    """Files of the page by name: nothing else is ever served from disk."""


METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def get_health(call: Call[NoBody, NoQuery]) -> Reply:
    return Reply(200, Alive())


async def get_readiness(call: Call[NoBody, NoQuery]) -> Reply:
    report = await call.app[keys.READINESS].report()
    if report.status != "down":
        return Reply(200, report)
    return Reply(503, report, {"Retry-After": "1"})


async def get_metrics(call: Call[NoBody, NoQuery]) -> Reply:
    return Reply(200, await asyncio.to_thread(call.app[keys.SCRAPE].render))


async def get_openapi(call: Call[NoBody, NoQuery]) -> Reply:
    return Reply(200, call.app[keys.DOCUMENTS].openapi, {"Cache-Control": "no-cache"})


async def get_asyncapi(call: Call[NoBody, NoQuery]) -> Reply:
    return Reply(200, call.app[keys.DOCUMENTS].asyncapi, {"Cache-Control": "no-cache"})


async def get_docs(call: Call[NoBody, NoQuery]) -> Reply:
    headers = {"Content-Security-Policy": DOCS_CSP, "Cache-Control": "no-cache"}
    return Reply(200, call.app[keys.DOCUMENTS].page, headers)


async def get_docs_asset(call: Call[NoBody, NoQuery]) -> web.StreamResponse:
    path = call.app[keys.DOCUMENTS].assets.get(call.path["asset"])
    if path is None:
        raise NotFound()
    return web.FileResponse(path, headers={"Cache-Control": "public, max-age=86400"})


def _page(
    path: str,
    handler: Callable[[Call[NoBody, NoQuery]], Awaitable[Reply | web.StreamResponse]],
    summary: str,
    *,
    answers: Mapping[int, type[BaseModel] | None] = MappingProxyType({200: None}),
    produces: str = "application/json",
    description: str = "",
    errors: tuple[int, ...] = (),
) -> Route:
    """A page anyone may ask for, as often as they like."""
    return Route(
        "GET",
        path,
        handler,
        summary,
        "Service",
        answers=answers,
        errors=errors,
        description=description,
        auth=False,
        limit="none",
        produces=produces,
    )


ROUTES = (
    _page("/healthz", get_health, "Whether the process is alive.", answers={200: Alive}),
    _page(
        "/readyz",
        get_readiness,
        "Whether to send requests here, part by part.",
        answers={200: ReadyReport, 503: ReadyReport},
        description="503 where a part it cannot do without is down, and while it drains.",
    ),
    _page("/metrics", get_metrics, "Prometheus metrics.", produces=METRICS_TYPE),
    _page("/api/v1/openapi.json", get_openapi, "This document."),
    _page("/api/v1/asyncapi.json", get_asyncapi, "The realtime protocol, as AsyncAPI 3.0."),
    _page("/api/docs/", get_docs, "The documentation to click through.", produces="text/html; charset=utf-8"),
    _page(
        "/api/docs/{asset}",
        get_docs_asset,
        "A file of that page.",
        errors=(404,),
        produces="application/octet-stream",
    ),
)
