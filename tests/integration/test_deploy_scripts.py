"""The scripts an operator runs once: certificates, secrets, and the proxy's start when something is missing."""

from __future__ import annotations

import datetime
import http.server
import os
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.healthcheck import problem
from tests.support.deployment import LOOPBACK, ROOT, nginx_missing
from tests.support.services import free_port

DEPLOY = ROOT / "deploy"

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed (Debian: apt-get install openssl)"
)


def run(script: str, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [str(DEPLOY / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=os.environ | environ)


def handshake(directory: Path, name: str) -> None:
    """A TLS handshake in memory: a server with the certificate, a client that trusts `ca.pem` and expects `name`.

    Raises `ssl.SSLCertVerificationError` where the client does not accept it.
    """
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(directory / "fullchain.pem", directory / "privkey.pem")
    client_side = ssl.create_default_context(cafile=directory / "ca.pem")
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)


def test_certificate_is_good_for_the_names_asked_for_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "new" / "place"
    names = ["chat.example.org", "localhost", "127.0.0.1", "::1"]
    made = run("make-certificate.sh", "--out", out, *names)
    assert made.returncode == 0, made.stderr
    for name in (*names, "tenant.chat.example.org"):
        handshake(out, name)
    for name in ("example.org", "deep.tenant.chat.example.org", "127.0.0.2"):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(out, name)


def test_certificate_lasts_a_year_and_its_key_is_its_owners_alone(tmp_path: Path) -> None:
    assert run("make-certificate.sh", "--out", tmp_path).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"privkey.pem", "fullchain.pem", "ca.pem"}
    assert stat.S_IMODE((tmp_path / "privkey.pem").stat().st_mode) == 0o600
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    (authority,) = context.get_ca_certs()
    ends = ssl.cert_time_to_seconds(str(authority["notAfter"]))
    days = (ends - datetime.datetime.now(datetime.UTC).timestamp()) / 86_400
    assert 364 < days <= 365


def test_certificate_that_is_there_stays_unless_it_is_forced(tmp_path: Path) -> None:
    run("make-certificate.sh", "--out", tmp_path)
    before = (tmp_path / "fullchain.pem").read_bytes()
    again = run("make-certificate.sh", "--out", tmp_path, "other.example.org")
    assert again.returncode == 0
    assert "--force" in again.stdout
    assert (tmp_path / "fullchain.pem").read_bytes() == before
    assert run("make-certificate.sh", "--force", "--out", tmp_path, "other.example.org").returncode == 0
    handshake(tmp_path, "other.example.org")


@pytest.mark.parametrize(
    "wrong", ["a,DNS:evil.example", "..", "two words", "", "--nonsense", "*.example.org"]
)
def test_certificate_for_nonsense_is_refused_in_one_line(tmp_path: Path, wrong: str) -> None:
    result = run("make-certificate.sh", "--out", tmp_path / "out", wrong)
    assert result.returncode != 0
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_secrets_are_made_once_and_kept_private(tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    env_file.write_text("POSTGRES_PASSWORD=mine\nPARLEY_LOG_LEVEL=debug")  # without an end of line
    assert run("make-secrets.sh", env_file).returncode == 0
    made = env_file.read_text()
    assert run("make-secrets.sh", env_file).returncode == 0
    assert env_file.read_text() == made
    values = dict(line.split("=", 1) for line in made.splitlines())
    assert values.keys() == {"POSTGRES_PASSWORD", "PARLEY_LOG_LEVEL", "PARLEY_SECRET_KEY", "REDIS_PASSWORD"}
    assert (values["POSTGRES_PASSWORD"], values["PARLEY_LOG_LEVEL"]) == ("mine", "debug")
    assert len({values["PARLEY_SECRET_KEY"], values["REDIS_PASSWORD"]}) == 2
    assert all(len(bytes.fromhex(values[name])) == 32 for name in ("PARLEY_SECRET_KEY", "REDIS_PASSWORD"))
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PROXY_INSTANCES": ""}, "PROXY_INSTANCES is not set"),
        ({"PROXY_INSTANCES": "parley-1"}, "parley-1 has no port"),
        ({"PROXY_INSTANCES": "a:1; include /etc/passwd"}, "is not host:port"),
        ({"PROXY_PUBLIC_PORT": "https"}, "PROXY_PUBLIC_PORT=https is not a port"),
        ({"PROXY_BEHIND": "everybody"}, "everybody is not a network"),
        ({"PROXY_CERTIFICATES": "/nowhere"}, "make-certificate.sh"),
    ],
)
def test_proxy_that_cannot_start_says_why_in_one_line(
    tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    certificates = tmp_path / "certificates"
    run("make-certificate.sh", "--out", certificates)
    good = {
        "PROXY_INSTANCES": "127.0.0.1:1",
        "PROXY_CERTIFICATES": str(certificates),
        "PROXY_RUN_DIR": str(tmp_path),
    }
    result = run("nginx/start.sh", "--check", **(good | variables))
    assert result.returncode != 0
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(nginx_missing() is not None, reason=str(nginx_missing()))
@pytest.mark.parametrize("behind", ["", "10.0.0.0/8 2001:db8::/32"])
def test_nginx_accepts_what_the_container_would_start_with(tmp_path: Path, behind: str) -> None:
    """The defaults of the container, but for folders and ports that an ordinary user may not have."""
    run("make-certificate.sh", "--out", tmp_path)
    result = run(
        "nginx/start.sh",
        "--check",
        PATH=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]),
        PROXY_INSTANCES="172.31.246.11:8080 172.31.246.12:8080 172.31.246.13:8080",
        PROXY_CERTIFICATES=str(tmp_path),
        PROXY_RUN_DIR=str(tmp_path / "run"),
        PROXY_HTTP_LISTEN=f"{LOOPBACK}:{free_port()}",
        PROXY_HTTPS_LISTEN=f"{LOOPBACK}:{free_port()}",
        PROXY_CONNECTIONS="512",
        PROXY_BEHIND=behind,
    )
    assert result.returncode == 0, result.stderr
    assert "[warn]" not in result.stderr.replace('the "user" directive', "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_are_clean() -> None:
    scripts = [*DEPLOY.glob("*.sh"), *DEPLOY.glob("nginx/*.sh")]
    assert len(scripts) == 3
    result = subprocess.run(["shellcheck", *map(str, scripts)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout


class _Readiness(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b'{"status": "draining"}')

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _NotReady(_Readiness):
    status = 503


@pytest.fixture(params=[_Readiness, _NotReady])
def readiness_server(
    request: pytest.FixtureRequest,
) -> Iterator[tuple[http.server.HTTPServer, type[_Readiness]]]:
    with http.server.HTTPServer((LOOPBACK, 0), request.param) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server, request.param
        server.shutdown()
        thread.join(10)


def test_health_check_goes_by_readiness(
    readiness_server: tuple[http.server.HTTPServer, type[_Readiness]],
) -> None:
    server, kind = readiness_server
    found = problem(LOOPBACK, server.server_port)
    assert (found is None) == (kind.status == 200)
    assert found is None or "503" in found


def test_health_check_of_nobody_fails() -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        assert "no answer" in str(problem(LOOPBACK, probe.getsockname()[1]))
