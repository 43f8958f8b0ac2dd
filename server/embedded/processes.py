"""Accounts, processes and short socket paths: what the two embedded services have in common."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from server.startup import StartupError

_LAUNCH = Path(__file__).with_name("launch.py")
_UNPRIVILEGED = ("nobody", "postgres", "daemon")
_SHORT_BASES = ("/tmp", "/var/tmp")  # noqa: S108  (mkdtemp makes a private directory inside)
_SOCKET_PATH_BYTES = 103
"""The shortest limit among systems: sun_path holds 108 bytes on Linux, 104 on macOS, with the final NUL."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who a service runs as."""

    name: str
    uid: int
    gid: int


def account_for(directory: Path) -> Account | None:
    """The account to run as for data in `directory`, or None to stay who we are.

    Only root changes accounts: to the owner of data that is there already, else to a system account.
    """
    if os.geteuid() != 0:
        return None
    try:
        owner = directory.stat().st_uid
        if owner != 0:
            entry = pwd.getpwuid(owner)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    except (FileNotFoundError, KeyError):
        pass
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise StartupError(
        f"PostgreSQL refuses to run as root and there is no account {' or '.join(_UNPRIVILEGED)}.",
        "Run Parley as an ordinary user, or set DATABASE_URL.",
    )


def own_name() -> str:
    """The operating system's name for who we are, as PostgreSQL's peer authentication sees it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise StartupError(
            f"the user id {os.geteuid()} has no name in /etc/passwd, and PostgreSQL needs one.",
            "Run Parley as a named user, or set DATABASE_URL.",
        ) from None


def give(path: Path, account: Account | None) -> None:
    """Makes `account` the owner of `path`."""
    if account is not None:
        os.chown(path, account.uid, account.gid)


def launch(
    argv: Sequence[str],
    *,
    cwd: Path,
    account: Account | None = None,
    log: Path | None = None,
    detach: bool = False,
    seconds: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Runs a program as `account` with a bare environment; detached, returns as soon as it is started.

    Blocks, for at most `seconds`. Raises `subprocess.CalledProcessError` with its output in `stderr`.
    """
    job = {
        "argv": list(argv),
        "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(cwd)},
        "cwd": str(cwd),
        "uid": account and account.uid,
        "gid": account and account.gid,
        "reach": [str(cwd)],
        "log": log and str(log),
        "detach": detach,
    }
    return subprocess.run(
        [sys.executable, "-I", "-S", str(_LAUNCH), json.dumps(job)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds,
        start_new_session=True,  # Ctrl-C in the terminal is for Parley, which then stops its services in order
    )


def find_process(pid: int | None, marks: Sequence[str]) -> psutil.Process | None:
    """The living process `pid` if each of `marks` is in its command line.

    A process id alone proves nothing: after a reboot or a crash the number may belong to anyone.
    """
    if pid is None or pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        command_line = " ".join(process.cmdline())
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.Error:
        return None
    return process if all(mark in command_line for mark in marks) else None


def is_running(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end_process(process: psutil.Process | None, steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Sends each signal in turn, waiting so many seconds after each, until the process has ended."""
    for sent, seconds in steps:
        if process is None or not is_running(process):
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(sent)
            process.send_signal(signal.SIGCONT)  # a stopped process would not hear the other one
        wait_until(lambda: not is_running(process), seconds)


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.02) -> bool:
    """Blocks until `condition()` holds. False if it did not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def socket_directory(link: Path, longest_name: str, account: Account | None) -> Path:
    """A directory for sockets, private to us and `account`, whose full path fits a socket address.

    That is `link` itself where it is short enough and its file system has sockets; else `link` becomes
    a symbolic link to a fresh directory under /tmp, so that every instance finds the same one.
    """
    if link.is_symlink():
        target = link.resolve()
        if _is_private(target, account):
            return target
        link.unlink()  # cleared by a reboot, or not ours
    if not link.exists():
        link.mkdir(mode=0o700, parents=True)
    if _sockets_work(link, longest_name):
        return _hand_over(link, account)
    link.rmdir()
    base = next((b for b in _SHORT_BASES if os.access(b, os.W_OK | os.X_OK)), tempfile.gettempdir())
    target = Path(tempfile.mkdtemp(prefix="parley-", dir=base)).resolve()
    link.symlink_to(target)
    return _hand_over(target, account)


def remove_socket_directory(link: Path) -> None:
    """Removes what `socket_directory` made outside `link`. The directory at `link` itself may stay."""
    if not link.is_symlink():
        return
    target = link.resolve()
    if target.name.startswith("parley-") and target.is_dir():
        for left in target.iterdir():
            left.unlink(missing_ok=True)
        target.rmdir()
    link.unlink()


def _hand_over(directory: Path, account: Account | None) -> Path:
    give(directory, account)
    directory.chmod(0o700 if account is None else 0o711)
    return directory


def _is_private(directory: Path, account: Account | None) -> bool:
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return False
    owners = {os.geteuid()} if account is None else {0, account.uid}
    return directory.is_dir() and status.st_uid in owners and not status.st_mode & 0o022


def _sockets_work(directory: Path, longest_name: str) -> bool:
    probe = directory / longest_name
    if len(os.fsencode(probe)) > _SOCKET_PATH_BYTES:
        return False
    if probe.exists():
        return probe.is_socket()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        try:
            made.bind(str(probe))
        except OSError:
            return False
    probe.unlink()
    return True
