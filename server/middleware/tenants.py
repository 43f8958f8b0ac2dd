"""Which tenant a request is for: the name before the base domain says it."""

from __future__ import annotations

import re
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from domain.errors import NotFound
from domain.ids import DEFAULT_TENANT, TenantId
from handlers import keys

SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""One DNS label (RFC 1123), as the tenants table wants it."""

EVERYWHERE = frozenset({"/healthz", "/readyz", "/metrics"})
"""Of the instance, not of a tenant: balancers ask them under any name."""


class TenantDirectory(Protocol):
    """Knows tenants by their slug. ``services.tenants`` has one."""

    async def resolve(self, slug: str, /) -> TenantId | None:
        """The tenant, or None where there is none of that name."""
        ...


def tenancy(directory: TenantDirectory, base_domain: str | None) -> Middleware:
    """Makes the middleware. Without a base domain, and under any other host, it is the default tenant."""

    @web.middleware
    async def find_tenant(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[keys.TENANT] = await _tenant(request)
        return await handler(request)

    async def _tenant(request: web.Request) -> TenantId:
        if base_domain is None or request.path in EVERYWHERE:
            return DEFAULT_TENANT
        slug = slug_of(keys.client_of(request).host, base_domain)
        if slug is None:
            return DEFAULT_TENANT
        tenant = await directory.resolve(slug) if SLUG.fullmatch(slug) else None
        if tenant is None:
            raise NotFound()
        return tenant

    return find_tenant


def slug_of(host: str, base_domain: str) -> str | None:
    """``acme`` for ``acme.chat.example`` under ``chat.example``; None for the base domain and for foreign hosts."""
    name = host.lower()
    if not name.startswith("["):  # an IPv6 address has colons of its own
        name = name.partition(":")[0]
    name = name.rstrip(".")
    suffix = f".{base_domain}"
    return name.removesuffix(suffix) if name.endswith(suffix) else None
