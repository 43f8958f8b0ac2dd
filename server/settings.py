"""Every setting Parley reads from its environment, with its meaning, its default and its limits.

Names are the field's in capitals after `PARLEY_`, except `DATABASE_URL` and `REDIS_URL`, which are
what hosting platforms already set. `docs/operations.md` and `.env.example` list them for operators.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.startup import SettingsError

ENV_PREFIX = "PARLEY_"
UNPREFIXED = {"database_url": "DATABASE_URL", "redis_url": "REDIS_URL"}

MIN_SECRET_BYTES = 32
"""HS256 wants a key at least as long as its hash (RFC 7518, section 3.2)."""

PLACEHOLDER_SECRETS = ("change", "secret", "password", "default", "example", "insecure", "test", "dev")
"""A key that starts with one of these was copied from somewhere, so others know it."""

KIB = 1024
MIB = 1024 * KIB


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _database_url(value: str) -> str:
    if urlsplit(value).scheme not in ("postgresql", "postgres"):
        raise ValueError("must look like postgresql://user:password@host:5432/name")
    return value


def _redis_url(value: str) -> str:
    if urlsplit(value).scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must look like redis://host:6379/0, rediss://host:6379/0 or unix:///path/to/socket")
    return value


def _origin(value: str) -> str:
    if value == "*":
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ValueError(f"{value!r} must be a scheme and a host, like https://app.example.com")
    return f"{parts.scheme}://{parts.netloc}".lower()


def _network(value: object) -> object:
    return ip_network(value, strict=False) if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


CommaList = BeforeValidator(_split_commas)
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
Origin = Annotated[str, AfterValidator(_origin)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]


class Settings(BaseSettings):
    """The settings of one instance. Frozen: read once at start, then handed down by constructors.

    Build it with `load_settings` to get errors in one plain line; `Settings(...)` itself raises
    pydantic's `ValidationError` and reads the process's environment, but no `.env` file.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, validate_default=True
    )

    # Where it listens and keeps things
    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for every interface."
    )
    port: int = Field(8080, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    data_dir: Path = Field(
        Path(".parley"),
        description="Directory for the embedded PostgreSQL and Redis, the made secret key and uploads.",
    )
    environment: Literal["development", "production"] = Field(
        "development", description="In production, weak secrets and embedded services are refused."
    )
    base_domain: str | None = Field(
        None, description="Tenants live at <slug>.<base_domain>. Unset: only the default tenant."
    )

    # The two services
    database_url: Annotated[DatabaseUrl | None, Field(validation_alias="DATABASE_URL")] = Field(
        None, description="PostgreSQL 15 or newer. Unset: an embedded PostgreSQL under the data directory."
    )
    redis_url: Annotated[RedisUrl | None, Field(validation_alias="REDIS_URL")] = Field(
        None, description="Redis 6.2 or newer, or Valkey. Unset: an embedded one under the data directory."
    )
    database_pool_size: int = Field(10, ge=2, le=500, description="PostgreSQL connections an instance keeps.")
    allow_embedded: bool = Field(
        False, description="Lets production use the embedded services: right for one machine with backups."
    )

    # Secrets and tokens
    secret_key: SecretStr | None = Field(
        None,
        description="Signs tokens; instances sharing a database share it. Unset: made at first start, kept 0600.",
    )
    previous_secret_keys: Annotated[tuple[SecretStr, ...], NoDecode, CommaList] = Field(
        (), description="Comma list of former secret keys: still accepted, never used to sign."
    )
    access_token_seconds: int = Field(
        900, ge=1, le=86_400, description="Life of an access token, in seconds."
    )
    refresh_token_seconds: int = Field(
        604_800, ge=1, le=31_536_000, description="Life of a refresh token, in seconds; sliding."
    )
    refresh_leeway_seconds: float = Field(
        10, ge=0, le=300, description="For how many seconds the refresh token just replaced still works."
    )
    bcrypt_rounds: int = Field(12, ge=4, le=16, description="Cost of a password hash, as a power of two.")
    issuer: str = Field("parley", min_length=1, description="`iss` of the tokens.")
    audience: str = Field("parley", min_length=1, description="`aud` of the tokens.")

    # Limits
    rate_limits: bool = Field(True, description="on or off; off is for tests and load generation only.")
    max_connections_per_user: int = Field(20, ge=1, description="Realtime connections one user may hold.")
    max_connections: int = Field(19_000, ge=1, description="Realtime connections one instance may hold.")
    max_body_bytes: ByteSize = Field(
        ByteSize(MIB), ge=KIB, le=KIB * MIB, description="Largest request body, in bytes (or 2MiB)."
    )

    # Realtime
    heartbeat_seconds: float = Field(
        25, gt=0, le=300, description="Time between heartbeats; a peer silent for two is closed."
    )
    drain_grace_seconds: float = Field(
        5, ge=0, le=600, description="After SIGTERM: how long all is still served while /readyz says 503."
    )
    log_retention_hours: float = Field(168, gt=0, le=87_600, description="How long events can be replayed.")
    ring_events: int = Field(100_000, ge=1, description="Newest events kept in memory for replays.")
    ring_bytes: ByteSize = Field(ByteSize(64 * MIB), ge=64 * KIB, description="Ceiling of their memory.")
    session_queue_events: int = Field(
        1000, ge=1, description="Events waiting for one session before it reads the log at its own pace."
    )
    session_queue_bytes: ByteSize = Field(ByteSize(256 * KIB), ge=KIB, description="The same, in bytes.")
    commit_queue_items: int = Field(
        10_000, ge=1, description="Writes waiting for the database; past it senders get 503 at once."
    )

    # The edge
    allowed_origins: Annotated[tuple[Origin, ...], NoDecode, CommaList] = Field(
        (), description="Comma list of browser origins let in beside the server's own; * for every one."
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, CommaList] = Field(
        (), description="Comma list of networks (CIDR) whose X-Forwarded-* headers are believed."
    )

    # Logs
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(_lower)] = Field(
        "auto", description="auto: readable in a terminal, JSON lines elsewhere."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="The least severe level that is written."
    )

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("base_domain")
    @classmethod
    def _plain_domain(cls, value: str | None) -> str | None:
        if value is None:
            return None
        domain = value.strip().strip(".").lower()
        if not domain or any(c in domain for c in "/:@ "):
            raise ValueError("must be a bare domain, like chat.example.com")
        return domain

    @model_validator(mode="after")
    def _safe_in_production(self) -> Self:
        if self.environment != "production":
            return self
        if (problem := secret_problem(self.secret_key)) is not None:
            raise ValueError(
                f"PARLEY_SECRET_KEY {problem}; in production set one made by `openssl rand -hex 32`"
            )
        if "*" in self.allowed_origins:
            raise ValueError("PARLEY_ALLOWED_ORIGINS=* is refused in production; name the origins")
        if self.allow_embedded:
            return self
        for field, name in UNPREFIXED.items():
            if getattr(self, field) is None:
                raise ValueError(f"{name} is not set; in production set it, or PARLEY_ALLOW_EMBEDDED=on")
        return self


def secret_problem(secret: SecretStr | None) -> str | None:
    """What is wrong with a secret key given by an operator, in words that never repeat it; None when good."""
    if secret is None:
        return "is not set"
    value = secret.get_secret_value()
    if value.lower().startswith(PLACEHOLDER_SECRETS):
        return "looks like a placeholder"
    if len(value.encode()) < MIN_SECRET_BYTES:
        return f"is shorter than {MIN_SECRET_BYTES} bytes"
    if len(set(value)) < 8:
        return "is too regular to be random"
    return None


def environment_name(field: str) -> str:
    """The environment variable of a `Settings` field."""
    return UNPREFIXED.get(field, f"{ENV_PREFIX}{field.upper()}")


def load_settings(env_file: Path | None = None, **overrides: Any) -> Settings:
    """Settings from `overrides`, then the environment, then `env_file` where it exists.

    Raises `SettingsError` with one line that names the variable, what it may be, and its default.
    """
    try:
        return Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        raise SettingsError(_in_one_line(error)) from None


def unknown_names(environ: Mapping[str, str]) -> dict[str, str | None]:
    """`PARLEY_…` variables that mean nothing to Parley, each with the name that was likely meant."""
    known = [environment_name(field) for field in Settings.model_fields]
    unknown = [name for name in environ if name.startswith(ENV_PREFIX) and name not in known]
    return {name: next(iter(difflib.get_close_matches(name, known, 1)), None) for name in sorted(unknown)}


def _in_one_line(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:  # a rule over several settings names them itself
            lines.append(message)
            continue
        field = _field_of(str(problem["loc"][0]))
        info = Settings.model_fields[field]
        given = (
            ""
            if info.annotation in (SecretStr, SecretStr | None) or "secret" in field
            else _shown(problem["input"])
        )
        lines.append(
            f"{environment_name(field)}{given} is not valid: {message} (default: {_default_of(field)})"
        )
    return "; ".join(lines)


def _field_of(location: str) -> str:
    by_alias = {name: field for field, name in UNPREFIXED.items()}
    return by_alias.get(location, location)


def _shown(given: object) -> str:
    text = str(given)
    if "@" in text:  # the password of a URL
        return ""
    return f"={text[:80]}"


def _default_of(field: str) -> str:
    default = Settings.model_fields[field].default
    if default is None:
        return "not set"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "empty"
    return str(default)
