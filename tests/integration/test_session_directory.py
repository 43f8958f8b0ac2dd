"""What an instance knows of sign-ins: right at once after a revocation, cheap in a storm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from domain.errors import Unavailable
from domain.identity import Identity
from domain.ids import DEFAULT_TENANT, SessionId, UserId, new_id
from services.security.tokens import TokenExpired, TokenInvalid
from services.sessions import SessionRevoked
from services.upkeep import SignInUpkeep
from storage import auth_sessions
from storage.database import Connection
from tests.support.accounts import DEVICE, Office, open_office


@pytest.fixture
async def office(database_url: str) -> AsyncIterator[Office]:
    async with open_office(database_url) as opened:
        yield opened


async def crowd(office: Office, size: int) -> list[tuple[SessionId, UserId]]:
    """Many sign-ins, made without the work of as many passwords."""
    made = [(SessionId(new_id()), UserId(new_id())) for _ in range(size)]
    users, sessions = [user for _, user in made], [session for session, _ in made]
    await office.sql(
        """INSERT INTO users (tenant_id, id, username, email, password_hash, display_name)
           SELECT $1, u, 'user' || n, n || '@example.com', '!', ''
           FROM unnest($2::uuid[]) WITH ORDINALITY AS k (u, n)""",
        DEFAULT_TENANT,
        users,
    )
    await office.sql(
        """INSERT INTO auth_sessions (tenant_id, id, user_id, expires_at)
           SELECT $1, s, u, now() + interval '1 day' FROM unnest($2::uuid[], $3::uuid[]) AS k (s, u)""",
        DEFAULT_TENANT,
        sessions,
        users,
    )
    return made


async def identify(office: Office, session: SessionId, user: UserId) -> Identity:
    return await office.directory.identify(DEFAULT_TENANT, session, user, None)


async def test_a_sign_in_is_looked_up_once(office: Office) -> None:
    signed_in = await office.register("ada")
    taken = office.database.taken
    found = {(await office.identify(signed_in)).user for _ in range(20)}
    assert office.database.taken == taken + 1
    assert found == {signed_in.user.id}


async def test_a_storm_of_sign_ins_costs_one_query_a_hundred_at_most(office: Office) -> None:
    made = await crowd(office, 10_000)
    taken = office.database.taken
    async with asyncio.TaskGroup() as group:
        for session, user in made:
            group.create_task(identify(office, session, user))
            await asyncio.sleep(0)  # one by one, as connections arrive
    assert office.database.taken - taken <= 100


async def test_an_end_decided_here_is_known_here_at_once(office: Office) -> None:
    signed_in = await office.register("ada")
    await office.sign_ins.sign_out(await office.identify(signed_in))
    with pytest.raises(SessionRevoked) as raised:
        await office.identify(signed_in)
    assert (raised.value.status, raised.value.code) == (401, "session_revoked")


async def test_an_end_decided_elsewhere_is_known_when_the_log_tells(database_url: str) -> None:
    async with open_office(database_url) as here, open_office(database_url) as elsewhere:
        signed_in = await here.register("ada")
        identity = await here.identify(signed_in)
        await elsewhere.sign_ins.sign_out(await elsewhere.identify(signed_in))
        (event,) = elsewhere.told.events
        here.directory.forget(event.control.revokes)
        with pytest.raises(SessionRevoked):
            await identify(here, identity.session, identity.user)


@pytest.mark.parametrize("how", ["stale", "forget_all"])
async def test_without_the_log_what_was_known_is_asked_again(database_url: str, how: str) -> None:
    async with open_office(database_url) as here, open_office(database_url) as elsewhere:
        signed_in = await here.register("ada")
        identity = await here.identify(signed_in)
        await elsewhere.sign_ins.sign_out(identity)
        assert await here.identify(signed_in) == identity, "nothing told this instance yet"
        if how == "stale":
            here.fresh[0] = False
        else:
            here.directory.forget_all()
        with pytest.raises(SessionRevoked):
            await here.identify(signed_in)
        here.fresh[0] = True
        with pytest.raises(SessionRevoked):
            await here.identify(signed_in)


class Pausing:
    """Lets a test act between the reading of sign-ins and their keeping."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read, self.go_on = asyncio.Event(), asyncio.Event()
        self.loads = 0
        real = auth_sessions.load_alive

        async def load_alive(
            connection: Connection, sessions: Sequence[auth_sessions.Key]
        ) -> dict[auth_sessions.Key, auth_sessions.AliveRow]:
            self.loads += 1
            rows = await real(connection, sessions)
            self.read.set()
            await self.go_on.wait()
            return rows

        monkeypatch.setattr(auth_sessions, "load_alive", load_alive)


@pytest.mark.parametrize("how", ["forget", "forget_all"])
async def test_a_revocation_during_a_look_up_is_not_lost(
    office: Office, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in = await office.register("ada")
    ((session,),) = await office.sql("SELECT id FROM auth_sessions")
    pausing = Pausing(monkeypatch)
    asking = asyncio.create_task(office.identify(signed_in))
    await pausing.read.wait()
    await office.sql("UPDATE auth_sessions SET revoked_at = now()")
    if how == "forget":
        office.directory.forget([SessionId(session)])
    else:
        office.directory.forget_all()
    pausing.go_on.set()
    with pytest.raises(SessionRevoked):
        await asking
    assert pausing.loads == 2


async def test_tokens_are_refused_for_what_is_wrong_with_them(office: Office) -> None:
    signed_in = await office.register("ada")
    for token in ("", "x", signed_in.access_token[:-2], signed_in.refresh_token):
        with pytest.raises(TokenInvalid):
            await office.directory.authenticate(DEFAULT_TENANT, token)
    office.clock.ahead = 901
    with pytest.raises(TokenExpired):
        await office.identify(signed_in)


async def test_a_token_for_a_sign_in_of_somebody_else_is_refused(office: Office) -> None:
    ada, bob = await office.person("ada"), await office.person("bob")
    for session in (ada.session, SessionId(new_id())):
        token = office.signer.access_token(DEFAULT_TENANT, bob.user, session)
        with pytest.raises(SessionRevoked):
            await office.directory.authenticate(DEFAULT_TENANT, token)


async def test_an_identity_ends_with_the_first_of_token_and_sign_in(office: Office) -> None:
    signed_in = await office.register("ada")
    identity = await office.identify(signed_in)
    assert 895 < identity.expires_at - office.clock() <= 900
    await office.sql("UPDATE auth_sessions SET expires_at = now() + interval '100 seconds'")
    office.directory.forget_all()
    identity = await office.identify(signed_in)
    assert 90 < identity.expires_at - office.clock() <= 100
    cookie = office.tickets.cookie(identity)
    assert (
        await office.directory.authenticate_cookie(DEFAULT_TENANT, cookie)
    ).expires_at == identity.expires_at


async def test_a_sign_in_that_was_refreshed_lives_on_here_too(office: Office) -> None:
    signed_in = await office.register("ada")
    await office.sql("UPDATE auth_sessions SET expires_at = now() + interval '100 seconds'")
    await office.identify(signed_in)
    await office.sign_ins.refresh(DEFAULT_TENANT, signed_in.refresh_token, DEVICE)
    office.clock.ahead = 101
    identity = await office.identify(signed_in)
    assert identity.expires_at > office.clock() + 700


async def test_no_more_is_kept_than_set(database_url: str) -> None:
    async with open_office(database_url, capacity=10) as office:
        made = await crowd(office, 30)
        for session, user in made:
            await identify(office, session, user)
        assert len(office.directory._entries) == 10
        taken = office.database.taken
        await identify(office, *made[-1])
        assert office.database.taken == taken
        await identify(office, *made[0])
        assert office.database.taken == taken + 1


async def test_when_a_sign_in_was_last_used_is_written_later_and_once_a_minute(office: Office) -> None:
    signed_in = await office.register("ada")
    await office.sql("UPDATE auth_sessions SET last_seen_at = now() - interval '1 hour'")
    age = "SELECT extract(epoch FROM now() - last_seen_at)::float8 FROM auth_sessions"
    await office.identify(signed_in)
    ((seconds,),) = await office.sql(age)
    assert seconds > 3000, "not while somebody waits for an answer"
    await office.directory.flush_seen()
    ((seconds,),) = await office.sql(age)
    assert -5 < seconds < 60
    await office.sql("UPDATE auth_sessions SET last_seen_at = now() - interval '1 hour'")
    await office.identify(signed_in)
    taken = office.database.taken
    await office.directory.flush_seen()
    assert office.database.taken == taken, "nothing to write within the minute"
    office.clock.ahead = 61
    await office.identify(signed_in)
    await office.directory.flush_seen()
    ((seconds,),) = await office.sql(age)
    assert seconds < 0


async def test_last_use_never_waits_for_a_busy_row(office: Office) -> None:
    await office.identify(await office.register("ada"))
    async with office.database.transaction() as connection:
        await connection.execute("SELECT 1 FROM auth_sessions FOR UPDATE")
        await asyncio.wait_for(office.directory.flush_seen(), 5)


async def test_the_loop_writes_what_is_left_when_it_ends(office: Office) -> None:
    await office.sql("UPDATE auth_sessions SET last_seen_at = now() - interval '1 hour'")
    signed_in = await office.register("ada")
    await office.sql("UPDATE auth_sessions SET last_seen_at = now() - interval '1 hour'")
    running = asyncio.create_task(office.directory.run())
    await office.identify(signed_in)
    running.cancel()
    await asyncio.wait([running])
    ((seconds,),) = await office.sql(
        "SELECT extract(epoch FROM now() - last_seen_at)::float8 FROM auth_sessions"
    )
    assert seconds < 60


async def test_while_postgresql_is_away_what_is_known_still_serves(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, unknown = await office.register("ada"), await office.register("bob")
    identity = await office.identify(known)

    def away() -> AbstractAsyncContextManager[Connection]:
        raise Unavailable("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(office.database, "connection", away)
        assert await office.identify(known) == identity
        await office.directory.flush_seen()
        with pytest.raises(Unavailable):
            await office.identify(unknown)
    await office.identify(unknown)
    await office.sql("UPDATE auth_sessions SET last_seen_at = now() - interval '1 hour'")
    await office.directory.flush_seen()
    recent = "SELECT 1 FROM auth_sessions WHERE last_seen_at > now() - interval '1 minute'"
    assert len(await office.sql(recent)) == 2, "what could not be written was kept"


async def test_upkeep_deletes_what_has_long_been_over_and_nothing_else(office: Office) -> None:
    live = await office.register("ada")
    revoked, expired, recent = [await office.identify(await office.sign_in("ada")) for _ in range(3)]
    await office.sign_ins.sign_out(revoked)
    await office.sign_ins.sign_out(recent)
    await office.sql(
        "UPDATE auth_sessions SET revoked_at = now() - interval '31 days' WHERE id = $1", revoked.session
    )
    await office.sql(
        "UPDATE auth_sessions SET expires_at = now() - interval '31 days' WHERE id = $1", expired.session
    )
    assert await SignInUpkeep(office.database).purge() == 2
    left = {session for (session,) in await office.sql("SELECT id FROM auth_sessions")}
    assert left == {recent.session, (await office.identify(live)).session}
    assert await office.sql("SELECT 1 FROM refresh_tokens WHERE session_id <> ALL($1)", list(left)) == []
