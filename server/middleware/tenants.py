"""Which tenant a request is for: the host it asked for says it."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from domain.ids import DEFAULT_TENANT, TenantId
from handlers import keys

EVERYWHERE = frozenset({"/healthz", "/readyz", "/metrics"})
"""Of the instance, not of a tenant: balancers ask them under any name."""


class TenantDirectory(Protocol):
    """Knows tenants by the host they are reached at. ``services.tenants.Tenants`` is one."""

    async def of_host(self, host: str, /) -> TenantId:
        """The tenant of a ``Host`` header. Raises NotFound, Unavailable."""
        ...


def tenancy(directory: TenantDirectory) -> Middleware:
    """Makes the middleware."""

    @web.middleware
    async def find_tenant(request: web.Request, handler: Handler) -> web.StreamResponse:
        everywhere = request.path.rstrip("/") in EVERYWHERE
        host = keys.client_of(request).host
        request[keys.TENANT] = DEFAULT_TENANT if everywhere else await directory.of_host(host)
        return await handler(request)

    return find_tenant
