"""Two real instances, and the shipped proxy in front of them, as processes on the loopback.

The proxy is started by `deploy/nginx/start.sh` from the shipped template: the same script and the same file that the
container runs. Everything here blocks: from async code, `await asyncio.to_thread(…)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import aiohttp
from aiohappyeyeballs import AddrInfoType

from deploy.healthcheck import problem as readiness_problem
from server.embedded.processes import wait_until
from tests.support.services import free_port

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
API = "/api/v1"


def nginx_missing() -> str | None:
    """Why the proxy cannot be tried here, or None. Debian keeps nginx where an ordinary user's PATH may not look."""
    if shutil.which("nginx", path=_path()) is None:
        return "nginx is not installed (Debian: apt-get install nginx-light)"
    if shutil.which("openssl") is None:
        return "openssl is not installed, and the test's certificate is made with it"
    return None


class Instance:
    """`python main.py serve` on a port of its own. `start` after an end starts it again at the same port."""

    def __init__(self, data_dir: Path, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.address = f"{LOOPBACK}:{self.port}"
        self.url = f"http://{self.address}"
        self.log = log
        self._environment = _plain_environment() | {
            "PARLEY_HOST": LOOPBACK,
            "PARLEY_PORT": str(self.port),
            "PARLEY_DATA_DIR": str(data_dir),
            "PARLEY_RATE_LIMITS": "off",
            "PARLEY_BCRYPT_ROUNDS": "4",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it is ready."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Returns at once."""
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "main.py", "serve"], cwd=ROOT, env=self._environment, stdout=log, stderr=log
            )

    def wait_ready(self) -> None:
        """Fails with what it wrote where it ends instead."""
        process = self._process
        assert process is not None
        assert wait_until(
            lambda: process.poll() is not None or readiness_problem(LOOPBACK, self.port) is None, 50
        ), f"not ready:\n{self.log.read_text()}"
        assert process.poll() is None, f"ended at once:\n{self.log.read_text()}"

    @property
    def running(self) -> bool:
        """False before `start` and after an end that was waited for."""
        return self._process is not None

    def kill(self) -> None:
        """SIGKILL, frozen or not."""
        self._send(signal.SIGKILL)
        self.wait()

    def terminate(self) -> None:
        """SIGTERM: the drain begins. `wait` returns at its end."""
        self._send(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: the kernel still takes connections and bytes, and nobody reads them."""
        self._send(signal.SIGSTOP)

    def wait(self, seconds: float = 40) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None
        status = self._process.wait(seconds)
        self._process = None
        return status

    def has_unread_bytes(self) -> bool:
        """Whether a request lies in one of its sockets, unread."""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            local, _, state, queues = line.split()[1:5]
            if state == "01" and int(local.split(":")[1], 16) == self.port and int(queues.split(":")[1], 16):
                return True
        return False

    def close(self) -> None:
        """Ends it if it still runs, in good order where it goes, without the time it would give balancers to notice."""
        if self._process is None:
            return
        for sent in (
            signal.SIGCONT,
            signal.SIGTERM,
            signal.SIGINT,
        ):  # the second to end it cuts the drain short
            self._send(sent)
        try:
            self.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def _send(self, sent: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(sent)


class Proxy:
    """nginx, run by the shipped script, on free ports."""

    def __init__(self, directory: Path, instances: Sequence[str], **variables: str) -> None:
        self.http_port, self.https_port = free_port(), free_port()
        self.http_url = f"http://{LOOPBACK}:{self.http_port}"
        self.url = f"https://{LOOPBACK}:{self.https_port}"
        self.certificates = directory / "certificates"
        self.acme = directory / "acme"
        self.log = directory / "proxy.log"
        self.configuration = directory / "run" / "nginx.conf"
        self._environment = _plain_environment() | {
            "PROXY_INSTANCES": " ".join(instances),
            "PROXY_HTTP_LISTEN": f"{LOOPBACK}:{self.http_port}",
            "PROXY_HTTPS_LISTEN": f"{LOOPBACK}:{self.https_port}",
            "PROXY_PUBLIC_PORT": str(self.https_port),
            "PROXY_CERTIFICATES": str(self.certificates),
            "PROXY_ACME_DIR": str(self.acme),
            "PROXY_RUN_DIR": str(directory / "run"),
            "PROXY_WORKERS": "2",
            "PROXY_CONNECTIONS": "512",
            **variables,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def make_certificate(self) -> None:
        """Replaces the one that is there. nginx goes on with the former until it is told."""
        make = [str(ROOT / "deploy" / "make-certificate.sh"), "--force", "--out", str(self.certificates)]
        subprocess.run(make, check=True, timeout=30, capture_output=True)

    def start(self) -> None:
        """Makes the certificate and returns when nginx listens."""
        self.make_certificate()
        with self.log.open("ab") as log:
            process = self._process = subprocess.Popen(
                [str(ROOT / "deploy" / "nginx" / "start.sh")],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        assert wait_until(lambda: process.poll() is not None or _listens(self.https_port), 20)
        assert process.poll() is None, f"nginx ended at once:\n{self.log.read_text()}"

    def trust(self) -> ssl.SSLContext:
        """What a client needs to believe the certificate."""
        return ssl.create_default_context(cafile=self.certificates / "ca.pem")

    def answers(self, path: str) -> bool:
        """Whether `path` is answered with 200 over TLS at this moment."""
        connection = http.client.HTTPSConnection(LOOPBACK, self.https_port, timeout=5, context=self.trust())
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()

    def reload(self) -> None:
        """SIGHUP: new workers, with the certificate that is there now."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        """SIGQUIT, as the container's engine does it; its exit status when its requests are done."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(signal.SIGQUIT)
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.terminate()  # ends the workers too, whatever they are doing
            return process.wait(10)

    def close(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.terminate()
            process.wait(10)


@contextlib.contextmanager
def running_instances(directory: Path, count: int = 2, **settings: str) -> Iterator[list[Instance]]:
    """`count` ready instances that share `directory`/data, and with it the embedded services."""
    instances = [
        Instance(directory / "data", directory / f"instance-{number}.log", **settings)
        for number in range(1, count + 1)
    ]
    try:
        for instance in instances:
            instance.launch()
        for instance in instances:
            instance.wait_ready()
        yield instances
    finally:
        for instance in instances:
            instance.close()


@contextlib.contextmanager
def running_proxy(addresses: Sequence[str], **variables: str) -> Iterator[Proxy]:
    """The proxy before `addresses`, in a directory that nginx's own user can enter, which pytest's is not."""
    with tempfile.TemporaryDirectory(prefix="parley-proxy-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        proxy = Proxy(directory, addresses, **variables)
        try:
            proxy.start()
            yield proxy
        finally:
            proxy.close()


@contextlib.asynccontextmanager
async def client_of(
    url: str, trust: ssl.SSLContext | None = None, *, local_address: str | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose connections are all gone when it ends.

    aiohttp lets a TLS connection that it closes by itself say goodbye in the background, beyond the session's end.
    """
    sockets: list[socket.socket] = []

    def new_socket(address: AddrInfoType) -> socket.socket:
        made = socket.socket(*address[:3])
        made.setblocking(False)
        sockets.append(made)
        return made

    connector = aiohttp.TCPConnector(
        ssl=trust if trust is not None else True,
        limit=50,
        local_addr=(local_address, 0) if local_address is not None else None,
        socket_factory=new_socket,
    )
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        yield session
    assert await asyncio.to_thread(wait_until, lambda: all(each.fileno() < 0 for each in sockets), 20)


async def sign_up(session: aiohttp.ClientSession) -> None:
    """Registers a new user, for whom the session speaks from then on."""
    name = f"user_{secrets.token_hex(6)}"
    account = {"username": name, "email": f"{name}@example.com", "password": secrets.token_urlsafe(16)}
    async with session.post(f"{API}/auth/register", json=account) as answer:
        assert answer.status == 201, await answer.text()
        session.headers["Authorization"] = f"Bearer {(await answer.json())['access_token']}"


async def new_conversation(session: aiohttp.ClientSession) -> str:
    """The id of a new group in which the session's user is alone."""
    group = {"kind": "group", "title": "Behind a proxy", "members": []}
    async with session.post(f"{API}/conversations", json=group) as answer:
        assert answer.status == 201, await answer.text()
        return str((await answer.json())["id"])


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _plain_environment() -> dict[str, str]:
    ours = ("PARLEY_", "PROXY_", "DATABASE_URL", "REDIS_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
        "PATH": _path()
    }


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
