"""Brings a database to the schema this code needs."""

from __future__ import annotations

from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"
LOCK = 0x7061726C6579  # "parley": instances that start together migrate one after another


class SchemaTooNew(Exception):
    """The database was migrated by a newer version of the code."""


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    return config


def _run(connection: Connection, revision: str, down: bool) -> None:
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
    connection.commit()
    try:
        if down:
            command.downgrade(_config(connection), revision)
        else:
            command.upgrade(_config(connection), revision)
        connection.commit()
    except CommandError as error:
        if "locate revision" in str(error):
            raise SchemaTooNew(str(error)) from error
        raise
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK})
        connection.commit()


async def _migrate(database_url: str, revision: str, *, down: bool) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://",
        poolclass=NullPool,
        async_creator=lambda: asyncpg.connect(database_url, timeout=10),
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run, revision, down)
    finally:
        await engine.dispose()


async def upgrade(database_url: str) -> None:
    """Migrates to the newest schema, under a lock that other starting instances wait for.

    Raises :class:`SchemaTooNew` where the database is ahead of the code, and whatever connecting raises.
    """
    await _migrate(database_url, "head", down=False)


async def downgrade(database_url: str, revision: str = "base") -> None:
    """Takes the schema back; data of dropped tables is lost. For development and tests."""
    await _migrate(database_url, revision, down=True)


def newest_revision() -> str:
    """The revision this code needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def known_revisions() -> list[str]:
    """Every revision this code has, the newest first. Reads files: blocks."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]
