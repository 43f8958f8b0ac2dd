"""docker-compose.yml says what docs/deployment.md promises, and compose itself accepts it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings, environment_name
from tests.support.deployment import ROOT

COMPOSE_FILE = ROOT / "docker-compose.yml"
SECRETS = ("PARLEY_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD")
INSTANCES = ("parley-1", "parley-2", "parley-3")

_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::([-?])([^}]*))?\}")

needs_compose = pytest.mark.skipif(
    shutil.which("docker-compose") is None,
    reason="docker-compose is not installed (Debian: apt-get install docker-compose)",
)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    return found


def filled_in(text: str, environ: Mapping[str, str]) -> str:
    """Compose's own substitution, as far as the file uses it."""
    return _VARIABLE.sub(lambda match: environ.get(match[1], match[3] if match[2] == "-" else ""), text)


def seconds(duration: str) -> float:
    match = re.fullmatch(r"(\d+)s", filled_in(duration, {}))
    assert match is not None, duration
    return float(match[1])


def run_compose(*arguments: str, env_file: Path) -> subprocess.CompletedProcess[str]:
    """`docker-compose` on the file, with nothing but `env_file` to take values from."""
    names = {*SECRETS, *(match[1] for match in _VARIABLE.finditer(COMPOSE_FILE.read_text()))}
    environ = {name: value for name, value in os.environ.items() if name not in names}
    command = ["docker-compose", "--env-file", str(env_file), "-f", str(COMPOSE_FILE), *arguments]
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60)


def make_secrets(env_file: Path) -> None:
    script = ROOT / "deploy" / "make-secrets.sh"
    subprocess.run([str(script), str(env_file)], check=True, capture_output=True, timeout=30)


def test_everything_is_watched_and_comes_back(services: dict[str, Any]) -> None:
    assert set(services) == {*INSTANCES, "proxy", "postgres", "redis"}
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
    for name in INSTANCES:
        assert services[name]["healthcheck"]["test"] == ["CMD", "python", "deploy/healthcheck.py"]
    assert services["proxy"]["healthcheck"]["test"][-1].endswith("/readyz")
    assert "/readyz" in (ROOT / "deploy" / "healthcheck.py").read_text()


def test_three_instances_are_alike_and_the_proxy_knows_each(services: dict[str, Any]) -> None:
    addresses = [services[name]["networks"]["front"]["ipv4_address"] for name in INSTANCES]
    assert len(set(addresses)) == 3
    port = services[INSTANCES[0]]["environment"]["PARLEY_PORT"]
    listed = services["proxy"]["environment"]["PROXY_INSTANCES"].split()
    assert listed == [f"{address}:{port}" for address in addresses]
    for other in INSTANCES[1:]:
        own = {"hostname", "networks"}
        first, second = (
            {k: v for k, v in services[n].items() if k not in own} for n in (INSTANCES[0], other)
        )
        assert first == second


def test_forwarded_headers_are_believed_from_the_proxy_alone(services: dict[str, Any]) -> None:
    proxy = services["proxy"]["networks"]["front"]["ipv4_address"]
    for name in INSTANCES:
        assert services[name]["environment"]["PARLEY_TRUSTED_PROXIES"] == f"{proxy}/32"


def test_only_the_proxy_is_reachable_from_outside(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    networks = yaml.safe_load(COMPOSE_FILE.read_text())["networks"]
    assert networks["back"]["internal"] is True
    assert services["postgres"]["networks"] == services["redis"]["networks"] == ["back"]
    assert list(services["proxy"]["networks"]) == ["front"]


def test_secrets_come_from_outside_and_are_asked_for(services: dict[str, Any]) -> None:
    uses = [match for match in _VARIABLE.finditer(COMPOSE_FILE.read_text()) if match[1] in SECRETS]
    assert {match[1] for match in uses} == set(SECRETS)
    for match in uses:
        assert match[2] == "?", match[0]
        assert match[3].startswith(f"{match[1]} is not set; run ")
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if value is not None and re.search("SECRET|PASSWORD|_URL", name):
                assert re.fullmatch(r"(?:\w+://\w*:)?\$\{[^}]+\}(?:@[\w:/]+)?", value), name


def test_every_setting_passed_on_is_one_that_parley_knows(services: dict[str, Any]) -> None:
    known = {environment_name(field) for field in Settings.model_fields}
    given = services[INSTANCES[0]]["environment"]
    assert set(given) <= known, set(given) - known


def test_settings_of_an_instance_are_good_for_production(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dict.fromkeys(SECRETS, "9d0c61f6b1f0f3f79b1be14a1f4f2f5f0b6f62f5c1d0d1a7c3f4e5a6b7c8d9e0")
    for name, value in services[INSTANCES[0]]["environment"].items():
        if value is not None:
            monkeypatch.setenv(name, filled_in(str(value), made))
    settings = Settings()
    assert settings.environment == "production"
    assert [str(network) for network in settings.trusted_proxies] == ["172.31.246.2/32"]
    pools = len(INSTANCES) * settings.database_pool_size
    (limit,) = (
        word.removeprefix("max_connections=")
        for word in services["postgres"]["command"]
        if word.startswith("max_connections=")
    )
    assert pools * 2 <= int(filled_in(limit, {}))


def test_nothing_is_killed_before_its_drain_is_over(services: dict[str, Any]) -> None:
    grace = Settings().drain_grace_seconds
    instance = seconds(services[INSTANCES[0]]["stop_grace_period"])
    assert instance >= grace + 30
    template = (ROOT / "deploy" / "nginx" / "nginx.conf.template").read_text()
    (workers_end,) = re.findall(r"worker_shutdown_timeout (\d+)s;", template)
    assert seconds(services["proxy"]["stop_grace_period"]) > int(workers_end)
    (idle,) = re.findall(r"^ {8}keepalive_timeout (\d+)s;", template, re.MULTILINE)
    assert int(idle) < grace


def test_data_outlives_the_containers(services: dict[str, Any]) -> None:
    volumes = yaml.safe_load(COMPOSE_FILE.read_text())["volumes"]
    # From 18 on the image keeps its data in a folder by version under this one; a volume elsewhere would stay empty.
    assert services["postgres"]["image"].endswith("postgres:18}")
    assert services["postgres"]["volumes"] == ["postgres-data:/var/lib/postgresql"]
    for name in INSTANCES:
        assert services[name]["volumes"] == ["parley-data:/var/lib/parley"]
        assert services[name]["environment"]["PARLEY_DATA_DIR"] == "/var/lib/parley"
    assert {"postgres-data", "parley-data"} <= set(volumes)


def test_descriptors_suffice_for_the_connections_allowed(services: dict[str, Any]) -> None:
    for name in (*INSTANCES, "proxy"):
        limit = services[name]["ulimits"]["nofile"]
        assert limit["soft"] == limit["hard"] >= 2 * Settings().max_connections


def test_files_that_are_mounted_exist(services: dict[str, Any]) -> None:
    for volume in services["proxy"]["volumes"]:
        source = filled_in(volume, {}).split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).is_dir(), source
    script = services["proxy"]["entrypoint"][-1]
    assert script.startswith("/parley/nginx/")
    assert (ROOT / "deploy" / "nginx" / Path(script).name).is_file()


@needs_compose
def test_compose_accepts_the_file(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    make_secrets(env_file)
    env_file.write_text(env_file.read_text() + "PARLEY_LOG_LEVEL=debug\nNETWORK_PREFIX=10.99.1\n")
    result = run_compose("config", env_file=env_file)
    assert result.returncode == 0, result.stderr
    resolved = yaml.safe_load(result.stdout)["services"]
    assert resolved["parley-2"]["environment"]["PARLEY_LOG_LEVEL"] == "debug"
    assert resolved["parley-2"]["environment"]["PARLEY_TRUSTED_PROXIES"] == "10.99.1.2/32"
    assert resolved["parley-2"]["networks"]["front"]["ipv4_address"] == "10.99.1.12"


@needs_compose
@pytest.mark.parametrize("missing", SECRETS)
def test_compose_names_the_secret_that_is_missing_and_the_way_to_make_it(
    missing: str, tmp_path: Path
) -> None:
    env_file = tmp_path / "env"
    make_secrets(env_file)
    lines = [line for line in env_file.read_text().splitlines() if not line.startswith(f"{missing}=")]
    env_file.write_text("\n".join(lines))
    result = run_compose("config", env_file=env_file)
    assert result.returncode != 0
    assert f"{missing} is not set; run deploy/make-secrets.sh" in result.stderr
