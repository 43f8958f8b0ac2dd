"""Settings: defaults of the contract, how they are read, and what is said when they are wrong."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from server.settings import Settings, environment_name, load_settings, secret_problem, unknown_names
from server.startup import SettingsError

ROOT = Path(__file__).resolve().parents[2]
GOOD_SECRET = "b3f09a6e1c5d47829be0f3ac61d85e7743a0c9d21f8e6b5"

CONTRACT_DEFAULTS = {
    "PARLEY_HOST": "127.0.0.1",
    "PARLEY_PORT": 8080,
    "DATABASE_URL": None,
    "REDIS_URL": None,
    "PARLEY_SECRET_KEY": None,
    "PARLEY_ACCESS_TOKEN_SECONDS": 900,
    "PARLEY_REFRESH_TOKEN_SECONDS": 604_800,
    "PARLEY_REFRESH_LEEWAY_SECONDS": 10,
    "PARLEY_BCRYPT_ROUNDS": 12,
    "PARLEY_RATE_LIMITS": True,
    "PARLEY_MAX_CONNECTIONS_PER_USER": 20,
    "PARLEY_MAX_BODY_BYTES": 1_048_576,
    "PARLEY_HEARTBEAT_SECONDS": 25,
    "PARLEY_ALLOWED_ORIGINS": (),
    "PARLEY_DRAIN_GRACE_SECONDS": 5,
    "PARLEY_LOG_RETENTION_HOURS": 168,
}


def complaint(**environment: str) -> str:
    """What `load_settings` says about an environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SettingsError) as raised:
            load_settings()
    return str(raised.value)


def test_defaults_are_those_of_the_contract() -> None:
    settings = load_settings()
    by_name = {environment_name(field): getattr(settings, field) for field in Settings.model_fields}
    assert {name: by_name[name] for name in CONTRACT_DEFAULTS} == CONTRACT_DEFAULTS
    assert settings.data_dir == Path.cwd() / ".parley"


def test_environment_is_read_under_the_documented_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://someone@db/parley")
    monkeypatch.setenv("REDIS_URL", "redis://cache:6379/0")
    monkeypatch.setenv("PARLEY_RATE_LIMITS", "off")
    monkeypatch.setenv("PARLEY_MAX_BODY_BYTES", "2MiB")
    monkeypatch.setenv("PARLEY_ALLOWED_ORIGINS", "https://App.example.com, http://localhost:3000")
    monkeypatch.setenv("PARLEY_TRUSTED_PROXIES", "10.0.0.0/8,::1")
    monkeypatch.setenv("PARLEY_LOG_LEVEL", "DEBUG")
    settings = load_settings()
    assert settings.database_url == "postgresql://someone@db/parley"
    assert settings.redis_url == "redis://cache:6379/0"
    assert settings.rate_limits is False
    assert settings.max_body_bytes == 2_097_152
    assert settings.allowed_origins == ("https://app.example.com", "http://localhost:3000")
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    assert settings.log_level == "debug"


def test_the_environment_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("PARLEY_PORT=9001\nPARLEY_HOST=::1\nDATABASE_URL=postgresql://db/x\n")
    monkeypatch.setenv("PARLEY_PORT", "9002")
    settings = load_settings(env_file)
    assert (settings.port, settings.host, settings.database_url) == (9002, "::1", "postgresql://db/x")


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_PORT", "")
    monkeypatch.setenv("DATABASE_URL", "")
    assert (load_settings().port, load_settings().database_url) == (8080, None)


def test_settings_cannot_be_changed_after_the_start() -> None:
    with pytest.raises(ValidationError):
        load_settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PARLEY_PORT", "eighty", "integer"),
        ("PARLEY_PORT", "70000", "65535"),
        ("PARLEY_BCRYPT_ROUNDS", "3", "greater than or equal to 4"),
        ("PARLEY_RATE_LIMITS", "maybe", "boolean"),
        ("PARLEY_HEARTBEAT_SECONDS", "0", "greater than 0"),
        ("PARLEY_MAX_BODY_BYTES", "lots", "byte"),
        ("PARLEY_ALLOWED_ORIGINS", "example.com", "https://app.example.com"),
        ("PARLEY_TRUSTED_PROXIES", "10.0.0.0/99", "10.0.0.0/99"),
        ("PARLEY_BASE_DOMAIN", "https://x.example", "bare domain"),
        ("PARLEY_ENVIRONMENT", "staging", "'development' or 'production'"),
        ("PARLEY_LOG_FORMAT", "xml", "'json'"),
        ("DATABASE_URL", "mysql://db/x", "postgresql://"),
        ("REDIS_URL", "localhost:6379", "redis://host:6379/0"),
    ],
)
def test_a_wrong_value_gets_one_line_with_its_name_and_what_it_may_be(
    name: str, value: str, said: str
) -> None:
    line = complaint(**{name: value})
    assert line.startswith(name)
    assert said in line
    assert "default" in line
    assert "\n" not in line


def test_every_wrong_value_is_named_at_once() -> None:
    line = complaint(PARLEY_PORT="x", PARLEY_BCRYPT_ROUNDS="99")
    assert "PARLEY_PORT" in line
    assert "PARLEY_BCRYPT_ROUNDS" in line


def test_a_complaint_never_repeats_a_password_or_a_secret() -> None:
    assert "hunter2" not in complaint(DATABASE_URL="mysql://me:hunter2@db/x")
    assert "hunter2" not in complaint(PARLEY_ENVIRONMENT="production", PARLEY_SECRET_KEY="hunter2")


def test_secrets_do_not_show_in_a_printed_settings_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_SECRET_KEY", GOOD_SECRET)
    monkeypatch.setenv("PARLEY_PREVIOUS_SECRET_KEYS", "one,two")
    settings = load_settings()
    assert GOOD_SECRET not in repr(settings)
    assert [key.get_secret_value() for key in settings.previous_secret_keys] == ["one", "two"]


PRODUCTION = {
    "PARLEY_ENVIRONMENT": "production",
    "PARLEY_SECRET_KEY": GOOD_SECRET,
    "DATABASE_URL": "postgresql://db/x",
    "REDIS_URL": "redis://cache",
}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PARLEY_SECRET_KEY", "", "is not set"),
        ("PARLEY_SECRET_KEY", "a8f3k2", "shorter than 32 bytes"),
        ("PARLEY_SECRET_KEY", "change-me-to-something-long-and-random", "placeholder"),
        ("PARLEY_SECRET_KEY", "a" * 64, "too regular"),
        ("DATABASE_URL", "", "DATABASE_URL is not set"),
        ("REDIS_URL", "", "REDIS_URL is not set"),
        ("PARLEY_ALLOWED_ORIGINS", "*", "refused in production"),
    ],
)
def test_production_refuses_what_is_unsafe(name: str, value: str, said: str) -> None:
    assert said in complaint(**PRODUCTION | {name: value})


def test_production_accepts_what_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PRODUCTION.items():
        monkeypatch.setenv(name, value)
    assert load_settings().environment == "production"


def test_production_takes_embedded_services_only_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_ENVIRONMENT", "production")
    monkeypatch.setenv("PARLEY_SECRET_KEY", GOOD_SECRET)
    with pytest.raises(SettingsError, match="PARLEY_ALLOW_EMBEDDED"):
        load_settings()
    monkeypatch.setenv("PARLEY_ALLOW_EMBEDDED", "on")
    assert load_settings().database_url is None


def test_a_good_secret_has_no_problem() -> None:
    assert secret_problem(SecretStr(GOOD_SECRET)) is None


def test_a_misspelt_name_is_noticed_with_what_was_meant() -> None:
    assert unknown_names({"PARLEY_PROT": "1", "PARLEY_PORT": "1", "HOME": "/"}) == {
        "PARLEY_PROT": "PARLEY_PORT"
    }


def test_every_setting_is_explained() -> None:
    assert [field for field, info in Settings.model_fields.items() if not info.description] == []


def test_the_example_file_lists_every_setting_with_its_default(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text()
    listed = re.findall(r"^#([A-Z_]+)=", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted(environment_name(field) for field in Settings.model_fields)
    uncommented = tmp_path / ".env"
    uncommented.write_text(re.sub(r"^#(?=[A-Z_]+=)", "", text, flags=re.MULTILINE))
    assert load_settings(uncommented).model_dump() == load_settings().model_dump()
