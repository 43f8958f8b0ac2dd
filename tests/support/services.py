"""PostgreSQL and Redis servers that belong to one test, which may stop, freeze or kill them.

Every method blocks: from async code, `await asyncio.to_thread(own_redis.kill)`.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil

from server.embedded.postgres import EmbeddedPostgres
from server.embedded.processes import wait_until
from server.embedded.redis import find_redis_server


def with_database(url: str, name: str) -> str:
    """The same server's URL with another database."""
    scheme, netloc, _, query, fragment = urlsplit(url)
    return urlunsplit((scheme, netloc, f"/{name}", query, fragment))


def free_port() -> int:
    """A TCP port on the loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class OwnRedis:
    """A Redis on a loopback TCP port. `start` after `kill` or `stop` gives an empty one at the same URL."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Returns when it answers."""
        assert self._process is None
        options = {
            "port": self._port,
            "bind": "127.0.0.1",
            "dir": self._directory,
            "appendonly": "no",
            "save": "",
        }
        options["logfile"] = self._directory / "redis.log"
        argv = [
            find_redis_server(),
            *(str(word) for name, value in options.items() for word in (f"--{name}", value)),
        ]
        process = self._process = subprocess.Popen(argv, start_new_session=True)
        assert wait_until(lambda: process.poll() is not None or self._command(b"PING") == b"+PONG\r\n", 20)
        assert process.poll() is None, (self._directory / "redis.log").read_text()

    def stop(self) -> None:
        """SIGTERM: an orderly end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: connections break at once."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """FLUSHALL: every key gone, subscribers stay."""
        assert self._command(b"FLUSHALL") == b"+OK\r\n"

    def drop_clients(self) -> None:
        """Cuts every connection, normal and subscribed; Redis itself goes on."""
        self._command(b"CLIENT KILL TYPE normal")
        self._command(b"CLIENT KILL TYPE pubsub")

    def close(self) -> None:
        """Ends it if it still runs."""
        if self._process is not None:
            self.kill()

    def _command(self, line: bytes) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
                connection.sendall(line + b"\r\n")
                return connection.recv(256)
        except OSError:
            return b""

    def _end(self, sent: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(sent)
        self._process.wait(20)
        self._process = None


class OwnPostgres:
    """A PostgreSQL cluster of its own. Data stays over `stop` and `kill`; the URL stays the same."""

    def __init__(self, directory: Path) -> None:
        self._server = EmbeddedPostgres(directory)
        self._data = directory.resolve() / "postgres"
        self.url = ""

    def start(self) -> None:
        """Returns when it answers, after a crash also when it has recovered."""
        self.url = self._server.ensure_running()

    def stop(self) -> None:
        """A fast shutdown: sessions are cut, everything committed is kept."""
        self._server.stop()

    def kill(self) -> None:
        """SIGKILL to the first process; the others follow by themselves."""
        process = self._server.postmaster()
        assert process is not None
        process.kill()
        process.wait(20)

    def crash(self) -> None:
        """An immediate shutdown: as a power cut, the next start recovers from the write-ahead log."""
        self._signal_all(signal.SIGQUIT)
        assert wait_until(lambda: not self._server.is_alive(), 20)

    def freeze(self) -> None:
        """SIGSTOP to every process: connections stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP, children=True)

    def thaw(self) -> None:
        """SIGCONT to every process."""
        self._signal_all(signal.SIGCONT, children=True)

    def close(self) -> None:
        """Ends it if it still runs."""
        if self._server.is_alive():
            self.thaw()
        self._server.stop()

    def _signal_all(self, sent: signal.Signals, *, children: bool = False) -> None:
        process = self._server.postmaster()
        assert process is not None
        for each in [process, *(process.children(recursive=True) if children else [])]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(sent)
