"""The bucket of commands that a user's connections share."""

from __future__ import annotations

import gc
import uuid

import pytest

from domain.errors import TooMany
from domain.ids import UserId
from handlers.pacing import Pace, Paces


def spent(pace: Pace, now: float) -> int:
    """How many commands it lets pass at that time."""
    for count in range(1000):
        try:
            pace.spend(now)
        except TooMany:
            return count
    raise AssertionError("no end of them")


def test_two_seconds_worth_pass_at_once_and_then_so_many_a_second() -> None:
    pace = Pace(50)
    assert spent(pace, 100.0) == 100
    assert spent(pace, 100.5) == 25
    assert spent(pace, 1000.0) == 100


def test_a_refusal_says_when_the_next_one_passes() -> None:
    pace = Pace(50)
    spent(pace, 100.0)
    with pytest.raises(TooMany) as refused:
        pace.spend(100.0)
    assert refused.value.retry_after == pytest.approx(0.02)
    assert spent(pace, 100.021) == 1


def test_connections_of_one_user_share_a_bucket_and_others_have_their_own() -> None:
    paces = Paces(10)
    ada, bob = UserId(uuid.uuid4()), UserId(uuid.uuid4())
    phone, laptop = paces.of(ada), paces.of(ada)
    assert spent(phone, 1.0) == 20
    assert spent(laptop, 1.0) == 0
    assert spent(paces.of(bob), 1.0) == 20


def test_nothing_is_kept_for_who_has_gone() -> None:
    paces = Paces(10)
    ada = UserId(uuid.uuid4())
    held = paces.of(ada)
    assert len(paces._of) == 1
    del held
    gc.collect()
    assert len(paces._of) == 0
