"""Who is in which conversation: made, changed and read by REST, as people do, and noted down as it is acknowledged."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from faults.clients_events import Json
from faults.clients_http import Answer, Entrance, Rest
from faults.clients_people import SignIn
from faults.clients_record import Record
from faults.history import Change, Membership, Reading, Step

PAGE = 100


class Rooms:
    """Conversations of one run. Changes of one membership must not overlap."""

    def __init__(self, entrance: Entrance, rest: Rest, record: Record, rng: random.Random) -> None:
        self.entrance = entrance
        self.rest = rest
        """Requests outside of what clients do by themselves."""
        self.record = record
        self.rng = rng
        self.owners: dict[str, SignIn] = {}
        """By conversation, who made it, and stays in it."""
        self.places: dict[str, list[str]] = {}
        """By sender's name, where they send."""
        self.whole: set[str] = set()
        """Conversations with `history: all`."""
        self.joined_at: dict[tuple[str, str], int] = {}
        """By user and conversation, the last message when they were taken in."""

    async def open_group(
        self, owner: SignIn, members: Sequence[SignIn], history: str = "joined", *, places: bool = True
    ) -> str:
        """A new group; its id. Senders among its members send there, if `places`."""
        body: Json = {
            "kind": "group",
            "title": "faults",
            "history": history,
            "members": [member.account.name for member in members],
        }
        made = await self._opened(owner, members, body, places=places)
        if history == "all":
            self.whole.add(made)
        return made

    async def open_direct(self, one: SignIn, other: SignIn) -> str:
        """The conversation of two, new or not; its id."""
        body: Json = {"kind": "direct", "members": [other.account.name]}
        return await self._opened(one, [other], body, places=True)

    async def _opened(self, owner: SignIn, members: Sequence[SignIn], body: Json, *, places: bool) -> str:
        began = time.monotonic()
        key = {"Idempotency-Key": f"{self.rng.getrandbits(64):x}"}
        answer = await self.ask(owner, "POST", "/conversations", body, headers=key)
        conversation: str = answer.json["id"]
        joined = Change(Step.JOINED, began, time.monotonic())
        self.owners[conversation] = owner
        for member in (owner, *members):
            name = member.account.name
            self.record.memberships[name, conversation] = Membership(name, conversation, (joined,))
            if places:
                self.sends_in(member, conversation)
        return conversation

    def sends_in(self, sender: SignIn, conversation: str) -> None:
        """From now on it is one of the places where this sender sends, member or not."""
        self.places.setdefault(sender.account.name, []).append(conversation)

    async def add(self, by: SignIn, conversation: str, who: SignIn) -> Answer:
        """Takes somebody in. A first try that comes in late finds itself answered: it adds nobody a second time."""
        began = time.monotonic()
        path, body = f"/conversations/{conversation}/members", {"members": [who.account.name]}
        key = {"Idempotency-Key": f"{self.rng.getrandbits(64):x}"}
        try:
            answer = await self.ask(by, "POST", path, body, headers=key)
        except BaseException:
            self._changed(who, conversation, Change(Step.JOINED, began, None))
            raise
        self._changed(who, conversation, Change(Step.JOINED, began, time.monotonic()))
        self.joined_at[who.account.name, conversation] = answer.json["last_seq"]
        return answer

    async def remove(self, by: SignIn, conversation: str, who: SignIn) -> Answer:
        """Takes somebody out, or leaves. A repeat of what was done already is answered 404, which settles it too."""
        began = time.monotonic()
        path = f"/conversations/{conversation}/members/{who.account.name}"
        try:
            answer = await self.ask(by, "DELETE", path, fine=(204, 404))
        except BaseException:
            self._changed(who, conversation, Change(Step.LEFT, began, None))
            raise
        self._changed(who, conversation, Change(Step.LEFT, began, time.monotonic()))
        return answer

    async def read(self, by: SignIn, conversation: str, after: int, limit: int = PAGE) -> Reading:
        """Reads a page by REST, once, as somebody who may or may not do so. Raises Cut."""
        token, began = await by.token(), time.monotonic()
        path = f"/conversations/{conversation}/messages?after_seq={after}&limit={limit}"
        answer = await self.rest.call(self.entrance, "GET", path, token)
        seqs = tuple(item["seq"] for item in answer.json["items"]) if answer.status == 200 else ()
        user, ended = by.account.name, time.monotonic()
        reading = Reading(
            user, conversation, answer.instance, began, ended, answer.status, seqs, after, limit
        )
        self.record.readings.append(reading)
        return reading

    def _changed(self, who: SignIn, conversation: str, change: Change) -> None:
        key = who.account.name, conversation
        before = self.record.memberships.get(key)
        changes = (*before.changes, change) if before is not None else (change,)
        self.record.memberships[key] = Membership(*key, changes)

    async def ask(
        self,
        by: SignIn,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        fine: Sequence[int] = (200, 201, 204),
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """A request of one of the people, until it is answered. Raises WrongAnswer, Cut."""
        token = await by.token()
        return await self.rest.settle(
            self.entrance, self.rng, method, path, lambda: token, body, fine=fine, headers=headers
        )
