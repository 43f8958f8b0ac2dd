"""Tenants as stored."""

from __future__ import annotations

from collections.abc import Sequence

from domain.ids import TenantId
from storage.database import Connection

FIND_TENANTS = "SELECT slug, id FROM tenants WHERE slug = ANY($1::text[])"
INSERT_TENANT = "INSERT INTO tenants (id, slug, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING id"


async def find_tenants(connection: Connection, slugs: Sequence[str]) -> dict[str, TenantId]:
    """The tenants of those slugs that there are."""
    rows = await connection.fetch(FIND_TENANTS, list(slugs))
    return {row["slug"]: TenantId(row["id"]) for row in rows}


async def insert_tenant(connection: Connection, tenant: TenantId, slug: str, name: str) -> bool:
    """Stores a tenant; False where the slug is taken."""
    return await connection.fetchval(INSERT_TENANT, tenant, slug, name) is not None
