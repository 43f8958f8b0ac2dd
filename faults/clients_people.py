"""Accounts and their sign-ins: made quickly, refreshed in time, signed in anew where a refresh got lost for long."""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from faults.clients_events import Json
from faults.clients_http import Answer, Entrance, Rest, WrongAnswer

AT_ONCE = 16
"""Accounts made at the same time."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user. Names and passwords are the harness's own."""

    id: str
    name: str
    password: str = field(repr=False)


class SignIn:
    """One session of an account: its pair of tokens, refreshed when a fifth of its life is left.

    `name` changes when it had to be made anew: the refresh token before last is good for ten seconds only, and an
    outage may hide an answer for longer. One that was ended on purpose (`over`) is not made anew: it keeps the token
    it had, so that who uses it goes on knocking with a dead one.
    """

    def __init__(
        self,
        account: Account,
        rest: Rest,
        entrance: Entrance,
        rng: random.Random,
        signed_in: Json,
        began: float,
    ) -> None:
        self.account = account
        self.over = False
        self._rest = rest
        self.entrance = entrance
        self._rng = rng
        self._numbers = itertools.count(1)
        self._refreshing = asyncio.Lock()
        self._take(signed_in, began)
        self._rename()

    @classmethod
    async def by_password(
        cls, account: Account, rest: Rest, entrance: Entrance, rng: random.Random, number: int = 1
    ) -> SignIn:
        """Another sign-in of an account. `number` tells sign-ins of one account apart."""
        began = time.monotonic()
        answer = await _sign_in(account, rest, entrance, rng)
        made = cls(account, rest, entrance, rng, answer.json, began)
        made._numbers = itertools.count(number * 1000)
        made._rename()
        return made

    def _rename(self) -> None:
        self.name = f"{self.account.name}#{next(self._numbers)}"

    def _take(self, pair: Json, began: float) -> None:
        self.access: str = pair["access_token"]
        self._refresh: str = pair["refresh_token"]
        life = float(pair["expires_in"])
        self.expired_by = time.monotonic() + life
        """By then the token's time is over for sure."""
        self.due = began + 0.8 * life
        """When another one should be asked for."""

    async def token(self, *, but: str = "") -> str:
        """A token that is good for a while, and not `but`, which was refused. Raises WrongAnswer, Cut."""
        if self.over:
            return self.access
        async with self._refreshing:
            if time.monotonic() >= self.due or self.access == but:
                await self._renew()
            return self.access

    async def _renew(self) -> None:
        began = time.monotonic()
        body = {"refresh_token": self._refresh}
        try:
            answer = await self._rest.settle(
                self.entrance, self._rng, "POST", "/auth/token/refresh", body=body, fine=(200,)
            )
        except WrongAnswer as error:
            if self.over:
                return
            if error.answer.status != 401:
                raise
            began = time.monotonic()
            answer = await _sign_in(self.account, self._rest, self.entrance, self._rng)
            self._rename()
        self._take(answer.json, began)


async def _sign_in(account: Account, rest: Rest, entrance: Entrance, rng: random.Random) -> Answer:
    body = {"username": account.name, "password": account.password}
    return await rest.settle(entrance, rng, "POST", "/auth/token", body=body, fine=(200,))


async def register(rest: Rest, entrance: Entrance, rng: random.Random, names: Sequence[str]) -> list[SignIn]:
    """Accounts of these names, each with a sign-in."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> SignIn:
        async with room:
            password, began = secrets.token_hex(8), time.monotonic()
            body = {"username": name, "email": f"{name}@faults.example", "password": password}
            answer = await rest.settle(entrance, rng, "POST", "/auth/register", body=body, fine=(201,))
            account = Account(answer.json["user"]["id"], name, password)
            return SignIn(account, rest, entrance, rng, answer.json, began)

    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(one(name)) for name in names]
    return [task.result() for task in made]
