"""Passwords: bcrypt over a digest, off the event loop.

bcrypt itself reads 72 bytes and stops at NUL. Here it is given a digest of the whole password, so every byte counts.
The digest is keyed with a constant: a plain one would let digests leaked elsewhere be tried against our hashes.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

import bcrypt

from domain.errors import Overloaded

T = TypeVar("T")
PURPOSE = b"parley/password/v1"
WAITING_PER_WORKER = 32


def prehash(password: str) -> bytes:
    """44 ASCII bytes that stand for the whole password, whatever its length and its bytes."""
    return base64.b64encode(hmac.digest(PURPOSE, password.encode(errors="surrogatepass"), "sha256"))


def rounds_of(hashed: str) -> int | None:
    """The cost of a bcrypt hash as a power of two; None for what is not one (a deleted account's)."""
    parts = hashed.split("$")
    return int(parts[2]) if len(parts) == 4 and parts[2].isdigit() else None


class PasswordHasher:
    """Hashes and checks passwords in threads of lower priority. An async context manager.

    At most ``workers`` run at once and 32 times that many wait; past that callers get
    :class:`~domain.errors.Overloaded` at once. The threads give way to the event loop (bcrypt releases the GIL).
    """

    def __init__(self, *, rounds: int = 12, workers: int | None = None) -> None:
        self.rounds = rounds
        self._workers = workers or min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._workers, "password", initializer=_give_way)
        self._running: set[Future[object]] = set()
        self._nobody = ""

    async def __aenter__(self) -> Self:
        # What unknown accounts are checked against: as much work as a real one, and never right.
        self._nobody = await self.hash(secrets.token_hex())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """A new salted hash. Raises Overloaded."""
        return await self._run(lambda: _hash(password, self.rounds))

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Whether the password is the one that was hashed. Raises Overloaded.

        With None, or a hash that no password has, the work is that of a real check and the answer is False.
        """
        known = hashed is not None and rounds_of(hashed) is not None
        against = hashed if known and hashed is not None else self._nobody
        return await self._run(lambda: bcrypt.checkpw(prehash(password), against.encode())) and known

    def outdated(self, hashed: str) -> bool:
        """Whether a hash was made at another cost than today's."""
        return rounds_of(hashed) != self.rounds

    async def _run(self, work: Callable[[], T]) -> T:
        self._running = {f for f in self._running if not f.done()}
        if len(self._running) >= self._workers * (1 + WAITING_PER_WORKER):
            raise Overloaded("too many passwords are being checked", retry_after=2)
        future = self._pool.submit(work)
        self._running.add(future)  # type: ignore[arg-type]  # only asked whether it is done
        return await asyncio.wrap_future(future)


def _hash(password: str, rounds: int) -> str:
    return bcrypt.hashpw(prehash(password), bcrypt.gensalt(rounds)).decode()


def _give_way() -> None:
    try:  # on Linux a thread has its own priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
    except (AttributeError, OSError):
        pass
