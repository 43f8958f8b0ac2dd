"""Made-up history as rows: the people, conversations, messages and events of a plan, as the services would have left
them. Event data is made from the services' own drafts, so it is what clients know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from random import Random
from uuid import UUID

from domain.ids import ClientId, ConversationId, TenantId, UserId
from domain.log import EventDraft, conversation_topic, encode_control, rfc3339
from domain.resources import Member, Role, SharedConversation, User
from services.conversation_events import (
    conversation_created,
    reaction_changed,
    receipt_delivered,
    receipt_read,
)
from services.message_commit import SendDraft, new_message, public_json
from services.message_drafts import sent_digest
from services.seed_plan import SeedChat, SeedPlan
from storage.conversation_views import MEMBERS_SHOWN
from storage.seeding import (
    close_event,
    event_head,
    message_head,
    moment,
    open_event,
    pack_event,
    pack_message,
)

TEXTS = 4096
_IDS_FROM = 1_735_689_600_000  # 2025: ids are the same whenever they are made
_NAMES = (
    "Ada",
    "Bo",
    "Cleo",
    "Dan",
    "Eve",
    "Finn",
    "Hana",
    "Ivo",
    "Jo",
    "Lea",
    "Mio",
    "Nia",
    "Otto",
    "Pia",
    "Rosa",
)
_PHRASES = (
    "the train was late again",
    "see you by the river",
    "and nobody had a map",
    "with good soup",
    "maybe tomorrow after work",
    "can you bring the green notebook",
    "it rained all the way back",
    "pictures will follow",
    "so we walked",
    "ask her first",
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """The rows of some messages that follow each other, and of the events they made."""

    messages: list[bytes]
    events: list[bytes]
    first: int
    """Position of the first event."""


class _Template:
    """Bytes with places to fill in, made from an example in which each place holds a value found nowhere else."""

    def __init__(self, example: bytes, *values: bytes) -> None:
        places = sorted((example.index(value), value) for value in values)
        ends = [(0, b"")] + [(at, value) for at, value in places] + [(len(example), b"")]
        self.parts = tuple(
            example[at + len(value) : following] for (at, value), (following, _) in pairwise(ends)
        )


_A, _B, _C = (UUID(int=n + (0xA << 124)) for n in (1, 2, 3))
_BODY, _AT = "-body-", "-at-"


def _message_template(tenant: TenantId) -> _Template:
    draft = SendDraft(tenant, ConversationId(_A), UserId(_B), ClientId(_C), _BODY, None)
    example = new_message(draft, b"", _AT)
    marks = [example.id, *map(str, (_A, _B, _C)), _BODY, _AT]
    return _Template(public_json(example, 7_777_777), b"7777777", *(mark.encode() for mark in marks))


class SeedHistory:
    """Renders a plan. ``head`` is the position that the log is at; ``begins`` to ``ends`` is when it all happened.

    :meth:`stretches` keeps the count of each conversation, so it runs once.
    """

    def __init__(
        self, plan: SeedPlan, tenant: TenantId, rng: Random, head: int, begins: datetime, ends: datetime
    ) -> None:
        self.plan, self.tenant, self.head = plan, tenant, head
        self._rng, self._begins, self._ends = rng, begins, ends
        self.users = [UserId(self._id(n)) for n in range(plan.size.users)]
        self.chats = [ConversationId(self._id(n)) for n in range(len(plan.chats))]
        self._shown = [self._profile(n) for n in range(plan.size.users)]
        self._texts = [_sentence(rng) for _ in range(TEXTS)]
        self._emoji = "\N{WAVING HAND SIGN}"
        self.marks: list[tuple[datetime, int]] = []
        """Where the log was each hour, known when everything was rendered."""

    @property
    def last(self) -> int:
        """Position of the last event."""
        return self.head + self.plan.size.log_rows

    def user_records(self, password_hash: str) -> Iterator[tuple[object, ...]]:
        for n, user in enumerate(self.users):
            name, at = username(n), self._begins
            email, shown = f"{name}@seed.example", self._shown[n].display_name
            yield self.tenant, user, name, email, password_hash, shown, at, at

    def conversation_records(self) -> Iterator[tuple[object, ...]]:
        for n, chat in enumerate(self.plan.chats):
            group = chat.owner is not None
            low, high = (None, None) if group else (self.users[m] for m in chat.members)
            yield (
                self.tenant,
                self.chats[n],
                "group" if group else "direct",
                _title(n) if group else None,
                low,
                high,
                self.plan.last_seq[n],
                self.head + self.plan.activity[n],
                self.head + 1 + n,
                len(chat.members),
                self.users[_creator(chat)],
                self._begins,
                self._begins,
            )

    def member_records(self) -> Iterator[tuple[object, ...]]:
        for n, chat in enumerate(self.plan.chats):
            for place, member in enumerate(chat.members, chat.place):
                read, delivered = self.plan.read[place], self.plan.delivered[place]
                opens, role = self.head + 1 + n, _role(chat, member)
                yield (
                    self.tenant,
                    self.chats[n],
                    self.users[member],
                    role,
                    self._begins,
                    opens,
                    read,
                    delivered,
                    read,
                    delivered,
                )

    def window_records(self) -> Iterator[tuple[object, ...]]:
        for n, chat in enumerate(self.plan.chats):
            for member in chat.members:
                yield self.tenant, self.chats[n], self.users[member], self.head + 1 + n

    def reaction_records(self) -> Iterator[tuple[object, ...]]:
        """What the last message's sender has not taken back."""
        if self.plan.toggles % 2:
            chat, seq, sender = self._last_message()
            yield self.tenant, self.chats[chat], seq, self._emoji, self.users[sender], self._ends

    def stretches(self, messages_at_once: int) -> Iterator[Stretch]:
        """Every event in the order of the log, and the messages among them."""
        began = moment(self._begins)
        created = [self._packed(draft, began, self.head + 1 + n) for n, draft in enumerate(self._created())]
        yield Stretch([], created, self.head + 1)
        position = self.head + 1 + len(created)
        chats = _ChatBytes(self)
        for start in range(0, self.plan.size.messages, messages_at_once):
            end = min(start + messages_at_once, self.plan.size.messages)
            stretch = self._stretch(chats, start, end, position)
            yield stretch
            position += len(stretch.events)
        if self.plan.toggles:
            yield Stretch([], list(self._toggled(position)), position)
        if not self.marks or self.marks[-1][0] < self._ends:
            self.marks.append((self._ends, self.last))

    def _stretch(self, chats: _ChatBytes, start: int, end: int, position: int) -> Stretch:
        messages: list[bytes] = []
        events: list[bytes] = []
        first, template = position, chats.message.parts
        for n, (chat, sender, receipts, listener) in enumerate(self.plan.messages(start, end), start):
            members = self.plan.chats[chat].members
            seq = chats.seq[chat] = chats.seq[chat] + 1
            since = (self._ends - self._begins) * (n + 1) / (self.plan.size.messages + 1)
            time = self._begins + since
            at = moment(time)
            if not self.marks or time - self.marks[-1][0] >= timedelta(hours=1):
                self.marks.append((time, position - 1))
            message, client = self._id(n), UUID(int=self._rng.getrandbits(128), version=4)
            text = self._texts[int(self._rng.random() * TEXTS)]
            author = members[sender]
            values = (
                b"%d" % seq,
                str(message).encode(),
                chats.text[chat],
                chats.user_text[author],
                str(client).encode(),
                text,
                rfc3339(time).encode(),
            )
            data = b"".join(part for pair in zip(template, (*values, b""), strict=True) for part in pair)
            digest = sent_digest(self.chats[chat], text.decode(), None)
            messages.append(
                pack_message(
                    chats.row_head[chat],
                    chats.user_bytes[author],
                    message.bytes,
                    client.bytes,
                    digest,
                    text,
                    seq,
                    position,
                    at,
                )
            )
            events.append(pack_event(chats.created_head[chat], at, data, position))
            position += 1
            if not receipts:
                continue
            before, between, after = chats.receipt.parts
            opening, closing = before + chats.text[chat] + between, b"%b%d}" % (after, seq)
            size = len(opening) + len(chats.user_text[author]) + len(closing)
            told_delivered = open_event(chats.delivered_head[chat], at, size) + opening
            told_read = open_event(chats.read_head[chat], at, size) + opening
            for place, read in self.plan.listeners(len(members), sender, receipts, listener):
                data = chats.user_text[members[place]] + closing
                events.append(told_delivered + data + close_event(position))
                position += 1
                if read:
                    events.append(told_read + data + close_event(position))
                    position += 1
        return Stretch(messages, events, first)

    def _created(self) -> Iterator[EventDraft]:
        for n, chat in enumerate(self.plan.chats):
            yield conversation_created(
                self.tenant, self._shared(n, chat), [self.users[member] for member in chat.members]
            )

    def _shared(self, n: int, chat: SeedChat) -> SharedConversation:
        """A conversation as it was when it was made."""
        return SharedConversation.model_construct(
            id=self.chats[n],
            kind="direct" if chat.owner is None else "group",
            title=None if chat.owner is None else _title(n),
            history="joined",
            last_seq=0,
            member_count=len(chat.members),
            members=[
                Member.model_construct(
                    user=self._shown[member], role=_role(chat, member), joined_at=self._begins
                )
                for member in chat.members[:MEMBERS_SHOWN]
            ],
            created_at=self._begins,
        )

    def _toggled(self, position: int) -> Iterator[bytes]:
        chat, seq, sender = self._last_message()
        for n in range(self.plan.toggles):
            draft = reaction_changed(
                self.tenant,
                self.chats[chat],
                seq,
                self._emoji,
                self.users[sender],
                added=n % 2 == 0,
                about=None,
            )
            yield self._packed(draft, moment(self._ends), position + n)

    def _last_message(self) -> tuple[int, int, int]:
        """Its chat, its seq and its sender's number."""
        count = self.plan.size.messages
        ((chat, sender, _, _),) = self.plan.messages(count - 1, count)
        return chat, self.plan.last_seq[chat], self.plan.chats[chat].members[sender]

    def _packed(self, draft: EventDraft, at: int, position: int) -> bytes:
        head = event_head(draft.tenant, draft.topic, draft.type, encode_control(draft.control))
        return pack_event(head, at, draft.data, position)

    def _profile(self, n: int) -> User:
        return User(
            id=self.users[n],
            username=username(n),
            display_name=f"{self._rng.choice(_NAMES)} {n + 1}",
            bio="",
            avatar_url=None,
            created_at=self._begins,
            follower_count=0,
            following_count=0,
            post_count=0,
        )

    def _id(self, n: int) -> UUID:
        """A UUIDv7 (RFC 9562), rising with ``n``."""
        chance = self._rng.getrandbits(74)
        return UUID(
            int=(_IDS_FROM + n) << 80 | 7 << 76 | (chance >> 62) << 64 | 2 << 62 | chance & ((1 << 62) - 1)
        )


class _ChatBytes:
    """What the rows of each conversation and user share, ready to be joined."""

    def __init__(self, history: SeedHistory) -> None:
        tenant, chats = history.tenant, history.chats
        topics = [conversation_topic(chat) for chat in chats]
        self.seq = [0] * len(chats)
        self.text = [str(chat).encode() for chat in chats]
        self.row_head = [message_head(tenant, chat) for chat in chats]
        self.created_head = [event_head(tenant, topic, "message.created") for topic in topics]
        delivered, read = (
            make(tenant, ConversationId(_A), UserId(_B), 7_777_777)
            for make in (receipt_delivered, receipt_read)
        )
        assert delivered.data == read.data
        self.delivered_head = [event_head(tenant, topic, delivered.type) for topic in topics]
        self.read_head = [event_head(tenant, topic, read.type) for topic in topics]
        self.receipt = _Template(delivered.data.removesuffix(b"7777777}"), str(_A).encode(), str(_B).encode())
        self.message = _message_template(tenant)
        self.user_text = [str(user).encode() for user in history.users]
        self.user_bytes = [user.bytes for user in history.users]


def username(n: int) -> str:
    """Of the user with that number, from 0."""
    return f"seed{n + 1:06d}"


def _creator(chat: SeedChat) -> int:
    return chat.members[0] if chat.owner is None else chat.owner


def _role(chat: SeedChat, member: int) -> Role:
    return "owner" if member == chat.owner else "member"


def _title(n: int) -> str:
    return f"Group {n + 1}"


def _sentence(rng: Random) -> bytes:
    """ASCII without what JSON would escape."""
    return ", ".join(rng.sample(_PHRASES, rng.randint(1, 4))).capitalize().encode()
