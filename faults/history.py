"""What happened during one fault, as its clients saw it: records only, nothing is judged here.

All times are `time.monotonic()` seconds of the harness's one process, so they compare. Write the moment a
thing *began* down before its first byte goes out, and the moment it was *answered* after its last byte came
in: then `a.acked_at < b.began` means that `a` was over before `b` existed, whatever the machine's load.

Names: a *user* is an account, by username. A *receiver* is one device of a user, with one cursor. A *sign-in* is
one session of an account, by whatever name the harness gives it. An *instance* is named by the stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Transport = Literal["ws", "sse", "poll", "rest"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One try that was not acknowledged: a status (`503`), or what else ended it (`"cut"`, `"timeout"`, `"1012"`)."""

    at: float
    transport: Transport
    instance: str
    what: int | str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """One message of a sender, through all its tries: every try repeats `client_id` and `body`.

    `number` counts a sender's messages from 1. `began` is before the first try's first byte. `acked_at` and `seq`
    are None where it was never acknowledged: then it may be stored, or not.
    """

    sender: str
    number: int
    conversation: str
    client_id: str
    body: str
    began: float
    acked_at: float | None = None
    seq: int | None = None
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Receiver:
    """A device that reads events to the end of the run.

    It acts on whole frames, blocks and answers only, and resumes from the newest cursor it was given: of an event,
    a hello, a heartbeat or a poll's answer. `began` is after it had its first cursor: what is sent from then on is
    owed to it. `stays` is False for one that went away for good (signed out, suspended): then only what it was given
    is judged, not what it would have been given later.
    """

    name: str
    user: str
    began: float
    stays: bool = True


@dataclass(frozen=True, slots=True)
class Connection:
    """One WebSocket, one stream, or one row of polls, from its first good answer on.

    `opened` is before the first byte of the request. `closed_at` is None while it is open. `number` is the
    harness's own, over all receivers. For polls it ends with the first answer that is not 200.
    """

    number: int
    receiver: str
    sign_in: str
    transport: Transport
    instance: str
    opened: float
    closed_at: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One event as given to one receiver; its place in `History.receipts` is the order of arrival.

    `cursor` is None for live-only events. `conversation` is the topic's id where the topic is a conversation, else
    `data.conversation_id`, else None. `topic` is `conversation`, `user` and so on. `seq`, `client_id` and `body`
    are a message's, else None. `user` is `data.user`'s username in `member.*` events.
    """

    receiver: str
    at: float
    transport: Transport
    instance: str
    connection: int
    cursor: str | None
    type: str
    topic: str
    conversation: str | None = None
    seq: int | None = None
    client_id: str | None = None
    body: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Resync:
    """A receiver was told to begin anew. None is ever due here: retention is not reached and the log is not lost."""

    receiver: str
    at: float
    connection: int
    reason: str


class Step(StrEnum):
    """What a membership change did."""

    JOINED = "joined"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a membership, by REST, repeated until it was acknowledged.

    `began` is before the first try, `acked_at` after the answer that settled it (also the 404 that a repeated leave
    gets); None: never settled, so everything about this membership from here on is open. Changes of one membership
    never overlap.
    """

    step: Step
    began: float
    acked_at: float | None


@dataclass(frozen=True, slots=True)
class Membership:
    """One user in one conversation, from the conversation's making on: the steps alternate, `JOINED` first.

    Who never was a member has no `Membership`, and may see nothing of the conversation.
    """

    user: str
    conversation: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Revoked:
    """Sign-ins that ended: signed out, suspended, expired. `acked_at` is when that was answered, or the expiry."""

    sign_ins: frozenset[str]
    acked_at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One member's, or former member's, reading of a conversation by REST. `seqs` is empty unless `status` is 200.

    `after` is the `after_seq` it asked with, and `limit` its limit: `seqs` should be all there is from there on.
    """

    user: str
    conversation: str
    instance: str
    began: float
    ended: float
    status: int
    seqs: tuple[int, ...] = ()
    after: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Stored:
    """One message in the history by REST, read after all was quiet by somebody who may read all of it."""

    conversation: str
    seq: int
    client_id: str | None
    sender: str
    body: str | None


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """When a receiver had everything that had been acknowledged by the time the senders stopped."""

    receiver: str
    at: float


@dataclass(frozen=True, slots=True)
class History:
    """Everything about one fault. `receipts` is by receiver; `stored` by instance, and within it in the order given."""

    sends: Sequence[Send]
    receivers: Sequence[Receiver]
    connections: Sequence[Connection]
    receipts: Mapping[str, Sequence[Receipt]]
    stored: Mapping[str, Sequence[Stored]]
    memberships: Sequence[Membership]
    resyncs: Sequence[Resync] = ()
    revocations: Sequence[Revoked] = ()
    readings: Sequence[Reading] = ()
    caught_up: Sequence[CaughtUp] = ()
    readable_from_the_start: frozenset[str] = frozenset()
    """Conversations with `history: all`: by REST, members read also what was before they joined."""
    ended: float = field(default=float("inf"))
    """When the receivers were told to stop."""
