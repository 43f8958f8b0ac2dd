"""The public objects, as clients see them in REST answers and in events. The contract fixes every name here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, PlainSerializer

from domain.log import rfc3339

Time = Annotated[datetime, PlainSerializer(rfc3339, return_type=str, when_used="json")]
Role = Literal["owner", "admin", "member"]
Status = Literal["sent", "delivered", "read"]
History = Literal["joined", "all"]


class Resource(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class User(Resource):
    """A public profile."""

    id: UUID
    username: str
    display_name: str
    bio: str
    avatar_url: str | None
    created_at: Time
    follower_count: int
    following_count: int
    post_count: int


class UserSettings(Resource):
    """``private``: follows need consent. ``presence``: others may see when this user is online."""

    private: bool = False
    presence: bool = True


class OwnUser(User):
    """A profile as its owner sees it."""

    email: str
    settings: UserSettings
    interests: list[str]


class Reaction(Resource):
    """An emoji, how many gave it, and who: the first ones first, and of a crowd the first 100."""

    emoji: str
    count: int
    user_ids: list[UUID]


class Attachment(Resource):
    media_id: UUID


class Message(Resource):
    """A message; ``body`` is null once deleted. ``seq`` starts at 1 in each conversation and has no holes."""

    seq: int
    id: UUID
    conversation_id: UUID
    sender_id: UUID
    client_id: UUID | None
    body: str | None
    reply_to_seq: int | None
    attachments: list[Attachment]
    reactions: list[Reaction]
    edited_at: Time | None
    deleted_at: Time | None
    created_at: Time


class OwnMessage(Message):
    """A message as REST gives it: ``status`` is there for its sender only, and null for everyone else."""

    status: Status | None


class FormerText(Resource):
    """A text that an edit replaced, and when."""

    body: str
    edited_at: Time


class Member(Resource):
    user: User
    role: Role
    joined_at: Time


class SharedConversation(Resource):
    """A conversation without what differs by member: this is what events carry."""

    id: UUID
    kind: Literal["direct", "group"]
    title: str | None
    history: History
    last_seq: int
    member_count: int
    members: list[Member]
    created_at: Time


class Conversation(SharedConversation):
    """A conversation as one of its members sees it."""

    read_seq: int
    unread_count: int
    last_message: OwnMessage | None
    role: Role
    muted_until: datetime | None  # as it was given: a whole second stays without a fraction
    pinned: bool


class TokenPair(Resource):
    """What stays signed in: ``access_token`` for ``expires_in`` seconds, then ``refresh_token`` for the next pair."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105  # RFC 6750
    expires_in: int


class SignedIn(TokenPair):
    """A new sign-in, and whose it is."""

    user: OwnUser


class AuthSession(Resource):
    """A sign-in in its owner's list. ``current``: it is the one that asks."""

    id: UUID
    created_at: Time
    last_seen_at: Time
    user_agent: str
    ip: str
    current: bool


class RealtimeTicket(Resource):
    """Signs in one realtime connection, once, within ``expires_in`` seconds."""

    ticket: str
    expires_in: int
