"""Signing in, refreshing, signing out, on a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import bcrypt
import orjson
import pytest

from domain.errors import AccountSuspended, NotFound, RefreshReused
from domain.ids import DEFAULT_TENANT, SessionId, new_id
from domain.log import TopicKind
from domain.resources import TokenPair
from services.security.passwords import rounds_of
from services.security.tokens import TokenExpired, TokenInvalid
from services.sessions import SessionRevoked
from services.sign_ins import Device, WrongCredentials
from tests.support.accounts import DEVICE, LEEWAY, PASSWORD, REFRESH_SECONDS, Office, open_office


@pytest.fixture
async def office(database_url: str) -> AsyncIterator[Office]:
    async with open_office(database_url) as opened:
        yield opened


async def refresh(office: Office, token: str) -> TokenPair:
    return await office.sign_ins.refresh(DEFAULT_TENANT, token, DEVICE)


async def test_one_signs_in_by_username_or_email_without_case(office: Office) -> None:
    registered = await office.register("ada")
    for login in ("ada", "ADA", " Ada ", "ada@example.com", "ADA@Example.Com"):
        signed_in = await office.sign_ins.sign_in(DEFAULT_TENANT, login, PASSWORD, DEVICE)
        assert signed_in.user == registered.user
        identity = await office.identify(signed_in)
        assert identity.user == registered.user.id
        assert identity.session != (await office.identify(registered)).session


async def test_a_bad_sign_in_is_one_answer_and_one_piece_of_work(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.register("ada")
    checked: list[int | None] = []
    real = bcrypt.checkpw

    def counted(password: bytes, against: bytes) -> bool:
        checked.append(rounds_of(against.decode()))
        return real(password, against)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    for login in (
        "ada",
        "ada@example.com",
        "nobody",
        "nobody@example.com",
        "",
        "\x00",
        "@",
        "@\x00",
        "@\ud800",
        "ádá",
    ):
        queries = office.database.taken
        with pytest.raises(WrongCredentials) as raised:
            await office.sign_ins.sign_in(DEFAULT_TENANT, login, PASSWORD + "!", DEVICE)
        error = raised.value
        assert (error.status, error.code, error.detail) == (
            401,
            "invalid_credentials",
            WrongCredentials.title,
        )
        assert checked.pop() == 4, "one check at the same cost, whoever it is"
        assert checked == []
        assert office.database.taken == queries + 1


async def test_a_suspended_account_is_told_so_only_with_its_password(office: Office) -> None:
    await office.register("ada")
    await office.admin.suspend(await office.moderator(), "ada")
    with pytest.raises(AccountSuspended) as raised:
        await office.sign_in("ada")
    assert (raised.value.status, raised.value.code) == (403, "account_suspended")
    with pytest.raises(WrongCredentials):
        await office.sign_ins.sign_in(DEFAULT_TENANT, "ada", "another password", DEVICE)


async def test_a_hash_of_another_cost_is_made_anew_by_a_sign_in(database_url: str) -> None:
    async with open_office(database_url, rounds=4) as before:
        await before.register("ada")
    async with open_office(database_url, rounds=5) as after:
        await asyncio.gather(*(after.sign_in("ada") for _ in range(4)))
        ((hashed,),) = await after.sql("SELECT password_hash FROM users WHERE username = 'ada'")
        assert rounds_of(hashed) == 5
        await after.sign_in("ada")


async def test_a_refresh_gives_a_pair_of_the_same_sign_in(office: Office) -> None:
    first = await office.register("ada")
    pair = await refresh(office, first.refresh_token)
    assert pair.refresh_token != first.refresh_token
    assert pair.expires_in == 900
    before = await office.identify(first)
    after = await office.directory.authenticate(DEFAULT_TENANT, pair.access_token)
    assert after.session == before.session


async def test_a_lost_answer_can_be_asked_for_again_within_the_leeway(office: Office) -> None:
    first = await office.register("ada")
    pairs = [await refresh(office, first.refresh_token) for _ in range(3)]
    assert len({p.refresh_token for p in pairs}) == 3
    for pair in pairs:  # each of them is good, not the last alone
        await office.directory.authenticate(DEFAULT_TENANT, pair.access_token)
    pairs = [await refresh(office, pair.refresh_token) for pair in pairs]
    for pair in pairs:
        await refresh(office, pair.refresh_token)
    assert office.revoked() == []


async def test_a_token_used_again_after_the_leeway_ends_the_sign_in(office: Office) -> None:
    first = await office.register("ada")
    identity = await office.identify(first)
    stolen = await refresh(office, first.refresh_token)
    await office.supersede_earlier(LEEWAY)
    with pytest.raises(RefreshReused) as raised:
        await refresh(office, first.refresh_token)
    assert (raised.value.status, raised.value.code) == (401, "refresh_reused")
    with pytest.raises(SessionRevoked):
        await refresh(office, stolen.refresh_token)
    for token in (first.access_token, stolen.access_token):
        with pytest.raises(SessionRevoked):
            await office.directory.authenticate(DEFAULT_TENANT, token)
    ((user, session, data),) = office.revoked()
    assert (user, session) == (identity.user, identity.session)
    assert orjson.loads(data) == {"session_id": str(session), "reason": "refresh_reused"}
    with pytest.raises(RefreshReused):
        await refresh(office, first.refresh_token)
    assert len(office.revoked()) == 1, "told once"


async def test_the_leeway_runs_from_the_first_use(office: Office) -> None:
    first = await office.register("ada")
    await refresh(office, first.refresh_token)
    await office.supersede_earlier(LEEWAY - 5)
    await refresh(office, first.refresh_token)
    await office.supersede_earlier(5)
    with pytest.raises(RefreshReused):
        await refresh(office, first.refresh_token)


async def test_a_later_refresh_gives_an_old_token_no_new_leeway(office: Office) -> None:
    first = await office.register("ada")
    second = await refresh(office, first.refresh_token)
    await office.supersede_earlier(LEEWAY - 2)
    await refresh(office, second.refresh_token)
    await office.supersede_earlier(2)
    await refresh(office, second.refresh_token)
    with pytest.raises(RefreshReused):
        await refresh(office, first.refresh_token)


async def test_a_token_given_within_the_leeway_is_superseded_with_its_twin(office: Office) -> None:
    """A thief who is quick gets a pair too; the first of both to come back after the leeway gives it away."""
    first = await office.register("ada")
    owner = await refresh(office, first.refresh_token)
    thief = await refresh(office, first.refresh_token)
    await refresh(office, thief.refresh_token)
    await office.supersede_earlier(LEEWAY)
    with pytest.raises(RefreshReused):
        await refresh(office, owner.refresh_token)
    assert len(office.revoked()) == 1


async def test_uses_at_the_same_moment_all_give_good_pairs(database_url: str) -> None:
    """Two tabs, two instances, one token."""
    async with open_office(database_url) as one, open_office(database_url) as other:
        first = await one.register("ada")
        pairs = await asyncio.gather(
            *(refresh(office, first.refresh_token) for _ in range(5) for office in (one, other))
        )
        assert len({pair.refresh_token for pair in pairs}) == 10
        ((generation,),) = await one.sql("SELECT generation FROM auth_sessions")
        assert generation == 1, "one of them replaced the token, the others found it replaced"
        for pair in pairs:
            await one.directory.authenticate(DEFAULT_TENANT, pair.access_token)
        await refresh(other, pairs[0].refresh_token)
        assert one.revoked() == other.revoked() == []


async def test_reuse_at_the_same_moment_revokes_once(database_url: str) -> None:
    async with open_office(database_url) as one, open_office(database_url) as other:
        first = await one.register("ada")
        await refresh(one, first.refresh_token)
        await one.supersede_earlier(LEEWAY)
        results = await asyncio.gather(
            *(refresh(office, first.refresh_token) for _ in range(4) for office in (one, other)),
            return_exceptions=True,
        )
        assert {type(result) for result in results} == {RefreshReused}
        assert len(one.revoked() + other.revoked()) == 1


async def test_refreshing_while_signing_out_never_leaves_a_good_sign_in(database_url: str) -> None:
    async with open_office(database_url) as one, open_office(database_url) as other:
        for n in range(10):
            first = await one.register(f"user{n}")
            identity = await one.identify(first)
            result, _ = await asyncio.gather(
                refresh(one, first.refresh_token), other.sign_ins.sign_out(identity), return_exceptions=True
            )
            if isinstance(result, TokenPair):
                with pytest.raises(SessionRevoked):
                    await refresh(other, result.refresh_token)
            else:
                assert isinstance(result, SessionRevoked)


async def test_each_refresh_moves_the_end_of_the_sign_in(office: Office) -> None:
    first = await office.register("ada")
    await office.sql("UPDATE auth_sessions SET expires_at = now() + interval '1 minute'")
    await refresh(office, first.refresh_token)
    ((seconds,),) = await office.sql(
        "SELECT extract(epoch FROM expires_at - now())::float8 FROM auth_sessions"
    )
    assert REFRESH_SECONDS - 60 < seconds <= REFRESH_SECONDS


async def test_a_sign_in_that_was_not_refreshed_in_time_is_over(office: Office) -> None:
    first = await office.register("ada")
    await office.sql("UPDATE auth_sessions SET expires_at = now()")
    with pytest.raises(TokenExpired) as raised:
        await refresh(office, first.refresh_token)
    assert raised.value.status == 401
    assert office.revoked() == []
    with pytest.raises(SessionRevoked):
        await office.directory.authenticate(DEFAULT_TENANT, first.access_token)


async def test_what_is_not_a_refresh_token_is_refused(office: Office) -> None:
    await office.register("ada")
    for token in ("", "x", "\x00", "ü" * 50, "A" * 43, "A" * 10_000, "\ud800"):
        with pytest.raises(TokenInvalid):
            await refresh(office, token)


async def test_an_access_token_does_not_refresh(office: Office) -> None:
    with pytest.raises(TokenInvalid):
        await refresh(office, (await office.register("ada")).access_token)


async def test_no_token_is_stored(office: Office) -> None:
    signed_in = await office.register("ada")
    await refresh(office, signed_in.refresh_token)
    for table in ("refresh_tokens", "auth_sessions", "users", "events"):
        rows = str(await office.sql(f"SELECT to_jsonb(t)::text FROM {table} t"))
        assert signed_in.refresh_token not in rows
        assert signed_in.access_token not in rows
        assert PASSWORD not in rows


async def test_tokens_replaced_long_ago_are_forgotten(office: Office) -> None:
    token = (await office.register("ada")).refresh_token
    for _ in range(3):
        token = (await refresh(office, token)).refresh_token
    await office.supersede_earlier(REFRESH_SECONDS + 1)
    await refresh(office, token)
    assert len(await office.sql("SELECT 1 FROM refresh_tokens")) == 2


async def test_signing_out_ends_this_sign_in_and_no_other(office: Office) -> None:
    first, second = await office.register("ada"), await office.sign_in("ada")
    identity = await office.identify(first)
    await office.sign_ins.sign_out(identity)
    with pytest.raises(SessionRevoked) as raised:
        await office.identify(first)
    assert raised.value.code == "session_revoked"
    await office.identify(second)
    (event,) = office.told.events
    assert (event.topic.kind, event.topic.id) == (TopicKind.USER, identity.user)
    assert event.type == "session.revoked"
    assert orjson.loads(event.data) == {"session_id": str(identity.session), "reason": "logout"}
    await office.sign_ins.sign_out(identity)
    assert len(office.told.events) == 1, "what is over is not told again"


async def test_the_list_of_sign_ins_is_the_live_ones_newest_first(office: Office) -> None:
    first = await office.identify(await office.register("ada"))
    ids = [first.session]
    for n in range(4):
        signed_in = await office.sign_ins.sign_in(
            DEFAULT_TENANT, "ada", PASSWORD, Device(f"client {n}" + "x" * 1000, f"192.0.2.{n}")
        )
        ids.append((await office.identify(signed_in)).session)
    await office.register("bob")
    await office.sign_ins.delete(first, ids[2])
    await office.sql("UPDATE auth_sessions SET expires_at = now() WHERE id = $1", ids[3])
    shown, more = await office.sign_ins.list(first, before=None, limit=2)
    assert [s.id for s in shown] == [ids[4], ids[1]]
    assert (shown[0].ip, shown[0].user_agent[:9], len(shown[0].user_agent)) == ("192.0.2.3", "client 3x", 300)
    assert more == ids[1]
    shown, more = await office.sign_ins.list(first, before=more, limit=2)
    assert [(s.id, s.current) for s in shown] == [(ids[0], True)]
    assert more is None


async def test_one_deletes_ones_own_sign_ins_only(office: Office) -> None:
    ada, bob = await office.person("ada"), await office.person("bob")
    for stranger in (bob.session, SessionId(new_id())):
        with pytest.raises(NotFound):
            await office.sign_ins.delete(ada, stranger)
    other = await office.identify(await office.sign_in("ada"))
    await office.sign_ins.delete(ada, other.session)
    with pytest.raises(NotFound):
        await office.sign_ins.delete(ada, other.session)
    assert [(user, session) for user, session, _ in office.revoked()] == [(ada.user, other.session)]
    assert orjson.loads(office.revoked()[0][2])["reason"] == "session_deleted"
