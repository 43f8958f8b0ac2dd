"""Random people do random things in a group; a simple model says what each of them must see.

Three ways of knowing are compared: the model, what REST shows, and what a client makes of the events it is given.
Counts are compared with the lists they count (I5).
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from domain.errors import ParleyError
from domain.identity import Identity
from domain.ids import ConversationId, new_id
from domain.resources import OwnMessage
from tests.support.chat import Chat, chat_on, data_of
from tests.support.loop import LoopThread

T = TypeVar("T")
NAMES = ("ann", "bob", "cat", "dan")
EMOJI = ("👍", "🎉")

people = st.sampled_from(range(len(NAMES)))
seqs = st.integers(min_value=1, max_value=12)
texts = st.sampled_from(["a", "b", "c", "🙂"])


@dataclass
class Said:
    """A message in the model."""

    sender: int
    body: str | None
    former: list[str] = field(default_factory=list)
    reactions: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class Place:
    """A member in the model."""

    joined: int
    read: int
    delivered: int
    role: str = "member"


class Group:
    """The rules, as simply as they can be said."""

    def __init__(self, history: str) -> None:
        self.history = history
        self.said: list[Said] = []
        self.members: dict[int, Place] = {0: Place(0, 0, 0, "owner"), 1: Place(0, 0, 0)}
        self.order = [0, 1]

    def sees(self, who: int, seq: int) -> bool:
        place = self.members.get(who)
        first = 1 if self.history == "all" else place.joined + 1 if place else 0
        return place is not None and first <= seq <= len(self.said)

    def leads(self, who: int) -> bool:
        return who in self.members and self.members[who].role != "member"

    def send(self, who: int, body: str) -> bool:
        if who not in self.members:
            return False
        self.said.append(Said(who, body))
        self.members[who].read = self.members[who].delivered = len(self.said)
        return True

    def edit(self, who: int, seq: int, body: str) -> bool:
        if not self.sees(who, seq) or self.said[seq - 1].sender != who or self.said[seq - 1].body is None:
            return False
        message = self.said[seq - 1]
        if message.body is not None and message.body != body:
            message.former.append(message.body)
            message.body = body
        return True

    def delete(self, who: int, seq: int) -> bool:
        if not self.sees(who, seq) or not (self.said[seq - 1].sender == who or self.leads(who)):
            return False
        message = self.said[seq - 1]
        message.body, message.former, message.reactions = None, [], {}
        return True

    def react(self, who: int, seq: int, emoji: str) -> bool:
        if not self.sees(who, seq) or self.said[seq - 1].body is None:
            return False
        given = self.said[seq - 1].reactions.setdefault(emoji, [])
        if who not in given:
            given.append(who)
        return True

    def unreact(self, who: int, seq: int, emoji: str) -> bool:
        if not self.sees(who, seq):
            return False
        reactions = self.said[seq - 1].reactions
        if who in reactions.get(emoji, []):
            reactions[emoji].remove(who)
            if not reactions[emoji]:
                del reactions[emoji]
        return True

    def mark(self, who: int, kind: str, seq: int) -> bool:
        if who not in self.members:
            return False
        place, seq = self.members[who], min(seq, len(self.said))
        place.delivered = max(place.delivered, seq)
        if kind == "read":
            place.read = max(place.read, seq)
        return True

    def add(self, who: int, target: int) -> bool:
        if not self.leads(who):
            return False
        if target not in self.members:
            last = len(self.said)
            self.members[target] = Place(last, last, last)
            self.order.append(target)
        return True

    def remove(self, who: int, target: int) -> bool:
        if who not in self.members or target not in self.members:
            return False
        own, theirs = self.members[who].role, self.members[target].role
        if who != target and not (own == "owner" or (own == "admin" and theirs == "member")):
            return False
        del self.members[target]
        self.order.remove(target)
        if theirs == "owner" and self.order and "owner" not in {m.role for m in self.members.values()}:
            admins = [n for n in self.order if self.members[n].role == "admin"]
            self.members[[*admins, *self.order][0]].role = "owner"
        return True

    def appoint(self, who: int, target: int, role: str) -> bool:
        if who not in self.members or target not in self.members:
            return False
        own, now = self.members[who].role, self.members[target].role
        rank = ("member", "admin", "owner").index
        if own != "owner" and not (who == target and rank(role) <= rank(own)):
            return False
        owners = [n for n, m in self.members.items() if m.role == "owner"]
        if who == target and now == "owner" and role != "owner" and owners == [who]:
            return False
        self.members[target].role = role
        return True

    def status(self, seq: int) -> str:
        others = [p for n, p in self.members.items() if n != self.said[seq - 1].sender]
        if others and min(p.read for p in others) >= seq:
            return "read"
        return "delivered" if others and min(p.delivered for p in others) >= seq else "sent"


class ConversationMachine(RuleBasedStateMachine):
    """Every rule does one thing in the model and in the product, and both must allow or refuse it."""

    chat: Chat
    loop: LoopThread

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work, 30)

    def both(self, allowed: bool, work: Coroutine[Any, Any, object]) -> None:
        try:
            self.run(work)
        except ParleyError as error:
            assert not allowed, f"the model allows what was refused with {error!r}"
        else:
            assert allowed, "the model refuses what was allowed"

    @initialize(history=st.sampled_from(["joined", "all"]))
    def begin(self, history: str) -> None:
        suffix = new_id().hex[-12:]
        self.who: list[Identity] = self.run(self.chat.crowd(*(f"{name}.{suffix}" for name in NAMES)))
        self.start = self.run(self.chat.head())
        self.id: ConversationId = self.run(self.chat.group(self.who[0], self.who[1], history=history))
        # In one event, members are in the order of their ids, which is that of their making.
        self.group = Group(history)
        self.checked = False

    @rule(who=people, body=texts)
    def send(self, who: int, body: str) -> None:
        self.both(self.group.send(who, body), self.chat.send(self.who[who], self.id, body))

    @rule(who=people, seq=seqs, body=texts)
    def edit(self, who: int, seq: int, body: str) -> None:
        allowed = self.group.edit(who, seq, body)
        self.both(allowed, self.chat.messages.edit(self.who[who], self.id, seq, body))

    @rule(who=people, seq=seqs)
    def delete(self, who: int, seq: int) -> None:
        self.both(self.group.delete(who, seq), self.chat.messages.delete(self.who[who], self.id, seq))

    @rule(who=people, seq=seqs, emoji=st.sampled_from(EMOJI))
    def react(self, who: int, seq: int, emoji: str) -> None:
        allowed = self.group.react(who, seq, emoji)
        self.both(allowed, self.chat.reactions.add(self.who[who], self.id, seq, emoji))

    @rule(who=people, seq=seqs, emoji=st.sampled_from(EMOJI))
    def unreact(self, who: int, seq: int, emoji: str) -> None:
        allowed = self.group.unreact(who, seq, emoji)
        self.both(allowed, self.chat.reactions.remove(self.who[who], self.id, seq, emoji))

    @rule(who=people, seq=st.integers(0, 14), kind=st.sampled_from(["read", "delivered"]))
    def mark(self, who: int, seq: int, kind: str) -> None:
        work = getattr(self.chat.receipts, kind)(self.who[who], self.id, seq)
        self.both(self.group.mark(who, kind, seq), work)

    @rule(who=people)
    def acknowledge(self, who: int) -> None:
        """A client says it has everything the log holds."""
        person = self.who[who]
        self.group.mark(who, "delivered", len(self.group.said))
        self.run(
            self.chat.receipts.delivered_up_to({(person.tenant, person.user): self.run(self.chat.head())})
        )

    @rule(who=people, whom=people)
    def add(self, who: int, whom: int) -> None:
        work = self.chat.members.add(self.who[who], self.id, [str(self.who[whom].user)])
        self.both(self.group.add(who, whom), work)

    @rule(who=people, whom=people)
    def remove(self, who: int, whom: int) -> None:
        work = self.chat.members.remove(self.who[who], self.id, str(self.who[whom].user))
        self.both(self.group.remove(who, whom), work)

    @rule(who=people, whom=people, role=st.sampled_from(["owner", "admin", "member"]))
    def appoint(self, who: int, whom: int, role: Any) -> None:
        work = self.chat.members.update_role(self.who[who], self.id, str(self.who[whom].user), role)
        self.both(self.group.appoint(who, whom, role), work)

    @precondition(lambda self: len(self.group.said) > 0)
    @rule()
    def compare(self) -> None:
        self.run(self.check_everyone())

    def teardown(self) -> None:
        if hasattr(self, "group"):
            self.run(self.check_everyone())

    @invariant()
    def counts_are_lists(self) -> None:
        if hasattr(self, "group"):
            assert self.run(self.chat.value(COUNTS, self.id)), "a count is not that of its list"

    async def check_everyone(self) -> None:
        for n, person in enumerate(self.who):
            listed, _ = await self.chat.conversations.list(person, after=None, limit=5)
            assert [c.id for c in listed] == ([self.id] if n in self.group.members else [])
            if n in self.group.members:
                await self.check(n, person)

    async def check(self, n: int, person: Identity) -> None:
        group, place = self.group, self.group.members[n]
        shown = await self.chat.get(person, self.id)
        assert (shown.last_seq, shown.read_seq) == (len(group.said), place.read)
        assert shown.unread_count == len(group.said) - place.read
        assert (shown.role, shown.member_count) == (place.role, len(group.members))
        assert [m.user.id for m in shown.members] == [self.who[m].user for m in group.order]
        messages = await self.chat.messages.list(person, self.id, before=None, after=0, limit=100)
        expected = [seq for seq in range(1, len(group.said) + 1) if group.sees(n, seq)]
        assert [m.seq for m in messages] == expected
        assert shown.last_message == (messages[-1] if expected[-1:] == [len(group.said)] else None)
        for message in messages:
            await self.check_message(n, person, message)
        assert await self.as_told(person, first=1 if place.joined == 0 else place.joined + 1) == [
            (m.seq, m.body, [(r.emoji, r.user_ids) for r in m.reactions])
            for m in messages
            if m.seq > place.joined
        ]

    async def check_message(self, n: int, person: Identity, message: OwnMessage) -> None:
        said = self.group.said[message.seq - 1]
        assert message.body == said.body
        assert message.status == (self.group.status(message.seq) if said.sender == n else None)
        assert {r.emoji: r.user_ids for r in message.reactions} == {
            emoji: [self.who[who].user for who in given] for emoji, given in said.reactions.items()
        }
        assert all(r.count == len(r.user_ids) for r in message.reactions)
        former = await self.chat.messages.history(person, self.id, message.seq)
        assert [f.body for f in former] == said.former

    async def as_told(self, person: Identity, first: int) -> list[tuple[int, str | None, object]]:
        """What a client that only ever read the log has, of the messages from ``first`` on."""
        known: dict[int, tuple[str | None, dict[str, list[str]]]] = {}
        for event in await self.chat.replay(person, self.start):
            data = data_of(event)
            if event.type in ("message.created", "message.updated"):
                reactions = {r["emoji"]: list(r["user_ids"]) for r in data["reactions"]}
                known[data["seq"]] = (data["body"], reactions)
            elif event.type == "message.deleted" and data["seq"] in known:
                known[data["seq"]] = (None, {})
            elif event.type in ("reaction.added", "reaction.removed"):
                if self.group.history == "all" and data["seq"] not in known:
                    continue  # of a message from before: it is there by REST
                given = known[data["seq"]][1].setdefault(data["emoji"], [])
                if event.type == "reaction.added":
                    given.append(data["user_id"])
                elif data["user_id"] in given:  # a redacted event does not say who had reacted
                    given.remove(data["user_id"])
        return [
            (seq, body, [(emoji, [UUID(u) for u in users]) for emoji, users in reactions.items() if users])
            for seq, (body, reactions) in sorted(known.items())
            if seq >= first
        ]


COUNTS = """
SELECT bool_and(c.member_count = m.members AND c.last_seq = s.messages AND c.last_seq = s.newest
    AND m.read_is_delivered AND m.nothing_beyond)
FROM conversations c,
    LATERAL (SELECT count(*) FILTER (WHERE left_at IS NULL) AS members,
        bool_and(read_seq <= delivered_seq) AS read_is_delivered,
        bool_and(delivered_seq <= c.last_seq AND joined_seq <= read_seq) AS nothing_beyond
        FROM conversation_members WHERE conversation_id = c.id) m,
    LATERAL (SELECT count(*) AS messages, coalesce(max(seq), 0) AS newest
        FROM messages WHERE conversation_id = c.id) s
WHERE c.id = $1
"""


def test_what_each_member_sees_is_what_the_rules_say(database_url: str, loop_thread: LoopThread) -> None:
    stack = AsyncExitStack()
    chat = loop_thread.run(stack.enter_async_context(chat_on(database_url)))

    class Machine(ConversationMachine):
        pass

    Machine.chat, Machine.loop = chat, loop_thread
    try:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=25,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
    finally:
        loop_thread.run(stack.aclose())
