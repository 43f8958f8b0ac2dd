"""A crowd written straight into Parley's database: S5 and S6 measure holding it, not signing it up.

Every user has one sign-in, and is in one conversation common to all and in `conversations_each` - 1 groups with
their neighbours, so that no two users have the same set. Nothing has been said yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg

from domain.ids import DEFAULT_TENANT, SessionId, UserId, new_id
from server.data_dir import with_secret_key
from server.settings import Settings
from services.security.tokens import TokenSigner

_TIMEOUT = 120.0
_TOKEN_SECONDS = 7200


@dataclass(frozen=True, slots=True)
class SeededCrowd:
    """The users' access tokens, good for two hours, the conversation they are all in, and the groups.

    The n-th group of one kind is that of the n-th user and those next on the ring; kinds follow each other.
    """

    tokens: tuple[str, ...] = field(repr=False)
    common_conversation: str
    groups: tuple[str, ...] = field(repr=False)


async def seed_crowd(
    database_url: str, data_dir: Path, users: int, conversations_each: int, group_size: int = 19
) -> SeededCrowd:
    """Write the crowd into a migrated database and sign its tokens with the key of `data_dir`.

    The groups are the stretches of `group_size` neighbours on a ring of all users, each user in as many as asked:
    that needs `conversations_each` - 1 to be a multiple of `group_size`.
    """
    if (conversations_each - 1) % group_size or users <= group_size:
        raise ValueError("the groups do not come out even")
    everybody = [new_id() for _ in range(users)]
    sign_ins = [new_id() for _ in range(users)]
    groups = [
        [everybody[(start + step) % users] for step in range(group_size)]
        for _ in range((conversations_each - 1) // group_size)
        for start in range(users)
    ]
    members = {new_id(): group for group in [everybody, *groups]}
    connection = await asyncpg.connect(database_url, timeout=10, command_timeout=_TIMEOUT)
    try:
        async with connection.transaction():
            # What is written refers to itself only; checking each reference would take longer than the benchmark.
            await connection.execute("SET LOCAL session_replication_role = replica")
            position = await connection.fetchval("SELECT position FROM log_heads WHERE log = 0")
            await _write(connection, everybody, sign_ins, members, int(position))
        await connection.execute("ANALYZE")
    finally:
        await connection.close(timeout=10)
    signer = _signer(data_dir)
    return SeededCrowd(
        tuple(
            signer.access_token(DEFAULT_TENANT, UserId(user), SessionId(sign_in))
            for user, sign_in in zip(everybody, sign_ins, strict=True)
        ),
        str(next(iter(members))),
        tuple(map(str, members))[1:],
    )


def _signer(data_dir: Path) -> TokenSigner:
    settings = with_secret_key(Settings(data_dir=data_dir))
    assert settings.secret_key is not None
    return TokenSigner(
        settings.secret_key.get_secret_value(),
        issuer=settings.issuer,
        audience=settings.audience,
        access_seconds=_TOKEN_SECONDS,
    )


async def _write(
    connection: asyncpg.Connection[asyncpg.Record],
    everybody: Sequence[UUID],
    sign_ins: Sequence[UUID],
    members: dict[UUID, list[UUID]],
    position: int,
) -> None:
    tenant, later = DEFAULT_TENANT, datetime.now(UTC) + timedelta(days=7)

    async def copy(table: str, columns: str, records: Iterable[tuple[object, ...]]) -> None:
        await connection.copy_records_to_table(
            table, records=records, columns=columns.split(), timeout=_TIMEOUT
        )

    await copy(
        "users",
        "tenant_id id username email password_hash display_name",
        (
            (tenant, user, f"held{index:06d}", f"held{index:06d}@bench.example", "!", f"Held {index}")
            for index, user in enumerate(everybody)
        ),
    )
    await copy(
        "auth_sessions",
        "tenant_id id user_id expires_at",
        ((tenant, sign_in, user, later) for user, sign_in in zip(everybody, sign_ins, strict=True)),
    )
    await copy(
        "conversations",
        "tenant_id id kind title member_count created_by activity_position created_position",
        (
            (tenant, conversation, "group", "held", len(group), group[0], position, position)
            for conversation, group in members.items()
        ),
    )
    await copy(
        "conversation_members",
        "tenant_id conversation_id user_id role joined_position",
        (
            (tenant, conversation, user, "owner" if user == group[0] else "member", position)
            for conversation, group in members.items()
            for user in group
        ),
    )
    await copy(
        "membership_windows",
        "tenant_id conversation_id user_id opens",
        ((tenant, conversation, user, position) for conversation, group in members.items() for user in group),
    )
