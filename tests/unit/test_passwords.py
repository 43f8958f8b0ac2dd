"""Passwords: every byte counts, nothing blocks, and the queue is bounded."""

from __future__ import annotations

import asyncio
import threading

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import Overloaded
from services.security.passwords import WAITING_PER_WORKER, PasswordHasher, prehash, rounds_of

CHEAP = 4


@given(st.text(max_size=300), st.text(max_size=300))
def test_different_passwords_are_different_to_bcrypt(one: str, other: str) -> None:
    assert (prehash(one) == prehash(other)) == (one == other)


@given(st.text(st.characters(exclude_categories=()), max_size=2000))
def test_what_bcrypt_is_given_never_reaches_its_limits(password: str) -> None:
    hashed = prehash(password)
    assert len(hashed) == 44  # under bcrypt's 72 bytes
    assert b"\x00" not in hashed


async def test_a_password_is_known_again_and_only_it() -> None:
    async with PasswordHasher(rounds=CHEAP) as hasher:
        hashed = await hasher.hash("correct horse")
        assert await hasher.verify("correct horse", hashed)
        assert not await hasher.verify("correct horsf", hashed)
        assert hashed != await hasher.hash("correct horse"), "each hash has its own salt"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("a" * 72 + "tail", "a" * 72 + "toil"),
        ("a" * 1023 + "x", "a" * 1023 + "y"),
        ("nul\x00after", "nul\x00other"),
        ("nul\x00after", "nul"),
        ("\x00" * 8, "\x00" * 9),
        ("pässwörd", "passwörd"),
    ],
)
async def test_every_byte_of_a_password_counts(right: str, wrong: str) -> None:
    async with PasswordHasher(rounds=CHEAP) as hasher:
        hashed = await hasher.hash(right)
        assert await hasher.verify(right, hashed)
        assert not await hasher.verify(wrong, hashed)


@pytest.mark.parametrize("hashed", [None, "", "!", "$2b$", "$2b$xx$abc"])
async def test_no_password_opens_an_account_without_a_hash(hashed: str | None) -> None:
    async with PasswordHasher(rounds=CHEAP) as hasher:
        assert not await hasher.verify("anything", hashed)


@pytest.mark.parametrize("hashed", [None, "!"])
async def test_an_unknown_account_costs_what_a_known_one_does(
    hashed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int | None] = []
    real = bcrypt.checkpw

    def counted(password: bytes, against: bytes) -> bool:
        checked.append(rounds_of(against.decode()))
        return real(password, against)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    async with PasswordHasher(rounds=5) as hasher:
        known = await hasher.hash("secret word")
        assert await hasher.verify("secret word", known)
        assert not await hasher.verify("secret word", hashed)
    assert checked == [5, 5]


async def test_the_cost_is_as_set_and_a_change_of_it_is_seen() -> None:
    async with PasswordHasher(rounds=CHEAP) as cheap, PasswordHasher(rounds=6) as dear:
        hashed = await cheap.hash("secret word")
        assert rounds_of(hashed) == CHEAP
        assert dear.outdated(hashed)
        assert not cheap.outdated(hashed)
        assert await dear.verify("secret word", hashed)


class Gate:
    """Holds bcrypt's threads until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)
        self.threads: set[str] = set()

    def __call__(self, password: bytes, against: bytes) -> bool:
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.opened.wait(20)
        return False


async def test_the_loop_runs_on_and_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    async with PasswordHasher(rounds=CHEAP, workers=2) as hasher:
        monkeypatch.setattr(bcrypt, "checkpw", gate)
        capacity = 2 * (1 + WAITING_PER_WORKER)
        async with asyncio.TaskGroup() as group:
            checks = [group.create_task(hasher.verify("password", None)) for _ in range(capacity)]
            await asyncio.to_thread(gate.entered.acquire)
            with pytest.raises(Overloaded):
                await hasher.verify("password", None)
            assert not any(check.done() for check in checks)
            gate.opened.set()
        assert threading.current_thread().name not in gate.threads
        assert len(gate.threads) <= 2
        assert not await hasher.verify("password", None), "there is room again"


async def test_who_gives_up_frees_the_place_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    async with PasswordHasher(rounds=CHEAP, workers=1) as hasher:
        monkeypatch.setattr(bcrypt, "checkpw", gate)
        async with asyncio.TaskGroup() as group:
            checks = [
                group.create_task(hasher.verify("password", None)) for _ in range(1 + WAITING_PER_WORKER)
            ]
            await asyncio.to_thread(gate.entered.acquire)
            checks[-1].cancel()
            await asyncio.wait([checks[-1]])
            late = group.create_task(hasher.verify("password", None))
            gate.opened.set()
        assert not late.result()
