"""Who is with whom and who says what, in made-up history: decided whole before a row is written.

The same number and size give the same plan. It holds no text, no time and no position but counts from 1, so that a
million messages take 16 MB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

IN_GROUPS = 0.7  # of the messages
SMALLEST_GROUP, LARGEST_GROUP = 3, 32
"""Members of a group. In larger ones no receipts are told, so nothing but messages would be in their log."""


class SeedRefused(Exception):
    """What was asked for cannot be made, or not here and now; the text says why."""


@dataclass(frozen=True, slots=True)
class SeedSize:
    """How much to make up. ``log_rows`` counts every event: of conversations, of messages, and the rest receipts."""

    users: int
    messages: int
    log_rows: int

    @property
    def directs(self) -> int:
        return self.users // 2

    @property
    def groups(self) -> int:
        return self.users // 10

    @property
    def conversations(self) -> int:
        return self.directs + self.groups

    def check(self) -> None:
        """Raises SeedRefused."""
        if self.users < 1 or self.messages < 0:
            raise SeedRefused("there has to be at least one user")
        if self.messages and not self.conversations:
            raise SeedRefused("messages need at least two users")
        least = self.conversations + self.messages
        if self.log_rows < least:
            raise SeedRefused(
                f"{self.users:,} users with {self.messages:,} messages make at least {least:,} log rows"
            )
        if self.log_rows > least and not self.messages:
            raise SeedRefused(f"without messages there are {least:,} log rows, no more")


@dataclass(frozen=True, slots=True)
class SeedChat:
    """A conversation: the numbers of its members, rising, and where its first member's state is in the plan."""

    members: tuple[int, ...]
    owner: int | None
    """Of a group; None makes it direct."""
    place: int


class SeedPlan:
    """Everything that is decided by chance, and what follows from it for every conversation and member.

    ``read`` and ``delivered`` are how far each member is, in the order of ``chats`` and of their members.
    """

    def __init__(self, size: SeedSize, rng: Random) -> None:
        size.check()
        self.size = size
        self.chats = list(_chats(size, rng))
        self.memberships = sum(len(chat.members) for chat in self.chats)
        self.last_seq = array("q", bytes(8 * len(self.chats)))
        self.activity = array("q", range(1, len(self.chats) + 1))
        self.read = array("q", bytes(8 * self.memberships))
        self.delivered = array("q", bytes(8 * self.memberships))
        self._chat = array("I")
        self._sender = array("B")
        self._receipts = array("B")
        self._first = array("B")
        self.toggles = 0
        """Log rows that no receipt was left for: the last message's sender reacts and takes it back, in turns."""
        self._decide(rng)

    def messages(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """The messages from number ``start`` up to ``end``: the chat, the sender's place among its members, the number
        of receipts that follow, and who gives the first of them, for :meth:`listeners`."""
        return zip(
            self._chat[start:end],
            self._sender[start:end],
            self._receipts[start:end],
            self._first[start:end],
            strict=True,
        )

    @staticmethod
    def listeners(members: int, sender: int, receipts: int, first: int) -> Iterator[tuple[int, bool]]:
        """Who gives receipts for a message, as places among the members, and whether they have read it too."""
        others = members - 1
        for n in range((receipts + 1) // 2):
            yield (sender + 1 + (first + n) % others) % members, 2 * n + 1 < receipts

    def _decide(self, rng: Random) -> None:
        size, chance = self.size, rng.random
        told, spare = 0, size.log_rows - size.conversations - size.messages
        position = size.conversations
        for n in range(size.messages):
            among_groups = size.groups and chance() < IN_GROUPS
            # Few conversations have most of the talk: the square of chance is often near 0.
            share = chance() * chance()
            chat = size.directs + int(size.groups * share) if among_groups else int(size.directs * share)
            found = self.chats[chat]
            count = len(found.members)
            sender, first = int(chance() * count), int(chance() * (count - 1))
            receipts = min(spare * (n + 1) // size.messages - told, 2 * (count - 1))
            seq = self.last_seq[chat] = self.last_seq[chat] + 1
            self.read[found.place + sender] = self.delivered[found.place + sender] = seq
            for listener, read in self.listeners(count, sender, receipts, first):
                self.delivered[found.place + listener] = seq
                if read:
                    self.read[found.place + listener] = seq
            told += receipts
            position += 1
            self.activity[chat] = position
            position += receipts
            self._chat.append(chat)
            self._sender.append(sender)
            self._receipts.append(receipts)
            self._first.append(first)
        self.toggles = spare - told


def _chats(size: SeedSize, rng: Random) -> Iterator[SeedChat]:
    """Neighbours in pairs, then groups of people from anywhere."""
    place = 0
    for pair in range(size.directs):
        yield SeedChat((2 * pair, 2 * pair + 1), None, place)
        place += 2
    for _ in range(size.groups):
        count = min(rng.randint(SMALLEST_GROUP, LARGEST_GROUP), size.users)
        members = tuple(sorted(rng.sample(range(size.users), count)))
        yield SeedChat(members, rng.choice(members), place)
        place += count
