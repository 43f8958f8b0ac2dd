"""Random people do random things in a group; a simple model says what each of them must see.

Three ways of knowing are compared: the model, what REST shows, and what a client makes of the events it is given.
Counts are compared with the lists they count (I5).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from domain.errors import ParleyError
from domain.identity import Identity
from domain.ids import ConversationId, new_id
from domain.resources import OwnMessage
from tests.support.chat import Chat, chat_on, data_of
from tests.support.loop import LoopThread

NAMES = ("ann", "bob", "cat")
STORIES, STEPS = 50, 50


@dataclass(frozen=True, slots=True)
class Action:
    """Something one of them tries. ``leader`` is mostly the owner, so that most of it is allowed."""

    kind: str
    who: int
    leader: int
    whom: int
    seq: int
    body: str
    emoji: str
    role: Any

    @classmethod
    def random(cls, random: Random) -> Action:
        people = range(len(NAMES))
        return cls(
            kind=random.choice(KINDS),
            who=random.choice(people),
            leader=random.choice([0, 0, 0, *people]),
            whom=random.choice(people),
            seq=random.randint(1, 8),
            body=random.choice(["a", "b", "c", "🙂"]),
            emoji=random.choice(["👍", "🎉"]),
            role=random.choice(["owner", "admin", "member"]),
        )


KINDS: tuple[str, ...] = ("send",) * 4 + ("come_or_go",) * 3 + ("edit", "delete", "react") * 2
KINDS += ("unreact", "read", "delivered", "acknowledge", "add", "appoint")


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


class Story:
    """Does things in the model and in the product, one at a time; both must allow or refuse each."""

    def __init__(self, chat: Chat, who: list[Identity], start: int, id: ConversationId, history: str) -> None:
        self.chat = chat
        self.who = who
        self.start = start
        self.id = id
        self.group = Group(history)

    @classmethod
    async def begin(cls, chat: Chat, history: str) -> Story:
        suffix = new_id().hex[-12:]
        who = await chat.crowd(*(f"{name}.{suffix}" for name in NAMES))
        start = await chat.head()
        # In one event members are in the order of their ids, which is that of their making, as in the model.
        return cls(chat, who, start, await chat.group(who[0], who[1], history=history), history)

    async def both(self, allowed: bool, work: Awaitable[object]) -> None:
        refused: ParleyError | None = None
        try:
            await work
        except ParleyError as error:
            refused = error
        assert allowed is (refused is None), refused or "the model refuses it"

    async def act(self, action: Action) -> None:
        kind, who = action.kind, action.who
        if kind in ("come_or_go", "add", "appoint"):
            await self.lead(action)
        elif kind in ("read", "delivered"):
            work = getattr(self.chat.receipts, kind)(self.who[who], self.id, action.seq)
            await self.both(self.group.mark(who, kind, action.seq), work)
        elif kind == "acknowledge":
            person = self.who[who]
            self.group.mark(who, "delivered", len(self.group.said))
            await self.chat.receipts.delivered_up_to({(person.tenant, person.user): await self.chat.head()})
        else:
            await self.speak(action)
        assert await self.chat.value(COUNTS, self.id), "a count is not that of its list"

    async def speak(self, action: Action) -> None:
        chat, group, who, seq, emoji = self.chat, self.group, action.who, action.seq, action.emoji
        person = self.who[who]
        if action.kind == "send":
            await self.both(group.send(who, action.body), chat.send(person, self.id, action.body))
        elif action.kind == "edit":
            allowed = group.edit(who, seq, action.body)
            await self.both(allowed, chat.messages.edit(person, self.id, seq, action.body))
        elif action.kind == "delete":
            await self.both(group.delete(who, seq), chat.messages.delete(person, self.id, seq))
        elif action.kind == "react":
            await self.both(group.react(who, seq, emoji), chat.reactions.add(person, self.id, seq, emoji))
        else:
            allowed = group.unreact(who, seq, emoji)
            await self.both(allowed, chat.reactions.remove(person, self.id, seq, emoji))

    async def lead(self, action: Action) -> None:
        who, whom, group, members = action.leader, action.whom, self.group, self.chat.members
        person, name = self.who[who], str(self.who[whom].user)
        if action.kind == "appoint":
            allowed = group.appoint(who, whom, action.role)
            await self.both(allowed, members.update_role(person, self.id, name, action.role))
        elif action.kind == "come_or_go" and whom in group.members:
            await self.both(group.remove(who, whom), members.remove(person, self.id, name))
        else:
            await self.both(group.add(who, whom), members.add(person, self.id, [name]))

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
            (m.seq, m.body, sorted((r.emoji, r.user_ids) for r in m.reactions))
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
            if event.type in ("message.updated", "reaction.added", "reaction.removed"):
                known_before = data["seq"] in known
                assert known_before or self.group.history == "all", "told of what they may not see"
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
            (
                seq,
                body,
                sorted((emoji, [UUID(u) for u in users]) for emoji, users in reactions.items() if users),
            )
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
    async def live(history: str, actions: Sequence[Action]) -> None:
        story = await Story.begin(chat, history)
        for n, action in enumerate(actions, start=1):
            await story.act(action)
            if n % 10 == 0:
                await story.check_everyone()

    # A seed a story, not a rule an action: Hypothesis would leave most kinds of actions out of most stories, and what
    # is hard here is the mixture.
    @settings(max_examples=STORIES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.integers(0, 2**64 - 1))
    def stories(seed: int) -> None:
        random = Random(seed)
        history = random.choice(["joined", "joined", "all"])
        actions = [Action.random(random) for _ in range(STEPS)]
        note("\n".join(map(str, actions)))
        loop_thread.run(live(history, actions), 60)

    stack = AsyncExitStack()
    chat = loop_thread.run(stack.enter_async_context(chat_on(database_url)))
    try:
        stories()
    finally:
        loop_thread.run(stack.aclose())
