"""Tenants: separate workspaces of one deployment, told apart by subdomain."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import aiojobs

from domain.errors import AlreadyTaken, FieldError, InvalidFields, NotFound
from domain.ids import DEFAULT_TENANT, TenantId, new_id
from services.batching import Batcher
from services.unit_of_work import Transaction, UnitOfWork
from storage import tenants
from storage.database import Database

SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
UNKNOWN_FOR_SECONDS = 5.0


def subdomain_of(host: str, base_domain: str | None) -> str:
    """The part of a ``Host`` before ``.base_domain``, in lower case; empty where it is not below it.

    An address, the base domain itself and any host outside it mean the default tenant, so that a health check or a
    single-tenant installation needs no name.
    """
    if base_domain is None:
        return ""
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    name = name.lower().rstrip(".")
    return name.removesuffix(f".{base_domain}") if name.endswith(f".{base_domain}") else ""


class Tenants:
    """Finds the tenant of a request. What exists is remembered for good (tenants are never deleted), what does not
    for 5 s; at most ``capacity`` names are."""

    def __init__(
        self,
        database: Database,
        jobs: aiojobs.Scheduler,
        *,
        base_domain: str | None = None,
        capacity: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._base_domain = base_domain
        self._capacity = capacity
        self._clock = clock
        self._known: OrderedDict[str, TenantId] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._batcher: Batcher[str, TenantId] = Batcher(self._load, jobs)

    async def of_host(self, host: str) -> TenantId:
        """The tenant that a ``Host`` header names. Raises NotFound where there is none; Unavailable."""
        slug = subdomain_of(host, self._base_domain)
        return await self.of_slug(slug) if slug else DEFAULT_TENANT

    async def of_slug(self, slug: str) -> TenantId:
        """The tenant of that name. Raises NotFound, Unavailable."""
        known = self._known.get(slug)
        if known is not None:
            self._known.move_to_end(slug)
            return known
        if not SLUG.fullmatch(slug) or self._unknown.get(slug, 0.0) > self._clock():
            raise NotFound("there is no such workspace")
        found = await self._batcher.get(slug)
        if found is None:
            raise NotFound("there is no such workspace")
        return found

    async def _load(self, slugs: Sequence[str]) -> dict[str, TenantId]:
        async with self._database.connection() as connection:
            found = await tenants.find_tenants(connection, slugs)
        for slug in slugs:
            if slug in found:
                self._unknown.pop(slug, None)
                self._known[slug] = found[slug]
            else:
                self._unknown[slug] = self._clock() + UNKNOWN_FOR_SECONDS
        for names in (self._known, self._unknown):
            while len(names) > self._capacity:
                names.popitem(last=False)
        return found


async def create_tenant(uow: UnitOfWork, slug: str, name: str) -> TenantId:
    """Makes a tenant, for the operator. Raises InvalidFields, AlreadyTaken (``slug_taken``)."""
    if not SLUG.fullmatch(slug):
        raise InvalidFields(
            [FieldError("/slug", "must be a DNS label: 1 to 63 of a-z 0-9 and inner hyphens")]
        )
    if not name.strip() or "\x00" in name:
        raise InvalidFields([FieldError("/name", "must not be empty")])
    tenant = TenantId(new_id())

    async def work(tx: Transaction) -> None:
        if not await tenants.insert_tenant(tx.connection, tenant, slug, name.strip()):
            raise AlreadyTaken("this slug is taken", code="slug_taken")

    await uow.run(work)
    return tenant
