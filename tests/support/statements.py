"""Every SQL statement of the stores, with values to run it with on a database that :func:`enlarge` has filled.

A new constant has to be entered here, in :func:`examples` or in :data:`EXEMPT`: `tests/integration/test_query_plans.py`
looks for all there are.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import storage
from domain.ids import DEFAULT_TENANT
from storage.database import Connection

_SQL = re.compile(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b")

EXEMPT = {
    "deployment": "one row, read at a start",
    "seeding": "a command that runs alone",
    "retention.TRY_LEAD": "no table",
    "retention.STOP_LEADING": "no table",
    "retention.PARTITIONS": "the catalogue",
    "retention.DETACHED": "the catalogue",
    "retention.NAMES": "the catalogue",
    "receipts.TRY_SWEEP": "no table",
}
"""Statements, and whole modules, that need no index, and why."""

GROWING = {
    *(
        "users",
        "auth_sessions",
        "refresh_tokens",
        "realtime_tickets",
        "blocks",
        "idempotency_keys",
        "tenants",
    ),
    *("conversations", "conversation_members", "membership_windows", "receipts_owed", "events", "log_marks"),
    *("messages", "message_edits", "reactions"),
}
"""Tables that get larger with use, each of which :func:`enlarge` fills. Of the others, each has one row."""

# Beside what is seeded: everything else that grows, one row for each user or message.
_ENLARGE = """
INSERT INTO auth_sessions (tenant_id, id, user_id, expires_at)
    SELECT tenant_id, gen_random_uuid(), id, now() + interval '7 days' FROM users;
INSERT INTO auth_sessions (tenant_id, id, user_id, expires_at, revoked_at)
    SELECT tenant_id, gen_random_uuid(), id, now(), now() - interval '40 days' FROM users LIMIT 50;
INSERT INTO refresh_tokens (digest, tenant_id, session_id, generation)
    SELECT sha256(id::text::bytea), tenant_id, id, 0 FROM auth_sessions;
INSERT INTO realtime_tickets (digest, tenant_id, user_id, session_id, expires_at, access_expires_at)
    SELECT sha256(id::text::bytea), tenant_id, user_id, id, now() + interval '30 s', now() FROM auth_sessions;
INSERT INTO idempotency_keys (tenant_id, user_id, key, fingerprint, status, body)
    SELECT tenant_id, id, 'key', '', 200, '' FROM users;
INSERT INTO blocks (tenant_id, blocker_id, blocked_id)
    SELECT tenant_id, id, lead FROM (SELECT tenant_id, id, lead(id, 500) OVER (ORDER BY id) FROM users) u
    WHERE lead IS NOT NULL;
INSERT INTO message_edits (tenant_id, conversation_id, seq, version, body, edited_at, position)
    SELECT tenant_id, conversation_id, seq, 1, body, created_at, position FROM messages LIMIT 4000;
INSERT INTO reactions (tenant_id, conversation_id, seq, emoji, user_id)
    SELECT tenant_id, conversation_id, seq, '+', sender_id FROM messages LIMIT 4000 ON CONFLICT DO NOTHING;
INSERT INTO receipts_owed (tenant_id, conversation_id, user_id, due_at)
    SELECT tenant_id, conversation_id, user_id, now() + interval '1 s' FROM conversation_members LIMIT 4000;
INSERT INTO membership_windows (tenant_id, conversation_id, user_id, opens, closes)
    SELECT tenant_id, conversation_id, user_id, -2, -1 FROM conversation_members LIMIT 50;
INSERT INTO log_marks (log, at, position)
    SELECT 0, now() - n * interval '1 min', 3000 - n FROM generate_series(1441, 4000) n;
INSERT INTO tenants (id, slug, name) SELECT gen_random_uuid(), 't' || n, '' FROM generate_series(1, 3000) n;
ANALYZE
"""


async def enlarge(connection: Connection) -> None:
    """Fills every table that grows and that seeding leaves empty, and has statistics made."""
    await connection.execute(_ENLARGE)


def statements() -> dict[str, str]:
    """Every statement of the stores by ``module.NAME``, the private parts of others left out."""
    found: dict[str, str] = {}
    parts: list[tuple[str, str]] = []
    for info in pkgutil.iter_modules(storage.__path__):
        for name, value in vars(importlib.import_module(f"storage.{info.name}")).items():
            if isinstance(value, str) and not name.startswith("__") and _SQL.match(value):
                if name.startswith("_"):
                    parts.append((f"{info.name}.{name}", value))
                else:
                    found[f"{info.name}.{name}"] = value
    for name, part in parts:
        assert any(part in whole for whole in found.values()), f"{name} is part of no public statement"
    return found


def exempt(name: str) -> bool:
    return name in EXEMPT or name.partition(".")[0] in EXEMPT


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows that are there: a user and a peer, their direct conversation, a group the user owns, a message in it."""

    user: UUID
    peer: UUID
    users: Sequence[UUID]
    direct: UUID
    group: UUID
    groups: Sequence[UUID]
    seq: int
    message: UUID
    client: UUID
    position: int
    head: int
    session: UUID
    sessions: Sequence[UUID]
    digest: bytes
    username: str

    @classmethod
    async def taken(cls, connection: Connection) -> Sample:
        group = await connection.fetchrow(
            "SELECT c.id, c.created_by, c.last_seq, m.id AS message, m.client_id, m.position FROM conversations c"
            " JOIN messages m ON m.conversation_id = c.id AND m.seq = c.last_seq"
            " WHERE c.kind = 'group' AND c.last_seq > 5 ORDER BY c.id LIMIT 1"
        )
        assert group is not None
        user = group["created_by"]
        direct = await connection.fetchrow(
            "SELECT id, CASE direct_low WHEN $1 THEN direct_high ELSE direct_low END AS peer FROM conversations"
            " WHERE $1 IN (direct_low, direct_high)",
            user,
        )
        session = await connection.fetchrow("SELECT id FROM auth_sessions WHERE user_id = $1", user)
        assert direct is not None
        assert session is not None

        async def column(statement: str, *values: object) -> list[Any]:
            return [row[0] for row in await connection.fetch(statement, *values)]

        return cls(
            user=user,
            peer=direct["peer"],
            users=await column("SELECT id FROM users ORDER BY id LIMIT 50"),
            direct=direct["id"],
            group=group["id"],
            groups=await column("SELECT conversation_id FROM conversation_members WHERE user_id = $1", user),
            seq=group["last_seq"],
            message=group["message"],
            client=group["client_id"],
            position=group["position"],
            head=await connection.fetchval("SELECT position FROM log_heads"),
            session=session["id"],
            sessions=await column("SELECT id FROM auth_sessions ORDER BY id LIMIT 50"),
            digest=await connection.fetchval(
                "SELECT digest FROM refresh_tokens WHERE session_id = $1", session["id"]
            ),
            username=await connection.fetchval("SELECT username FROM users WHERE id = $1", user),
        )


def examples(s: Sample) -> Mapping[str, Sequence[object]]:
    """Values for every statement, those of a busy moment where it takes many at once."""
    tenant, now = DEFAULT_TENANT, datetime.now(UTC)
    many = [tenant] * len(s.users)
    sessions = [tenant] * len(s.sessions)
    mine = [tenant] * len(s.groups)
    new, digest = uuid4(), uuid4().bytes
    one_message = (
        now,
        [tenant],
        [s.group],
        [s.user],
        [uuid4()],
        [new],
        ["hi"],
        [s.seq],
        [b"x"],
        [',"body":"hi"}'],
    )
    return {
        "auth_sessions.INSERT_SESSION": (tenant, new, s.user, "", "", digest, 60.0),
        "auth_sessions.LOCK_FOR_REFRESH": (tenant, s.digest),
        "auth_sessions.READ_FOR_REFRESH": (tenant, s.digest),
        "auth_sessions.ROTATE": (tenant, s.session, digest, "", "", 60.0),
        "auth_sessions.REPEAT": (tenant, s.session, digest, "", "", 60.0),
        "auth_sessions.REVOKE": (tenant, s.user, "logout", None),
        "auth_sessions.LOAD_ALIVE": (sessions, s.sessions),
        "auth_sessions.LIST_SESSIONS": (tenant, s.user, None, 20),
        "auth_sessions.TOUCH": (sessions, s.sessions, [now] * len(s.sessions)),
        "auth_sessions.PURGE": (30 * 86400.0, 100),
        "blocks.LOCK_DIRECT": (tenant, s.user, s.peer),
        "blocks.INSERT_BLOCK": (tenant, s.user, s.peer),
        "blocks.DELETE_BLOCK": (tenant, s.user, s.peer),
        "blocks.DELETE_BLOCKS_OF": (tenant, s.user),
        "blocks.LIST_BLOCKS": (tenant, s.user, None, None, 20),
        "conversation_views.LIST": (tenant, s.user, None, None, 20),
        "conversation_views.READ": (tenant, s.user, s.group),
        "conversations.LOCK": (tenant, s.group),
        "conversations.LOCK_GROUPS_OF": (tenant, s.user, 100),
        "conversations.READ_STANDING": (tenant, s.direct, s.user),
        "conversations.INSERT_GROUP": (tenant, new, "A group", "joined", s.user),
        "conversations.INSERT_DIRECT": (tenant, new, s.user, s.users[-1]),
        "conversations.FIND_DIRECT": (tenant, s.user, s.peer),
        "conversations.PLACE": (tenant, s.group, s.head + 1, [s.user]),
        "conversations.UPDATE_DETAILS": (tenant, s.group, "Another", None),
        "idempotency.INSERT_KEY": (tenant, s.user, "another", b""),
        "idempotency.UPDATE_ANSWER": (tenant, s.user, "key", 201, b""),
        "idempotency.READ_ANSWER": (tenant, s.user, "key"),
        "idempotency.DELETE_EXPIRED": (100,),
        "log.TAKE_POSITIONS": (0, 5),
        "log.INSERT_EVENTS": ([s.head + 1], [tenant], [2], [s.group], ["x"], ["{}"], [None], now),
        "log.READ_HEAD": (0,),
        "log.RENEW_EPOCH": (0, 1),
        "log.READ_RANGE": (s.head - 500, s.head, 500),
        "log.READ_WINDOWS": (
            [2] * len(s.groups),
            s.groups,
            [1] * len(s.groups),
            [None] * len(s.groups),
            s.head // 2,
            s.head,
            100,
        ),
        "log.READ_VIEWS": (many, s.users, 0),
        "log.REDACT": ([s.position], '{"body": null}'),
        "log.CLOSE_WINDOWS": (tenant, s.group, [s.user], s.head),
        "members.ADD": (tenant, s.group, [s.users[-1]], ["member"]),
        "members.HOLD_USERS": (tenant, s.users),
        "members.FIND_PRESENT": (tenant, s.group, s.users),
        "members.PLACE": (tenant, s.group, [s.user], [s.head + 1]),
        "members.REMOVE": (tenant, s.group, s.user),
        "members.IS_IN_GROUP": (tenant, s.user),
        "members.REMOVE_FROM": (tenant, s.user, s.groups),
        "members.CLOSE_WINDOWS": (tenant, s.user, s.groups, [s.head] * len(s.groups)),
        "members.UPDATE_ROLE": (tenant, s.group, s.user, "admin"),
        "members.UPDATE_OWN": (tenant, s.group, s.user, True, True, None),
        "members.FIND": (tenant, s.group, None, s.username),
        "members.FIND_SENIOR": (tenant, s.group, s.user),
        "members.PROMOTE_HEIRS": (tenant, s.groups, s.user),
        "members.LIST": (tenant, s.group, s.user, None, -1, UUID(int=0), 20),
        "message_batches.SEND_BATCH": one_message,
        "messages.LIST_BEFORE": (tenant, s.group, s.user, None, 20),
        "messages.LIST_AFTER": (tenant, s.group, s.user, 0, 20),
        "messages.READ_VISIBLE": (tenant, s.group, s.user, s.seq, 1),
        "messages.READ_PLACE": (tenant, s.group, s.seq),
        "messages.FIND_DELETION": (tenant, s.group, s.seq),
        "messages.READ": (tenant, s.group, s.user, s.seq),
        "messages.FIND_BY_CLIENT_ID": (tenant, s.user, s.client),
        "messages.REPLACE_BODY": (tenant, s.group, s.seq, "better"),
        "messages.PLACE_EDIT": (tenant, s.group, s.seq, s.position, 1),
        "messages.READ_EDITS": (tenant, s.group, s.seq),
        "messages.BURY": (tenant, s.group, s.seq),
        "presence.READ_SHOWN": (many, [s.user] * len(s.users), s.users),
        "presence.STORE_SEEN": (s.users, [now] * len(s.users)),
        "reactions.INSERT": (tenant, s.group, s.seq, "!", s.user),
        "reactions.COUNT_DIFFERENT": (tenant, s.group, s.seq),
        "reactions.DELETE": (tenant, s.group, s.seq, "!", s.user),
        "receipts.LOCK_CONVERSATIONS": (mine, s.groups),
        "receipts.READ_STATES": (mine, s.groups, [s.user] * len(s.groups)),
        "receipts.WRITE": (
            mine,
            s.groups,
            [s.user] * len(s.groups),
            *([[1] * len(s.groups)] * 4),
            *([[True] * len(s.groups)] * 2),
        ),
        "receipts.FIND_DUE": (500,),
        "receipts.FORGET_OWED": (mine, s.groups, [s.user] * len(s.groups)),
        "receipts.FIND_DELIVERED": (many, s.users, [s.head] * len(s.users)),
        "retention.MARK": (0,),
        "retention.RAISE_FLOOR": (0, timedelta(hours=48)),
        "retention.FORGET_MARKS": (0, timedelta(hours=48)),
        "retention.FORGET_WINDOWS": (5, 100),
        "tenants.FIND_TENANTS": (["t1", "t2", "nobody"],),
        "tenants.INSERT_TENANT": (new, "another", "Another"),
        "tickets.INSERT_TICKETS": ([digest], [tenant], [s.user], [s.session], [now.timestamp()], 30.0),
        "tickets.TAKE_TICKETS": ([s.digest],),
        "tickets.PURGE_TICKETS": (),
        "typing.READ_TYPISTS": (mine, s.groups, [s.user] * len(s.groups)),
        "users.INSERT_USER": (tenant, new, "another", "another@example.com", "", "Another", 0),
        "users.FIND_TAKEN": (tenant, s.username, f"{s.username}@seed.example"),
        "users.FIND_USER_BY_ID": (tenant, s.user),
        "users.FIND_USER_BY_NAME": (tenant, s.username),
        "users.FIND_VISIBLE": (tenant, s.user, [*s.users, None], [*([None] * len(s.users)), s.username]),
        "users.FIND_BY_USERNAME": (tenant, s.username),
        "users.FIND_BY_EMAIL": (tenant, f"{s.username}@seed.example"),
        "users.FIND_BY_ID": (tenant, s.user),
        "users.LOCK_USER": (tenant, s.user),
        "users.LIST_USERS": (tenant, s.user, None, 20),
        "users.UPDATE_PROFILE": (tenant, s.user, "Ada", None, None, "{}"),
        "users.REPLACE_HASH": (tenant, s.user, "!"),
        "users.SET_SUSPENDED": (tenant, s.user, True),
        "users.ANONYMISE": (tenant, s.user),
        "users.CHECK_VISIBLE": (tenant, s.user, s.users),
    }


def literal(value: object) -> str:
    """A value as SQL, for EXECUTE, which takes no parameters."""
    if value is None:
        return "NULL"
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    if isinstance(value, list | tuple):
        return "'{" + ",".join(_element(each) for each in value) + "}'"
    return "'" + str(value).replace("'", "''") + "'"


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    text = "\\x" + value.hex() if isinstance(value, bytes) else str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("'", "''") + '"'
