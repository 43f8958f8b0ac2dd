"""Counting the users of a service with file locks, which the kernel lets go of whatever happens to a process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from server.embedded.processes import wait_until
from server.startup import StartupError

_TURN_SECONDS = 180
"""How long a start waits for another instance's start or stop; a recovery after a crash can take minutes."""


class Service(Protocol):
    """A service that instances on one data directory share. Its calls block."""

    name: str

    def ensure_running(self) -> str:
        """Starts it unless it runs already, and returns its URL. Raises `StartupError`."""

    def is_alive(self) -> bool:
        """A cheap look at whether it runs; may be wrong for moments."""

    def stop(self) -> None:
        """Stops it and waits for its end. Fine where it does not run."""


class SharedService:
    """One instance's share in a service: `join` finds or starts it, the last `leave` stops it.

    Two lock files: `<name>` is held for the moment of joining or leaving, `<name>.users` is held shared
    for as long as the instance uses the service. Killed instances drop out of the count by themselves,
    so a service they left behind is found by the next `join` and stopped by the last `leave`.
    """

    def __init__(self, service: Service, locks: Path) -> None:
        self.name = service.name
        self._service = service
        self._turn_path = locks / service.name
        self._users_path = locks / f"{service.name}.users"
        self._users: int | None = None

    def join(self) -> str:
        """Blocks until the service answers; returns its URL."""
        with self._turn():
            self._users = _open(self._users_path)
            fcntl.flock(self._users, fcntl.LOCK_SH)  # exclusive only within a turn, so this never waits
            try:
                return self._service.ensure_running()
            except BaseException:
                self._leave()
                raise

    def heal(self) -> bool:
        """Starts the service again if it died while we use it. True if it had to."""
        if self._service.is_alive():
            return False
        with self._turn():
            if self._users is None:
                return False  # left meanwhile
            self._service.ensure_running()
        return True

    def leave(self) -> None:
        """Blocks until the service has stopped, if this was its last user."""
        if self._users is not None:
            with self._turn():
                self._leave()

    def _leave(self) -> None:
        assert self._users is not None
        users, self._users = self._users, None
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # others still use it
        else:
            self._service.stop()
        finally:
            os.close(users)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        descriptor = _open(self._turn_path)
        try:
            if not wait_until(lambda: _try_exclusive(descriptor), _TURN_SECONDS):
                raise StartupError(
                    f"another Parley has been starting or stopping {self._service.name} for {_TURN_SECONDS} s "
                    f"(lock {self._turn_path}).",
                    "Stop that one first.",
                )
            yield
        finally:
            os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
