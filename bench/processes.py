"""Servers under load, each a process of its own on a free loopback port, started and stopped here."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.accounting import descendants

ROOT = Path(__file__).resolve().parent.parent
_LOG = "output.log"
_START_SECONDS = 90.0
_STOP_SECONDS = 40.0
_NGINX_TEMPLATE = ROOT / "bench" / "peers" / "nchan.conf"


class StartError(Exception):
    """A server did not come up; the message holds the end of what it wrote."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `pids` are the processes whose CPU and memory are counted as the server's own."""

    name: str
    port: int
    pids: tuple[int, ...]
    directory: Path
    log_name: str = _LOG

    @property
    def log(self) -> Path:
        """What it writes to its standard output and error."""
        return self.directory / self.log_name

    @property
    def data_dir(self) -> Path:
        """Where Parley keeps its embedded services."""
        return self.directory / "data"


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def parley(**settings: str) -> Iterator[Server]:
    """Parley on its embedded defaults in an empty data directory, without rate limits.

    `settings` are environment variables on top. Raises StartError.
    """
    with parleys(1, **settings) as (server,):
        yield server


@contextlib.contextmanager
def parleys(count: int, **settings: str) -> Iterator[tuple[Server, ...]]:
    """The same, `count` instances that share the data directory and so one PostgreSQL and one Redis."""
    with empty_directory() as directory, contextlib.ExitStack() as stack:
        yield tuple(
            stack.enter_context(instance(directory, number, **settings)) for number in range(1, count + 1)
        )


@contextlib.contextmanager
def empty_directory() -> Iterator[Path]:
    """A directory for instances, one after another or several at once; it goes with all they wrote."""
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as name:
        directory = Path(name)
        directory.chmod(0o711)  # as root, the embedded services run as another account and must get through
        yield directory


@contextlib.contextmanager
def instance(directory: Path, number: int = 1, **settings: str) -> Iterator[Server]:
    """One instance on the data in `directory`; those that run at the same time have different numbers."""
    port = free_port()
    server = Server("Parley", port, (), directory, _LOG if number == 1 else f"output{number}.log")
    environment = _environment(directory) | {
        "PARLEY_HOST": "127.0.0.1",
        "PARLEY_PORT": str(port),
        "PARLEY_DRAIN_GRACE_SECONDS": "0",
        "PARLEY_HEARTBEAT_SECONDS": "300",
        **settings,
    }
    command = [sys.executable, str(ROOT / "main.py"), "serve"]
    with running(command, environment, server.directory, lambda: _is_ready(port), server.log_name) as process:
        yield replace(server, pids=(process.pid,))


def seed(directory: Path, seconds: float, *options: str) -> None:
    """Fills the data in `directory` by `main.py seed`, while no instance runs there. Raises StartError."""
    command = [sys.executable, str(ROOT / "main.py"), "seed", *options]
    log = directory / "seed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**_environment(directory), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if process.wait(seconds):
            raise StartError(f"{command!r} failed:\n{tail(log)}")
    except subprocess.TimeoutExpired as error:
        raise StartError(f"{command!r} took more than {seconds:.0f} s:\n{tail(log)}") from error
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # it stops the services that it has started
            process.wait(_STOP_SECONDS)


def _environment(directory: Path) -> dict[str, str]:
    """For Parley on the data in `directory`: cheap passwords, no limits, and nothing of who runs this."""
    return {key: value for key, value in os.environ.items() if not _is_setting(key)} | {
        "PARLEY_DATA_DIR": str(directory / "data"),
        "PARLEY_RATE_LIMITS": "off",
        "PARLEY_BCRYPT_ROUNDS": "4",
    }


def _is_setting(name: str) -> bool:
    return name.startswith("PARLEY_") or name in {"DATABASE_URL", "REDIS_URL"}


@contextlib.contextmanager
def python_peer(name: str, module: str) -> Iterator[Server]:
    """A peer written in Python, run as `python -m module PORT`. Raises StartError."""
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as directory:
        port = free_port()
        command = [sys.executable, "-m", module, str(port)]
        with running(command, os.environ, Path(directory), lambda: listens(port)) as process:
            yield Server(name, port, (process.pid,), Path(directory))


def nchan_module() -> Path | None:
    """Where the Nchan module of the installed nginx is, None when either is not installed."""
    nginx = _nginx()
    if nginx is None:
        return None
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True, timeout=10, check=False).stderr
    places = [*re.findall(r"--modules-path=(\S+)", built), "/usr/lib/nginx/modules"]
    modules = (Path(place) / "ngx_nchan_module.so" for place in places)
    return next((module for module in modules if module.exists()), None)


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def nchan() -> Iterator[Server]:
    """nginx with one worker and the Nchan module; the worker's CPU is what counts. Raises StartError."""
    nginx, module = _nginx(), nchan_module()
    if nginx is None or module is None:
        raise StartError("nginx with the Nchan module is not installed")
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as name:
        directory, port = Path(name), free_port()
        for folder in ("logs", "tmp"):
            (directory / folder).mkdir()
        values = {
            "@MODULE@": str(module),
            "@PORT@": str(port),
            "@USER@": "user root;" if os.geteuid() == 0 else "",
        }
        text = _NGINX_TEMPLATE.read_text()
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        (directory / "nginx.conf").write_text(text)
        command = [nginx, "-p", name, "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log")]
        with running(command, os.environ, directory, lambda: listens(port)) as process:
            yield Server("Nchan", port, tuple(descendants(process.pid)[1:]), directory)


@contextlib.contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    is_up: Callable[[], bool],
    log_name: str = _LOG,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` until the block ends, then stop it with SIGTERM.

    What is raised in the block gets the end of what the server wrote as a note. The working directory is
    `directory`, where no `.env` of a developer changes what is measured.
    """
    log = directory / log_name
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await(process, log, is_up)
        yield process
    except Exception as error:
        ended = process.poll()
        error.add_note(
            f"{command[0]} {'still ran' if ended is None else f'had ended with {ended}'}:\n{tail(log)}"
        )
        raise
    finally:
        _stop(process)


def _await(process: subprocess.Popen[bytes], log: Path, is_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_up():
        if process.poll() is not None or time.monotonic() > deadline:
            raise StartError(f"{process.args!r} did not start:\n{tail(log)}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print(
            f"bench: {process.args!r} still ran {_STOP_SECONDS:.0f} s after SIGTERM and was killed",
            file=sys.stderr,
        )
        process.kill()
        process.wait(_STOP_SECONDS)


def tail(log: Path, size: int = 3000) -> str:
    """The end of what a server wrote."""
    return log.read_text(errors="replace")[-size:]


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
