"""Tenants never meet (I12): not through the services, and not in the schema either."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from domain.errors import AlreadyTaken, InvalidFields, NotFound
from domain.ids import DEFAULT_TENANT, TenantId, new_id
from services.security.tokens import TokenInvalid
from services.sign_ins import WrongCredentials
from services.tenants import Tenants
from services.tickets import TicketInvalid
from tests.support.accounts import DEVICE, PASSWORD, Office, open_office

NOT_TENANT_DATA = {"deployment", "tenants", "log_heads", "log_marks", "alembic_version"}
NO_FOREIGN_KEYS = {"realtime_tickets", "events"}
"""Short-lived, and the log: written by services only, and read by topic, whose ids no two tenants share."""

TENANT_TABLES = """
SELECT c.table_name FROM information_schema.tables c
WHERE c.table_schema = 'public' AND c.table_type = 'BASE TABLE' AND c.table_name !~ '^events_p'
"""

FOREIGN_KEYS = """
SELECT k.conrelid::regclass::text AS source, k.confrelid::regclass::text AS target,
    (SELECT array_agg(a.attname ORDER BY n) FROM unnest(k.conkey) WITH ORDINALITY AS c (no, n)
     JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.no) AS columns,
    (SELECT array_agg(a.attname ORDER BY n) FROM unnest(k.confkey) WITH ORDINALITY AS c (no, n)
     JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = c.no) AS referred
FROM pg_constraint k WHERE k.contype = 'f' AND k.connamespace = 'public'::regnamespace
"""


@pytest.fixture
async def office(database_url: str) -> AsyncIterator[Office]:
    async with open_office(database_url) as opened:
        yield opened


async def test_every_reference_between_a_tenants_rows_holds_the_tenant(office: Office) -> None:
    tables = {name for (name,) in await office.sql(TENANT_TABLES)} - NOT_TENANT_DATA
    assert {"users", "auth_sessions", "messages", "blocks"} <= tables
    referring = set()
    for source, target, columns, referred in await office.sql(FOREIGN_KEYS):
        if source in tables:
            referring.add(source)
            assert "tenant_id" in columns, f"{source} refers to {target} without the tenant"
            expected = "id" if target == "tenants" else "tenant_id"
            assert referred[columns.index("tenant_id")] == expected, (source, target)
    assert tables - referring == NO_FOREIGN_KEYS


async def test_a_reference_to_another_tenants_row_cannot_be_stored(office: Office) -> None:
    tenant = await office.tenant("elsewhere")
    ours, theirs = await office.person("ours"), await office.person("theirs", tenant)
    our_group, their_group = new_id(), new_id()
    for group, owner in ((our_group, ours), (their_group, theirs)):
        await office.sql(
            "INSERT INTO conversations (tenant_id, id, kind, created_by) VALUES ($1, $2, 'group', $3)",
            owner.tenant,
            group,
            owner.user,
        )
    us, them, fresh = ours.user, theirs.user, new_id()
    for table, columns, *values in [
        ("auth_sessions", "id, user_id, expires_at", fresh, them, datetime.now(UTC)),
        ("refresh_tokens", "digest, session_id, generation", b"digest", theirs.session, 0),
        ("blocks", "blocker_id, blocked_id", us, them),
        ("blocks", "blocker_id, blocked_id", them, us),
        ("idempotency_keys", "user_id, key, fingerprint", them, "key", b""),
        ("conversations", "id, kind, created_by", fresh, "group", them),
        ("conversations", "id, kind, created_by, direct_low, direct_high", fresh, "direct", us, us, them),
        ("conversations", "id, kind, created_by, direct_low, direct_high", fresh, "direct", us, them, us),
        ("conversation_members", "conversation_id, user_id", our_group, them),
        ("conversation_members", "conversation_id, user_id", their_group, us),
    ]:
        places = ", ".join(f"${n}" for n in range(2, len(values) + 2))
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await office.sql(
                f"INSERT INTO {table} (tenant_id, {columns}) VALUES ($1, {places})", DEFAULT_TENANT, *values
            )


async def test_the_same_names_are_different_people_in_different_tenants(office: Office) -> None:
    tenant = await office.tenant("elsewhere")
    here, there = await office.register("ada"), await office.register("ada", tenant)
    assert here.user.id != there.user.id
    users, _ = await office.profiles.list(await office.identify(here), before=None, limit=10)
    assert [user.id for user in users] == [here.user.id]


async def test_nothing_of_one_tenant_is_found_from_another(office: Office) -> None:
    tenant = await office.tenant("elsewhere")
    ada, bob = await office.person("ada"), await office.person("bob", tenant)
    for name in ("bob", str(bob.user)):
        with pytest.raises(NotFound):
            await office.profiles.get(ada, name)
        with pytest.raises(NotFound):
            await office.blocks.block(ada, name)
        with pytest.raises(NotFound):
            await office.admin.suspend(await office.moderator(f"mod{len(name)}"), name)
    with pytest.raises(NotFound):
        await office.sign_ins.delete(ada, bob.session)
    for login in ("bob", "bob@example.com"):
        with pytest.raises(WrongCredentials):
            await office.sign_ins.sign_in(DEFAULT_TENANT, login, PASSWORD, DEVICE)


async def test_no_credential_of_one_tenant_is_good_in_another(office: Office) -> None:
    tenant = await office.tenant("elsewhere")
    signed_in = await office.register("ada", tenant)
    identity = await office.identify(signed_in, tenant)
    with pytest.raises(TokenInvalid):
        await office.directory.authenticate(DEFAULT_TENANT, signed_in.access_token)
    with pytest.raises(TokenInvalid):
        await office.directory.authenticate_cookie(DEFAULT_TENANT, office.tickets.cookie(identity))
    with pytest.raises(TokenInvalid):
        await office.sign_ins.refresh(DEFAULT_TENANT, signed_in.refresh_token, DEVICE)
    ticket = await office.tickets.issue(identity)
    with pytest.raises(TicketInvalid):
        await office.tickets.redeem(DEFAULT_TENANT, ticket.ticket)
    await office.sign_ins.refresh(tenant, signed_in.refresh_token, DEVICE)


async def test_a_host_finds_its_tenant_and_remembers_it(office: Office) -> None:
    acme = await office.tenant("acme")
    tenants = Tenants(office.database, office.jobs, base_domain="chat.example.com")
    for _ in range(3):
        assert await tenants.of_host("acme.chat.example.com") == acme
        assert await tenants.of_host("chat.example.com") == DEFAULT_TENANT
        assert await tenants.of_host("127.0.0.1") == DEFAULT_TENANT
        assert await tenants.of_host("default.chat.example.com") == DEFAULT_TENANT
        for host in ("nobody.chat.example.com", "a.b.chat.example.com", "-.chat.example.com"):
            with pytest.raises(NotFound):
                await tenants.of_host(host)


async def test_tenants_are_not_looked_up_at_each_request(office: Office) -> None:
    await office.tenant("acme")
    tenants = Tenants(office.database, office.jobs, base_domain="chat.example.com")
    taken = office.database.taken
    for _ in range(20):
        await tenants.of_host("acme.chat.example.com")
        with pytest.raises(NotFound):
            await tenants.of_host("nobody.chat.example.com")
    assert office.database.taken == taken + 2


async def test_a_new_tenant_is_seen_within_seconds(office: Office) -> None:
    now = [0.0]
    tenants = Tenants(office.database, office.jobs, base_domain="chat.example.com", clock=lambda: now[0])
    now[0] = 100.0
    with pytest.raises(NotFound):
        await tenants.of_host("acme.chat.example.com")
    acme = await office.tenant("acme")
    with pytest.raises(NotFound):
        await tenants.of_host("acme.chat.example.com")
    now[0] += 5.1
    assert await tenants.of_host("acme.chat.example.com") == acme


async def test_random_names_do_not_fill_the_memory(office: Office) -> None:
    tenants = Tenants(office.database, office.jobs, base_domain="chat.example.com", capacity=10)
    for n in range(30):
        with pytest.raises(NotFound):
            await tenants.of_host(f"n{n}.chat.example.com")
    assert len(tenants._unknown) == 10


async def test_a_slug_is_a_dns_label(office: Office) -> None:
    for slug in ("", "-a", "a-", "A", "a.b", "a" * 64, "ä"):
        with pytest.raises(InvalidFields):
            await office.tenant(slug)


async def test_a_slug_is_taken_once(office: Office) -> None:
    made: TenantId = await office.tenant("acme")
    assert made != DEFAULT_TENANT
    with pytest.raises(AlreadyTaken):
        await office.tenant("acme")
