"""`python main.py doctor`: what is set, what can be reached, and what is unsafe."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import asyncpg
from pydantic import SecretStr

from server.data_dir import SECRET_KEY_FILE, prepare_data_dir
from server.embedded.postgres import EmbeddedPostgres
from server.embedded.redis import EmbeddedRedis, find_redis_server
from server.logging import without_password
from server.preflight import (
    FEWEST_DESCRIPTORS,
    check_database,
    check_redis,
    database_error,
    few_descriptors,
)
from server.settings import Settings, environment_name, secret_problem, unknown_names
from server.startup import StartupError
from storage import migrate

_SAFE_BCRYPT_ROUNDS = 10
_SAFE_ACCESS_SECONDS = 3600
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Mark(StrEnum):
    """How bad a finding is. Only BROKEN makes the command fail."""

    GOOD = "ok"
    UNSAFE = "unsafe"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    mark: Mark
    subject: str
    text: str


async def examine(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Everything the doctor looks at, in the order it is printed. Starts and changes nothing."""
    findings = [await asyncio.to_thread(_data_dir, settings.data_dir)]
    findings += await _database(settings)
    findings += await _redis(settings)
    findings += await asyncio.to_thread(_secrets, settings)
    findings += _exposure(settings)
    findings.append(_descriptors())
    findings += [
        Finding(Mark.UNSAFE, name, f"is no setting of Parley{f'; did you mean {meant}?' if meant else ''}")
        for name, meant in unknown_names(environ).items()
    ]
    return findings


def settings_table(settings: Settings, environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Each setting as (variable, value, where it comes from). Secrets are told only as set or not."""
    rows = []
    for field in Settings.model_fields:
        name = environment_name(field)
        origin = (
            "environment"
            if name in environ
            else (".env" if field in settings.model_fields_set else "default")
        )
        rows.append((name, _shown(getattr(settings, field)), origin))
    return rows


def _shown(value: object) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, SecretStr):
        return "(set)"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return f"({len(value)} set)" if isinstance(value[0], SecretStr) else ",".join(map(str, value))
    text = str(value)
    return without_password(text) if "://" in text else text


def _data_dir(data_dir: Path) -> Finding:
    if not data_dir.exists():
        parent = next(p for p in data_dir.parents if p.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return Finding(Mark.GOOD, "data directory", f"{data_dir} will be made at the first start")
        return Finding(
            Mark.BROKEN, "data directory", f"{data_dir} cannot be made: {parent} cannot be written"
        )
    try:
        prepare_data_dir(data_dir)
    except StartupError as error:
        return Finding(Mark.BROKEN, "data directory", str(error))
    return Finding(Mark.GOOD, "data directory", f"{data_dir} can be written")


async def _database(settings: Settings) -> list[Finding]:
    if settings.database_url is None:
        running = await asyncio.to_thread(_url_if_alive, EmbeddedPostgres, settings)
        if running is None:
            return [Finding(Mark.GOOD, "PostgreSQL", "embedded; not running, starts with Parley")]
        url = running
    else:
        url = settings.database_url
    try:
        version = await check_database(url)
        schema = await _schema(url)
    except StartupError as error:
        return [Finding(Mark.BROKEN, "PostgreSQL", str(error))]
    return [Finding(Mark.GOOD, "PostgreSQL", f"{version} at {without_password(url)}"), schema]


def _url_if_alive(kind: type[EmbeddedPostgres | EmbeddedRedis], settings: Settings) -> str | None:
    server = kind(settings.data_dir)
    return server.url() if server.is_alive() else None


async def _schema(url: str) -> Finding:
    known = await asyncio.to_thread(migrate.known_revisions)
    try:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            found: str | None = await connection.fetchval(
                "SELECT version_num FROM alembic_version", timeout=10
            )
        except asyncpg.UndefinedTableError:
            found = None
        finally:
            await connection.close(timeout=10)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise database_error(url, error) from error
    if found is None:
        return Finding(Mark.GOOD, "schema", "not there yet; made at the next start")
    if found not in known:
        return Finding(Mark.BROKEN, "schema", f"{found} is newer than this Parley; run the newer one")
    newest = known[0]
    text = f"{found}, the newest" if found == newest else f"{found}; the next start brings it to {newest}"
    return Finding(Mark.GOOD, "schema", text)


async def _redis(settings: Settings) -> list[Finding]:
    if settings.redis_url is not None:
        url = settings.redis_url
    else:
        running = await asyncio.to_thread(_url_if_alive, EmbeddedRedis, settings)
        if running is None:
            try:
                program = await asyncio.to_thread(find_redis_server)
            except StartupError as error:
                return [Finding(Mark.BROKEN, "Redis", str(error))]
            return [Finding(Mark.GOOD, "Redis", f"embedded ({program}); not running, starts with Parley")]
        url = running
    try:
        version = await check_redis(url)
    except StartupError as error:
        return [Finding(Mark.BROKEN, "Redis", str(error))]
    return [Finding(Mark.GOOD, "Redis", f"{version} at {without_password(url)}")]


def _secrets(settings: Settings) -> list[Finding]:
    path = settings.data_dir / SECRET_KEY_FILE
    findings = []
    if settings.secret_key is not None:
        problem = secret_problem(settings.secret_key)
        mark = Mark.GOOD if problem is None else Mark.UNSAFE
        findings.append(
            Finding(mark, "secret key", f"PARLEY_SECRET_KEY {problem or 'is set and long enough'}")
        )
    elif not path.exists():
        findings.append(Finding(Mark.GOOD, "secret key", f"will be made in {path} at the first start"))
    elif stat.S_IMODE(path.stat().st_mode) & 0o077:
        findings.append(Finding(Mark.UNSAFE, "secret key", f"others can read {path}: chmod 600 {path}"))
    else:
        findings.append(Finding(Mark.GOOD, "secret key", f"in {path}, readable by its owner only"))
    findings += [
        Finding(
            Mark.UNSAFE, "secret key", f"a former key {problem}; drop it from PARLEY_PREVIOUS_SECRET_KEYS"
        )
        for problem in map(secret_problem, settings.previous_secret_keys)
        if problem is not None
    ]
    return findings


def _descriptors() -> Finding:
    limit = few_descriptors()
    if limit is None:
        return Finding(Mark.GOOD, "descriptors", f"{FEWEST_DESCRIPTORS} files or more may be open")
    text = f"ulimit -n is {limit}, and every connection takes one: raise it to {FEWEST_DESCRIPTORS} or more"
    return Finding(Mark.UNSAFE, "descriptors", text)


def _exposure(settings: Settings) -> list[Finding]:
    """Settings that are fine on one's own machine and dangerous where strangers can connect."""
    public = settings.environment == "production" or settings.host not in _LOOPBACK
    doubts = []
    if not settings.rate_limits:
        doubts.append(("rate limits", "PARLEY_RATE_LIMITS is off: passwords can be guessed without end"))
    if settings.bcrypt_rounds < _SAFE_BCRYPT_ROUNDS:
        doubts.append(
            ("passwords", f"PARLEY_BCRYPT_ROUNDS is below {_SAFE_BCRYPT_ROUNDS}: hashes are cheap to guess")
        )
    if settings.access_token_seconds > _SAFE_ACCESS_SECONDS:
        doubts.append(
            ("tokens", "PARLEY_ACCESS_TOKEN_SECONDS is above an hour: a stolen token lives as long")
        )
    if "*" in settings.allowed_origins:
        doubts.append(("origins", "PARLEY_ALLOWED_ORIGINS is *: every web page may connect as its visitor"))
    if any(network.prefixlen == 0 for network in settings.trusted_proxies):
        doubts.append(("proxies", "PARLEY_TRUSTED_PROXIES trusts everyone: any client can forge its address"))
    if public and settings.environment != "production":
        doubts.append(
            ("environment", f"listens on {settings.host} in development; set PARLEY_ENVIRONMENT=production")
        )
    findings = [Finding(Mark.UNSAFE, subject, text) for subject, text in doubts]
    return findings or [Finding(Mark.GOOD, "exposure", "nothing unsafe in the settings")]
