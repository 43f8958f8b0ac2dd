"""Another user's ids on every operation and command, generated from the tables of both, so that none is forgotten.

Whoever may not know of a thing gets the answer that a thing which is not there gives, to the byte, and changes nothing.
A parameter that this file has not been told about fails a test: say in ``PATHS`` or ``FIELDS`` what it is.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from handlers.endpoint import Route
from handlers.ops import COMMANDS
from handlers.routes import ROUTES
from handlers.schemas.commands import SendMessage
from handlers.schemas.common import PageQuery
from server.embedded import EmbeddedServices
from server.openapi import path_names
from tests.conftest import settings_for_tests
from tests.support.clients import Answer, Api, Json, Person, Socket, Watcher
from tests.support.house import running

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.allow_blocking]

Key = Literal["conversation_id", "session_id", "user", "admin", "none"]
"""Which parameter decides whether a caller may know of the thing."""

PATHS: Mapping[str, str] = {
    "conversation_id": "id", "session_id": "id", "user": "id",
    "seq": "inside its conversation", "emoji": "text", "asset": "the name of a public file",
}  # fmt: skip
FIELDS: Mapping[str, str] = {
    "members": "ids", "user_ids": "ids", "client_id": "id", "reply_to_seq": "inside its conversation",
    "seq": "inside its conversation", "before_seq": "inside its conversation", "after_seq": "inside its conversation",
    "conversation_id": "id", "cursor": "cursor",
    # There is no media yet. When there is, a test below fails, and these become ids.
    "avatar_media_id": "media", "attachments": "media",
    # Who has one is who it belongs to.
    "ticket": "credential", "access_token": "credential", "refresh_token": "credential", "password": "credential",
    "client_secret": "credential", "username": "credential",
    "email": "text", "display_name": "text", "bio": "text", "interests": "text", "body": "text", "title": "text",
    "emoji": "text", "scope": "text", "grant_type": "choice", "settings": "choice", "kind": "choice",
    "history": "choice", "role": "choice", "pinned": "choice", "muted_until": "choice", "cookie": "choice",
    "topics": "choice", "limit": "number", "wait": "number",
}  # fmt: skip
SECRET = "what nobody else may read"
ROWS = """
SELECT c.relname, c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind = 'r' AND c.relname <> ALL ($1) ORDER BY 1
"""
NOT_COMPARED = ["log_heads", "log_marks"]
OWN_PACE = (
    "last_seen_at", "read_announced_seq", "read_announced_at", "delivered_announced_seq", "delivered_announced_at"
)  # fmt: skip
"""Columns that change by themselves some time after what was rightly done: sightings, and sweeps of receipts."""


def key_of(route: Route) -> Key:
    names = path_names(route.path)
    if "/admin/" in route.path:
        return "admin"
    for key in ("conversation_id", "session_id", "user"):
        if key in names:
            return key
    return "none"


def names_of(model: Any) -> list[str]:
    return list(model.model_fields) if model is not None else []


GUARDED = [route for route in ROUTES if key_of(route) != "none"]
NAMING = [route for route in ROUTES if {"members"} & {*names_of(route.body)}]
LISTS = [route for route in ROUTES if route.query is not None and issubclass(route.query, PageQuery)]
ALL_COMMANDS = {"message.send": SendMessage, **{op: command.data for op, command in COMMANDS.items()}}


def title(route: Route) -> str:
    return f"{route.method} {route.path.removeprefix('/api/v1')}"


class Workspace(Api):
    """The same instance, asked as the host of another tenant."""

    async def call(self, method: str, path: str, **more: Any) -> Answer:
        headers = {"Host": "acme.chat.test", **more.pop("headers", {})}
        return await super().call(method, path, headers=headers, **more)


@dataclass(frozen=True, slots=True)
class People:
    """Everybody, and how the rows in the database are."""

    owner: Person
    member: Person
    former: Person
    outsider: Person
    blocked: Person
    """Whom the owner has blocked; in nothing with anybody."""
    foreigner: Person
    """Of another tenant, and a moderator there."""
    newcomer: Person
    """Whom others add to their groups."""
    moderator: Person
    database: asyncpg.Connection[asyncpg.Record]

    async def rows(self) -> dict[str, str]:
        """A digest of every table."""
        tables = await self.database.fetch(ROWS, NOT_COMPARED)
        parts = [
            f"SELECT '{table}' AS name, md5(string_agg(row, E'\\n' ORDER BY row)) AS digest FROM "
            f"(SELECT (to_jsonb(t) - $1::text[])::text AS row FROM {table} t {self._which(table)}) each"
            for table in (table["relname"] for table in tables)
        ]
        digests = await self.database.fetch(" UNION ALL ".join(parts), [*OWN_PACE])
        return {row["name"]: row["digest"] or "" for row in digests}

    @staticmethod
    def _which(table: str) -> str:
        return "WHERE type NOT LIKE 'receipt.%'" if table.startswith("events_") else ""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def people(
    tmp_path_factory: pytest.TempPathFactory,
    module_database_url: str,
    services: EmbeddedServices,
    watch: Watcher,
) -> AsyncIterator[People]:
    settings = settings_for_tests(tmp_path_factory.mktemp("data"), module_database_url, services.redis_url)
    async with AsyncExitStack() as stack:
        database = await asyncpg.connect(module_database_url, timeout=10)
        stack.push_async_callback(database.close)
        await database.execute(
            "INSERT INTO tenants (id, slug, name) VALUES (gen_random_uuid(), 'acme', 'Acme')"
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        changed = settings.model_copy(update={"base_domain": "chat.test"})
        api = await stack.enter_async_context(running(changed, http, watch))
        names = ("owner", "member", "former", "outsider", "blocked", "newcomer", "moderator")
        those = {name: await api.register() for name in names}
        foreigner = await Workspace(api.http, api.url, api.watch).register()
        for moderator in (those["moderator"], foreigner):
            await database.execute("UPDATE users SET permissions = 1 WHERE id = $1::uuid", moderator.id)
        those["moderator"] = await those["moderator"].sign_in()
        foreigner = await foreigner.sign_in()
        await those["owner"].call("PUT", f"/users/{those['blocked'].id}/block", expect=204)
        yield People(**those, foreigner=foreigner, database=database)


@dataclass(frozen=True, slots=True)
class Scene:
    """A group of the owner and the member that the former one has left, with one message; ids of things in it."""

    people: People
    conversation: str
    client_id: str
    session: str

    @classmethod
    async def made(cls, people: People) -> Scene:
        owner = people.owner
        conversation = await owner.group_with(people.member, people.former, title=SECRET)
        client_id = str(uuid.uuid4())
        await owner.say(conversation, SECRET, client_id=client_id)
        path = f"/conversations/{conversation}"
        await owner.call("PATCH", f"{path}/messages/1", json={"body": f"{SECRET}, edited"}, expect=200)
        await owner.call("PUT", f"{path}/messages/1/reactions/👍", expect=204)
        await people.former.call("DELETE", f"{path}/members/{people.former.id}", expect=204)
        await owner.sign_in()
        sessions = (await owner.get("/auth/sessions"))["items"]
        other = next(session["id"] for session in sessions if not session["current"])
        return cls(people, conversation, client_id, other)

    def path(self, route: Route, *, real: bool, user: str | None = None) -> str:
        """The route's path, about what is there or about the same that is not."""
        missing = str(uuid.uuid4())
        deciding = "user" if key_of(route) == "admin" else key_of(route)
        values = {
            "conversation_id": self.conversation,
            "session_id": self.session,
            "user": self.people.member.id if deciding == "conversation_id" else self.people.owner.id,
            "seq": "1",
            "emoji": "👍",
        }
        if not real:
            values[deciding] = missing
        if user is not None:
            values["user"] = user
        path = route.path
        for name in path_names(route.path):
            path = path.replace(f"{{{name}}}", quote(values[name], safe=""))
        return path.removeprefix("/api/v1")

    def data(
        self, fields: list[str], *, client_id: str | None = None, members: list[str] | None = None
    ) -> Json:
        """What a body or command holds that is right but for who sends it."""
        values: Json = {
            "members": members if members is not None else [self.people.newcomer.username],
            "user_ids": [self.people.owner.id],
            "client_id": client_id or self.client_id,
            "conversation_id": self.conversation,
            "reply_to_seq": 1,
            "seq": 1,
            "body": "another text",
            "emoji": "👍",
            "title": "Another title",
            "kind": "group",
            "history": "all",
            "role": "admin",
            "pinned": True,
            "muted_until": None,
            "attachments": [],
            "cookie": False,
        }
        return {name: values[name] for name in fields if name in values}


@pytest_asyncio.fixture(loop_scope="module")
async def scene(people: People) -> Scene:
    return await Scene.made(people)


def told(answer: Answer) -> tuple[int, list[str], str]:
    """An answer without what names the request."""
    text = answer.text
    if answer.headers.get("Content-Type") == "application/problem+json":
        for name in ("instance", "request_id"):
            text = text.replace(json.dumps(answer.json[name]), '"…"', 1)
    return answer.status, sorted(answer.headers), text


async def test_every_parameter_is_known() -> None:
    for route in ROUTES:
        assert {*path_names(route.path)} <= {*PATHS}, f"{title(route)}: say in PATHS what it is"
        unknown = {*names_of(route.body), *names_of(route.query)} - {*FIELDS}
        assert not unknown, f"{title(route)}: say in FIELDS what these are"
        identified = [name for name in path_names(route.path) if PATHS[name] == "id"]
        assert not identified or key_of(route) != "none", title(route)
        ids = {name for name in names_of(route.body) if FIELDS[name] == "ids"}
        assert not ids or route in NAMING, title(route)
    for op, data in ALL_COMMANDS.items():
        assert {*names_of(data)} <= {*FIELDS}, f"{op}: say in FIELDS what these are"
    assert len(GUARDED) > 20
    assert len(NAMING) == 2
    assert len(LISTS) == 5


async def test_there_is_no_media_yet_that_could_be_anothers(people: People) -> None:
    assert await people.database.fetchval("SELECT to_regclass('media')") is None


@pytest.mark.parametrize("route", GUARDED, ids=title)
async def test_a_stranger_to_a_thing_gets_what_a_thing_that_is_not_there_gives(
    people: People, scene: Scene, route: Route
) -> None:
    strangers: Mapping[Key, list[Person]] = {
        "conversation_id": [people.outsider, people.former, people.blocked, people.foreigner],
        "session_id": [people.member, people.outsider, people.foreigner],
        # A block hides, but for blocking: who is blocked may block too, and take that back.
        "user": [people.foreigner] if route.path.endswith("/block") else [people.foreigner, people.blocked],
        "admin": [people.foreigner, people.outsider],
    }
    fields = names_of(route.body)
    before = await people.rows()
    for stranger in strangers[key_of(route)]:
        status = 403 if key_of(route) == "admin" and stranger is not people.foreigner else 404
        for body in (scene.data(fields), {"unknown": 1}) if fields else (None,):
            real = await stranger.call(route.method, scene.path(route, real=True), json=body)
            missing = await stranger.call(route.method, scene.path(route, real=False), json=body)
            assert real.status == status, (stranger, body, real.text)
            assert told(real) == told(missing), (stranger, body)
            assert SECRET not in real.text
    assert await people.rows() == before
    # The same request by who may do it: so it was not refused for something else.
    may = {"admin": people.moderator, "user": people.outsider}.get(key_of(route), people.owner)
    body = scene.data(fields, client_id=str(uuid.uuid4())) if fields else None
    answer = await may.call(route.method, scene.path(route, real=True), json=body)
    assert answer.status in route.answers, answer.text
    if key_of(route) in ("admin", "user"):  # what was done to the owner is done to nobody else
        undo = route.path.rpartition("/")[2]
        if route.method in ("POST", "PUT"):
            await may.call("DELETE", scene.path(route, real=True), expect=204)
            assert undo in ("suspend", "block")
        if undo == "suspend":
            again = await people.owner.sign_in()
            people.owner.token = again.token


WITH_MEMBER = [
    route for route in GUARDED if key_of(route) == "conversation_id" and "user" in path_names(route.path)
]


@pytest.mark.parametrize("route", WITH_MEMBER, ids=title)
async def test_who_is_in_no_conversation_of_ones_own_is_nobody_there(
    people: People, scene: Scene, route: Route
) -> None:
    body = scene.data(names_of(route.body)) or None
    before = await people.rows()
    nobody = await people.owner.call(
        route.method, scene.path(route, real=True, user=str(uuid.uuid4())), json=body
    )
    assert nobody.status == 404
    for other in (people.outsider, people.former, people.blocked, people.foreigner):
        for name in (other.id, other.username):
            answer = await people.owner.call(route.method, scene.path(route, real=True, user=name), json=body)
            assert told(answer) == told(nobody), other
    assert await people.rows() == before


MEMBERS_MAY = {
    "get_conversation", "get_members", "get_messages", "post_message", "get_message", "get_history", "put_reaction",
    "delete_reaction", "post_read", "post_delivered", "post_typing",
}  # fmt: skip


@pytest.mark.parametrize("route", [r for r in GUARDED if key_of(r) == "conversation_id"], ids=title)
async def test_a_member_without_the_right_is_told_so_and_changes_nothing(
    people: People, scene: Scene, route: Route
) -> None:
    before = await people.rows()
    body = scene.data(names_of(route.body), client_id=str(uuid.uuid4())) or None
    about = people.owner.id
    answer = await people.member.call(route.method, scene.path(route, real=True, user=about), json=body)
    if answer.status != 403:
        assert route.handler.__name__ in MEMBERS_MAY, answer.text
        assert answer.status in route.answers
    else:
        assert route.handler.__name__ not in MEMBERS_MAY
        assert SECRET not in answer.text
        assert await people.rows() == before


@pytest.mark.parametrize("route", NAMING, ids=title)
async def test_a_hidden_user_in_a_body_is_a_user_who_is_not_there(people: People, route: Route) -> None:
    scene = await Scene.made(people)
    for caller, hidden in (
        (people.blocked, people.owner),
        (people.owner, people.foreigner),
        (people.foreigner, people.owner),
    ):
        if "conversation_id" in route.path:
            group = await caller.group_with()
            path = scene.path(route, real=True).replace(scene.conversation, group)
        else:
            path = scene.path(route, real=True)
        before = await people.rows()
        for kind in ("group", "direct") if "kind" in names_of(route.body) else (None,):
            answers = []
            for name in (str(uuid.uuid4()), hidden.id, hidden.username):
                body = scene.data(names_of(route.body), members=[name])
                if kind == "direct":
                    body = {"kind": kind, "members": [name]}
                answers.append(told(await caller.call(route.method, path, json=body)))
            assert answers[0][0] == 422, answers[0]
            assert "user_not_found" in answers[0][2]
            assert answers[1:] == [answers[0]] * 2
        assert await people.rows() == before


@pytest.mark.parametrize("route", LISTS, ids=title)
async def test_a_page_cursor_of_anothers_list_shows_ones_own_things_alone(
    people: People, route: Route
) -> None:
    """A cursor is a place in an order, and no permission."""
    scene = await Scene.made(people)
    await Scene.made(people)
    for other in (people.member, people.outsider):
        await people.owner.call("PUT", f"/users/{other.id}/block", expect=204)
    path = scene.path(route, real=True)
    page = await people.owner.get(f"{path}?limit=1")
    cursor = page["next_cursor"]
    for other in (people.member, people.outsider):
        await people.owner.call("DELETE", f"/users/{other.id}/block", expect=204)
    assert cursor is not None
    for stranger in (people.outsider, people.former, people.blocked, people.foreigner):
        answer = await stranger.call("GET", path)
        led = await stranger.call("GET", f"{path}?cursor={cursor}")
        assert led.status == answer.status == (404 if "{" in route.path else 200)
        assert SECRET not in led.text
        if led.status == 200:
            own = [json.dumps(item) for item in answer.json["items"]]
            assert {json.dumps(item) for item in led.json["items"]} <= {*own}


async def test_every_command_about_a_strangers_conversation_is_about_none(
    people: People, scene: Scene
) -> None:
    about = [op for op, data in ALL_COMMANDS.items() if "conversation_id" in names_of(data)]
    assert len(about) >= 9
    before = await people.rows()
    for stranger in (people.outsider, people.former, people.blocked, people.foreigner):
        async with socket_of(stranger) as socket:
            for op in about:
                data = scene.data(names_of(ALL_COMMANDS[op]))
                real = await socket.failing(op, data)
                missing = await socket.failing(op, {**data, "conversation_id": str(uuid.uuid4())})
                assert real["status"] == 404, (op, real)
                assert real == missing, op
    assert await people.rows() == before
    async with socket_of(people.owner) as socket:
        for op in sorted(about, key=lambda op: op == "message.delete"):
            await socket.command(op, scene.data(names_of(ALL_COMMANDS[op]), client_id=str(uuid.uuid4())))


async def test_commands_that_name_users_or_credentials_tell_nothing_of_others(people: People) -> None:
    rest = {
        op: names_of(data) for op, data in ALL_COMMANDS.items() if "conversation_id" not in names_of(data)
    }
    assert rest == {
        "presence.subscribe": ["user_ids"],
        "presence.unsubscribe": ["user_ids"],
        "ack": ["cursor"],
        "auth.refresh": ["access_token"],
        "ping": [],
    }, "a new command: say here what it tells"
    before = await people.rows()
    async with socket_of(people.owner) as online:
        for stranger in (people.blocked, people.foreigner):
            async with socket_of(stranger) as socket:
                nobody = str(uuid.uuid4())
                for op in ("presence.subscribe", "presence.unsubscribe"):
                    real = await socket.command(op, {"user_ids": [people.owner.id]})
                    missing = await socket.command(op, {"user_ids": [nobody]})
                    assert json.dumps(real).replace(people.owner.id, nobody) == json.dumps(missing)
                real = await socket.failing("auth.refresh", {"access_token": people.owner.token})
                missing = await socket.failing("auth.refresh", {"access_token": "not.a.token"})
                assert (real["status"], real["code"]) == (missing["status"], missing["code"])
                await socket.command("ack", {"cursor": online.hello["cursor"]})
    assert await people.rows() == before


@asynccontextmanager
async def socket_of(person: Person) -> AsyncIterator[Socket]:
    """A WebSocket of anybody, foreigners too."""
    headers = {"Authorization": f"Bearer {person.token}"}
    if isinstance(person.api, Workspace):
        headers["Host"] = "acme.chat.test"
    async with person.api.http.ws_connect(f"{person.api.url}/api/v1/realtime/ws", headers=headers) as ws:
        socket = Socket(ws)
        socket.hello = await socket.receive()
        yield socket
