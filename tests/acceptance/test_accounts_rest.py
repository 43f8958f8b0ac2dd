"""Accounts over REST, as a client meets them. Every answer is held against the OpenAPI document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote

import asyncpg
import jwt
import pytest

from server.settings import Settings
from tests.acceptance.conftest import Start
from tests.support.clients import Api, Closed, Json, Person

PASSWORD = "correct horse"
NOWHERE = "0192f0c0-0000-7000-8000-000000000001"
PROFILE = {
    "id",
    "username",
    "display_name",
    "bio",
    "avatar_url",
    "created_at",
    "follower_count",
    "following_count",
    "post_count",
}
Sql = Callable[..., Awaitable[None]]


@pytest.fixture
async def sql(settings: Settings) -> AsyncIterator[Sql]:
    """Reaches behind the server, to let time pass or to make somebody a moderator."""
    connection = await asyncpg.connect(settings.database_url, timeout=10)

    async def execute(statement: str, *values: Any) -> None:
        await connection.execute(statement, *values)

    yield execute
    await connection.close()


@pytest.fixture
async def moderator(api: Api, sql: Sql) -> Person:
    person = await api.register()
    await sql("UPDATE users SET permissions = 1 WHERE username = $1", person.username)
    return await person.sign_in()


async def problem(api: Api, path: str, status: int, code: str, **more: Any) -> Json:
    told = (await api.call("POST", path, expect=status, **more)).json
    assert told["code"] == code, told
    return told


async def sign_in(api: Api, username: str, password: str = PASSWORD, expect: int = 200) -> Json:
    body = {"username": username, "password": password}
    return (await api.call("POST", "/auth/token", json=body, expect=expect)).json


def pointers(told: Json) -> list[str]:
    return sorted(error["pointer"] for error in told["errors"])


async def test_registering_shows_oneself_and_signs_in(api: Api) -> None:
    body = {"username": "Ada", "email": "ada@example.com", "password": PASSWORD, "display_name": "Ada L."}
    answer = await api.call("POST", "/auth/register", json=body, expect=201)
    made = answer.json
    assert set(made) == {"user", "access_token", "refresh_token", "token_type", "expires_in"}
    assert PROFILE | {"email", "settings"} <= set(made["user"])
    assert (made["user"]["username"], made["user"]["display_name"]) == ("ada", "Ada L.")
    assert (made["token_type"], made["expires_in"]) == ("Bearer", 900)
    assert "no-store" in answer.headers["Cache-Control"]
    me = await api.call("GET", "/users/me", token=made["access_token"], expect=200)
    assert me.json == made["user"]
    claims = jwt.decode(made["access_token"], options={"verify_signature": False})
    assert {"iss", "aud", "sub", "sid", "tid", "jti", "exp", "iat"} <= set(claims)
    assert claims["sub"] == made["user"]["id"]


async def test_every_wrong_field_of_a_registration_is_named(api: Api) -> None:
    body = {"username": "a b", "email": "x", "password": "short", "display_name": " ", "admin": True}
    told = await problem(api, "/auth/register", 422, "invalid", json=body)
    assert pointers(told) == ["/admin", "/display_name", "/email", "/password", "/username"]
    assert "short" not in str(told)
    told = await problem(api, "/auth/register", 422, "invalid", json={})
    assert pointers(told) == ["/email", "/password", "/username"]
    body = {"username": 1, "email": None, "password": ["x"]}
    told = await problem(api, "/auth/register", 422, "invalid", json=body)
    assert pointers(told) == ["/email", "/password", "/username"]


async def test_taken_names_are_conflicts(api: Api, ann: Person) -> None:
    body = {"username": ann.username.upper(), "email": "other@example.com", "password": PASSWORD}
    await problem(api, "/auth/register", 409, "username_taken", json=body)
    body = {"username": "other", "email": f"{ann.username.upper()}@EXAMPLE.com", "password": PASSWORD}
    await problem(api, "/auth/register", 409, "email_taken", json=body)


async def test_signing_in_takes_json_and_the_form_of_oauth(api: Api, ann: Person) -> None:
    for login in (ann.username, ann.username.upper(), f"{ann.username}@example.com"):
        made = await sign_in(api, login)
        assert made["user"]["id"] == ann.id
        form = {"grant_type": "password", "username": login, "password": PASSWORD, "scope": ""}
        answer = await api.call("POST", "/auth/token/", data=form, expect=200)
        assert set(answer.json) == set(made)
    form = {"grant_type": "client_credentials", "username": ann.username, "password": PASSWORD}
    told = await problem(api, "/auth/token", 422, "invalid", data=form)
    assert pointers(told) == ["/grant_type"]


async def test_a_bad_sign_in_tells_nothing_apart(api: Api, ann: Person) -> None:
    told = []
    for login, password in (
        (ann.username, "wrong horse"),
        ("nobody", PASSWORD),
        (ann.id, PASSWORD),
        ("@", ""),
    ):
        body = {"username": login, "password": password}
        answer = await api.call("POST", "/auth/token", json=body, expect=401)
        assert answer.headers["WWW-Authenticate"]
        told.append({name: value for name, value in answer.json.items() if name != "request_id"})
    assert told[0]["code"] == "invalid_credentials"
    assert all(one == told[0] for one in told)


async def test_every_byte_of_a_password_counts(api: Api) -> None:
    for n, (password, other) in enumerate(
        [
            ("nul\x00 and after", "nul\x00 and other"),
            ("x" * 1023 + "a", "x" * 1023 + "b"),
            ("pässwörd", "passwörd"),
        ]
    ):
        name = f"user{n}"
        await api.register(name, password=password)
        for given, status in ((password, 200), (other, 401)):
            body = {"username": name, "password": given}
            await api.call("POST", "/auth/token", expect=status, json=body)
            await api.call("POST", "/auth/token", expect=status, data=body)


async def test_a_refresh_token_is_replaced_and_theft_ends_the_session(
    api: Api, ann: Person, sql: Sql
) -> None:
    body = {"refresh_token": ann.refresh_token}
    first = (await api.call("POST", "/auth/token/refresh", json=body, expect=200)).json
    assert set(first) == {"access_token", "refresh_token", "token_type", "expires_in"}
    again = (await api.call("POST", "/auth/token/refresh", json=body, expect=200)).json
    for pair in (first, again):
        await api.call("GET", "/users/me", token=pair["access_token"], expect=200)
    await sql("UPDATE refresh_tokens SET superseded_at = superseded_at - interval '11 seconds'")
    await problem(api, "/auth/token/refresh", 401, "refresh_reused", json=body)
    for pair in (first, again):
        told = (await api.call("GET", "/users/me", token=pair["access_token"], expect=401)).json
        assert told["code"] == "session_revoked"
        left = {"refresh_token": pair["refresh_token"]}
        await problem(api, "/auth/token/refresh", 401, "session_revoked", json=left)
    for unknown in ("x", ann.token, ""):
        await problem(api, "/auth/token/refresh", 401, "token_invalid", json={"refresh_token": unknown})


async def test_a_session_is_seen_and_ended_from_another(api: Api, ann: Person) -> None:
    headers = {"User-Agent": "a phone"}
    body = {"username": ann.username, "password": PASSWORD}
    phone = (await api.call("POST", "/auth/token", json=body, headers=headers, expect=200)).json
    shown = (await ann.get("/auth/sessions"))["items"]
    assert [set(one) for one in shown] == [
        {"id", "created_at", "last_seen_at", "user_agent", "ip", "current"}
    ] * 2
    assert (shown[0]["user_agent"], [one["current"] for one in shown]) == ("a phone", [False, True])
    assert {one["ip"] for one in shown} == {"127.0.0.1"}
    await ann.call("DELETE", f"/auth/sessions/{shown[0]['id']}", expect=204)
    await api.call("GET", "/users/me", token=phone["access_token"], expect=401)
    assert len((await ann.get("/auth/sessions"))["items"]) == 1
    for gone in (shown[0]["id"], NOWHERE, "x", "1"):
        await ann.call("DELETE", f"/auth/sessions/{gone}", expect=404)


async def test_others_sessions_are_not_there(ann: Person, bob: Person) -> None:
    (session,) = (await bob.get("/auth/sessions"))["items"]
    await ann.call("DELETE", f"/auth/sessions/{session['id']}", expect=404)
    await bob.get("/users/me")


async def test_lists_are_pages(ann: Person) -> None:
    for _ in range(4):
        await ann.sign_in()
    seen: list[str] = []
    cursor: Json = {}
    while True:
        page = await ann.get("/auth/sessions", params={"limit": "2", **cursor})
        seen += [one["id"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len(seen) == len(set(seen)) == 5
    assert seen == sorted(seen, reverse=True)
    for path in ("/auth/sessions", "/users", "/blocks"):
        for wrong in ({"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"cursor": "x"}, {"cursor": "WzFd"}):
            await ann.get(path, params=wrong, expect=422)


async def test_signing_out_is_felt_by_every_transport_of_this_session_alone(
    start: Start, ann: Person
) -> None:
    other_device, elsewhere = await ann.sign_in(), ann.at(await start())
    cursor = (await elsewhere.poll())["cursor"]
    async with ann.ws() as socket, elsewhere.sse() as stream, other_device.ws() as kept:
        poll = asyncio.create_task(elsewhere.call("GET", f"/realtime/poll?cursor={cursor}&wait=30"))
        await ann.call("POST", "/auth/logout", expect=204)
        async with asyncio.timeout(1):
            assert (await socket.closed()).code == 4401
            blocks = await stream.closed()
            assert (await poll).status == 401
        assert [b.json["data"]["reason"] for b in blocks if b.event == "session.revoked"] == ["logout"]
        assert await kept.command("ping") == {}
    for person in (ann, elsewhere):
        await person.get("/users/me", expect=401)
    await other_device.get("/users/me")


async def test_suspending_shuts_out_at_once_and_until_it_ends(
    api: Api, start: Start, moderator: Person, ann: Person, bob: Person
) -> None:
    path = f"/admin/users/{ann.username}/suspend"
    await bob.call("POST", path, expect=403)
    await bob.call("POST", f"/admin/users/{NOWHERE}/suspend", expect=403)
    await api.call("POST", path, expect=401)
    for nobody in (NOWHERE, "nobody", "x"):
        await moderator.call("POST", f"/admin/users/{nobody}/suspend", expect=404)
    await moderator.call("POST", f"/admin/users/{moderator.id}/suspend", expect=422)
    elsewhere = ann.at(await start())
    async with elsewhere.ws() as socket:
        await moderator.call("POST", path, expect=204)
        assert (await socket.closed(1)).code == 4401
    await moderator.call("POST", path, expect=204)
    await ann.get("/users/me", expect=401)
    told = await sign_in(api, ann.username, expect=403)
    assert told["code"] == "account_suspended"
    assert (await sign_in(api, ann.username, "wrong horse", expect=401))["code"] == "invalid_credentials"
    await moderator.call("DELETE", f"/admin/users/{ann.id}/suspend", expect=204)
    await ann.get("/users/me", expect=401)
    assert (await sign_in(api, ann.username))["user"]["id"] == ann.id


async def test_a_profile_is_changed_in_part(ann: Person, bob: Person) -> None:
    changed = (
        await ann.call(
            "PATCH",
            "/users/me",
            json={"bio": "Numbers 🧮", "interests": ["verse"], "settings": {"private": True}},
            expect=200,
        )
    ).json
    assert (changed["bio"], changed["interests"]) == ("Numbers 🧮", ["verse"])
    assert changed["settings"] == {"private": True, "presence": True}
    nothing: list[Json] = [{}, {"avatar_media_id": None}, {"settings": {}}]
    for body in nothing:
        assert (await ann.call("PATCH", "/users/me", json=body, expect=200)).json == changed
    shown = await bob.get(f"/users/{ann.username}")
    assert set(shown) == PROFILE
    assert shown["bio"] == "Numbers 🧮"


async def test_a_wrong_change_is_named(ann: Person) -> None:
    wrong: list[tuple[Json, str]] = [
        ({"username": "other"}, "/username"),
        ({"settings": {"colour": "red"}}, "/settings/colour"),
        ({"settings": {"private": "yes"}}, "/settings/private"),
        ({"settings": None}, "/settings"),
        ({"display_name": ""}, "/display_name"),
        ({"display_name": "x" * 101}, "/display_name"),
        ({"display_name": None}, "/display_name"),
        ({"display_name": "a\x00b"}, "/display_name"),
        ({"bio": "x" * 1001}, "/bio"),
        ({"interests": ["ok", 1]}, "/interests/1"),
        ({"interests": ["x"] * 21}, "/interests"),
        ({"avatar_media_id": "x"}, "/avatar_media_id"),
    ]
    for body, pointer in wrong:
        told = (await ann.call("PATCH", "/users/me", json=body, expect=422)).json
        assert pointers(told) == [pointer]


async def test_an_avatar_must_be_there(ann: Person) -> None:
    told = (await ann.call("PATCH", "/users/me", json={"avatar_media_id": NOWHERE}, expect=422)).json
    assert (told["code"], pointers(told)) == ("media_not_found", ["/avatar_media_id"])


async def test_users_are_named_by_name_or_id(ann: Person, bob: Person) -> None:
    for name in (bob.username, bob.username.upper(), bob.id, bob.id.upper()):
        assert (await ann.get(f"/users/{name}"))["id"] == bob.id
    for nobody in ("nobody", NOWHERE, "x", "%00", "%FF", quote("ü" * 50), "a" * 300):
        await ann.get(f"/users/{nobody}", expect=404)


async def test_a_block_hides_both_and_is_listed(ann: Person, bob: Person, carol: Person) -> None:
    for _ in range(2):
        await ann.call("PUT", f"/users/{bob.username}/block", expect=204)
    await bob.get(f"/users/{ann.id}", expect=404)
    await ann.get(f"/users/{bob.id}", expect=404)
    for viewer, hidden in ((ann, bob), (bob, ann)):
        listed = {user["id"] for user in (await viewer.get("/users"))["items"]}
        assert carol.id in listed
        assert hidden.id not in listed
    blocked = (await ann.get("/blocks"))["items"]
    assert [(set(user), user["id"]) for user in blocked] == [(PROFILE, bob.id)]
    assert (await bob.get("/blocks"))["items"] == []
    for _ in range(2):
        await ann.call("DELETE", f"/users/{bob.id}/block", expect=204)
    await bob.get(f"/users/{ann.id}")
    for method in ("PUT", "DELETE"):
        await ann.call(method, f"/users/{NOWHERE}/block", expect=404)
    await ann.call("PUT", f"/users/{ann.id}/block", expect=422)


async def test_a_block_closes_the_direct_conversation(ann: Person, bob: Person) -> None:
    conversation = await ann.direct_with(bob)
    await bob.call("PUT", f"/users/{ann.username}/block", expect=204)
    for person in (ann, bob):
        told = await person.post(f"/conversations/{conversation}/messages", {"body": "hi"}, expect=403)
        assert told["code"] == "blocked"
    await bob.call("DELETE", f"/users/{ann.username}/block", expect=204)
    await ann.say(conversation)


async def test_deleting_an_account_leaves_its_messages_and_its_groups(
    api: Api, ann: Person, bob: Person, carol: Person
) -> None:
    group = await ann.group_with(bob, carol)
    direct = await ann.direct_with(bob)
    await ann.say(group, "goodbye")
    async with bob.ws() as socket, ann.ws() as own:
        told = (await ann.call("DELETE", "/users/me", json={"password": "wrong horse"}, expect=403)).json
        assert told["code"] == "wrong_password"
        await ann.call("DELETE", "/users/me", json={}, expect=422)
        await ann.call("DELETE", "/users/me", json={"password": PASSWORD}, expect=204)
        removed = (await socket.event("member.removed"))["data"]
        assert (removed["conversation_id"], removed["user"]["id"]) == (group, ann.id)
        assert (await own.closed(1)).code == 4401
    await ann.get("/users/me", expect=401)
    await bob.get(f"/users/{ann.id}", expect=404)
    await bob.get(f"/users/{ann.username}", expect=404)
    shown = await bob.get(f"/conversations/{group}")
    assert shown["member_count"] == 2
    assert "owner" in {member["role"] for member in shown["members"]}
    (message,) = (await bob.get(f"/conversations/{group}/messages"))["items"]
    assert (message["body"], message["sender_id"]) == ("goodbye", ann.id)
    other = next(
        m["user"] for m in (await bob.get(f"/conversations/{direct}"))["members"] if m["user"]["id"] == ann.id
    )
    assert ann.username not in str(other)
    await sign_in(api, ann.username, expect=401)
    assert (await api.register(ann.username)).id != ann.id


async def test_an_access_token_ends_by_itself(start: Start) -> None:
    api = await start(access_token_seconds=1)
    ann = await api.register()
    async with ann.ws() as socket:
        assert isinstance(closing := await socket.closed(3), Closed)
        assert closing.code == 4401
    told = await ann.get("/users/me", expect=401)
    assert told["code"] == "token_expired"
    body = {"refresh_token": ann.refresh_token}
    pair = (await api.call("POST", "/auth/token/refresh", json=body, expect=200)).json
    await api.call("GET", "/users/me", token=pair["access_token"], expect=200)


async def test_tenants_are_worlds_of_their_own(start: Start, sql: Sql) -> None:
    api = await start(base_domain="chat.test")
    for slug in ("acme", "globex"):
        await sql("INSERT INTO tenants (id, slug, name) VALUES (gen_random_uuid(), $1, $1)", slug)

    async def call(tenant: str, method: str, path: str, **more: Any) -> Json:
        headers = {"Host": f"{tenant}.chat.test"} if tenant else {}
        answer = await api.call(method, path, headers=headers, **more)
        return answer.json if answer.text else {}

    body = {"username": "ada", "email": "ada@example.com", "password": PASSWORD}
    made = {
        tenant: await call(tenant, "POST", "/auth/register", json=body, expect=201)
        for tenant in ("acme", "globex", "")
    }
    assert len({one["user"]["id"] for one in made.values()}) == 3
    ours, theirs = made["acme"], made["globex"]
    token = ours["access_token"]
    assert (await call("acme", "GET", "/users/me", token=token, expect=200))["id"] == ours["user"]["id"]
    for elsewhere in ("globex", ""):
        told = await call(elsewhere, "GET", "/users/me", token=token, expect=401)
        assert told["code"] == "token_invalid"
        refresh = {"refresh_token": ours["refresh_token"]}
        await call(elsewhere, "POST", "/auth/token/refresh", json=refresh, expect=401)
    await call("acme", "GET", f"/users/{theirs['user']['id']}", token=token, expect=404)
    members = {"kind": "direct", "members": [theirs["user"]["id"]]}
    told = await call("acme", "POST", "/conversations", token=token, json=members, expect=422)
    assert told["code"] == "user_not_found"
    await call("nowhere", "POST", "/auth/register", json=body, expect=404)
