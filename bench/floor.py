"""The floor under every durable send: one bare commit on the PostgreSQL that Parley itself uses."""

from __future__ import annotations

import time

import asyncpg

_DATABASE = "bench_floor"


async def commit_seconds(database_url: str, count: int) -> list[float]:
    """How long each of `count` one-row inserts took, one after the other, each its own transaction.

    One connection, one prepared statement, 200 bytes a row, in a database of its own beside Parley's (removed
    afterwards), durable as the server is set.
    """
    admin = await asyncpg.connect(database_url, timeout=10)
    try:
        await admin.execute(f"DROP DATABASE IF EXISTS {_DATABASE}")
        await admin.execute(f"CREATE DATABASE {_DATABASE}")
        connection = await asyncpg.connect(database_url, database=_DATABASE, timeout=10)
        try:
            await connection.execute("CREATE TABLE floor (id bigserial PRIMARY KEY, body text NOT NULL)")
            insert = await connection.prepare("INSERT INTO floor (body) VALUES ($1)")
            seconds = []
            for _ in range(count):
                began = time.perf_counter()
                await insert.fetch("x" * 200, timeout=10)
                seconds.append(time.perf_counter() - began)
        finally:
            await connection.close(timeout=10)
        await admin.execute(f"DROP DATABASE {_DATABASE}")
        return seconds
    finally:
        await admin.close(timeout=10)
