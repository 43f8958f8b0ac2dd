"""What every request passes through, from the outside in.

1. :mod:`requests`: request id, client, log line, metrics
2. :mod:`errors`: exceptions become problem+json
3. :mod:`preflight`: CORS
4. :mod:`tenants`: which tenant

Headers of answers are set when an answer starts (:mod:`headers`). Sign-in, rate limits, bodies and idempotency keys
belong to the route (:mod:`handlers.serving`), because they depend on it.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from handlers.origins import Origins
from server.drain import Ongoing
from server.metrics import Metrics
from server.middleware.errors import errors
from server.middleware.headers import answer_headers
from server.middleware.preflight import preflights
from server.middleware.proxies import Proxies
from server.middleware.requests import observe
from server.middleware.tenants import TenantDirectory, tenancy
from server.settings import Settings


def install(
    app: web.Application,
    settings: Settings,
    *,
    metrics: Metrics,
    tenants: TenantDirectory,
    origins: Origins,
    ongoing: Ongoing,
    draining: Callable[[], bool],
) -> None:
    """Puts the middlewares on an application, outermost first. While ``draining()``, answers close the connection."""
    app.middlewares.extend(
        [
            observe(metrics, Proxies(settings.trusted_proxies), ongoing),
            errors,
            preflights(origins),
            tenancy(tenants),
        ]
    )
    app.on_response_prepare.append(answer_headers(origins, draining))
