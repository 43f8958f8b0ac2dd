"""Tickets and the realtime cookie, on a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from domain.errors import Unauthenticated
from domain.identity import Identity
from domain.ids import DEFAULT_TENANT
from services.idempotency import KeptAnswer
from services.security.tokens import TokenInvalid
from services.sessions import SessionRevoked
from services.tickets import TicketInvalid
from services.upkeep import SignInUpkeep
from tests.support.accounts import DEVICE, Office, open_office


@pytest.fixture
async def office(database_url: str) -> AsyncIterator[Office]:
    async with open_office(database_url) as opened:
        yield opened


async def redeem(office: Office, ticket: str) -> Identity:
    return await office.tickets.redeem(DEFAULT_TENANT, ticket)


async def test_a_ticket_stands_for_who_asked_for_it(office: Office) -> None:
    ada = await office.person("ada")
    ticket = await office.tickets.issue(ada)
    assert ticket.expires_in == 30
    found = await redeem(office, ticket.ticket)
    assert (found.user, found.session, found.permissions) == (ada.user, ada.session, ada.permissions)
    assert found.expires_at == pytest.approx(ada.expires_at, abs=0.01), (
        "it ends with the token that asked for it"
    )


async def test_a_ticket_is_good_once(office: Office) -> None:
    ticket = (await office.tickets.issue(await office.person("ada"))).ticket
    await redeem(office, ticket)
    with pytest.raises(TicketInvalid) as raised:
        await redeem(office, ticket)
    assert (raised.value.status, raised.value.code) == (401, "ticket_invalid")


async def test_a_ticket_is_good_once_for_many_who_come_at_the_same_moment(database_url: str) -> None:
    async with open_office(database_url) as one, open_office(database_url) as other:
        ada = await one.person("ada")
        for _ in range(5):
            ticket = (await one.tickets.issue(ada)).ticket
            results = await asyncio.gather(
                *(redeem(office, ticket) for _ in range(5) for office in (one, other)), return_exceptions=True
            )
            assert sum(isinstance(r, Identity) for r in results) == 1
            assert sum(isinstance(r, TicketInvalid) for r in results) == 9


async def test_a_ticket_ends_after_its_time(office: Office) -> None:
    ticket = (await office.tickets.issue(await office.person("ada"))).ticket
    ((seconds,),) = await office.sql(
        "SELECT extract(epoch FROM expires_at - now())::float8 FROM realtime_tickets"
    )
    assert 25 < seconds <= 30
    await office.sql("UPDATE realtime_tickets SET expires_at = now()")
    with pytest.raises(TicketInvalid):
        await redeem(office, ticket)


async def test_what_is_not_a_ticket_is_refused(office: Office) -> None:
    for ticket in ("", "x", "\x00", "ü", "A" * 5000):
        with pytest.raises(TicketInvalid):
            await redeem(office, ticket)


async def test_an_access_token_is_no_ticket_and_no_cookie(office: Office) -> None:
    signed_in = await office.register("ada")
    with pytest.raises(Unauthenticated):
        await redeem(office, signed_in.access_token)
    with pytest.raises(TokenInvalid):
        await office.directory.authenticate_cookie(DEFAULT_TENANT, signed_in.access_token)
    cookie = office.tickets.cookie(await office.identify(signed_in))
    with pytest.raises(TokenInvalid):
        await office.directory.authenticate(DEFAULT_TENANT, cookie)


async def test_a_ticket_and_a_cookie_end_with_their_sign_in(office: Office) -> None:
    ada = await office.person("ada")
    ticket, cookie = (await office.tickets.issue(ada)).ticket, office.tickets.cookie(ada)
    assert (await office.directory.authenticate_cookie(DEFAULT_TENANT, cookie)).session == ada.session
    await office.sign_ins.sign_out(ada)
    with pytest.raises(SessionRevoked):
        await redeem(office, ticket)
    with pytest.raises(SessionRevoked):
        await office.directory.authenticate_cookie(DEFAULT_TENANT, cookie)


async def test_a_cookie_outlives_the_access_token(office: Office) -> None:
    signed_in = await office.register("ada")
    cookie = office.tickets.cookie(await office.identify(signed_in))
    await office.sign_ins.refresh(DEFAULT_TENANT, signed_in.refresh_token, DEVICE)
    office.clock.ahead = 86_400
    found = await office.directory.authenticate_cookie(DEFAULT_TENANT, cookie)
    assert found.expires_at > office.clock() + 5 * 86_400


async def test_no_ticket_is_stored(office: Office) -> None:
    ticket = (await office.tickets.issue(await office.person("ada"))).ticket
    assert ticket not in str(await office.sql("SELECT to_jsonb(t)::text FROM realtime_tickets t"))


async def test_a_kept_key_gives_the_same_ticket(office: Office) -> None:
    ada = await office.person("ada")
    keep = KeptAnswer(ada.tenant, ada.user, "key", b"fingerprint")
    first, again = [await office.tickets.issue_kept(ada, keep) for _ in range(2)]
    assert (first.status, first.replayed, again.replayed) == (201, False, True)
    assert first.body == again.body
    await redeem(office, orjson.loads(first.body)["ticket"])


async def test_many_tickets_cost_few_queries(office: Office) -> None:
    ada = await office.person("ada")
    taken = office.database.taken
    tickets = await asyncio.gather(*(office.tickets.issue(ada) for _ in range(1000)))
    assert len({t.ticket for t in tickets}) == 1000
    await asyncio.gather(*(redeem(office, t.ticket) for t in tickets))
    assert office.database.taken - taken <= 10


async def test_unused_tickets_are_cleared_away(office: Office) -> None:
    ada = await office.person("ada")
    await office.tickets.issue(ada)
    await office.sql("UPDATE realtime_tickets SET expires_at = now() - interval '1 second'")
    kept = (await office.tickets.issue(ada)).ticket
    await SignInUpkeep(office.database).purge()
    assert len(await office.sql("SELECT 1 FROM realtime_tickets")) == 1
    await redeem(office, kept)
