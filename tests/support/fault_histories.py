"""Random histories that are correct, as the clients of a server that does everything right would write them down.

A log is simulated: whatever is done takes effect at one moment between its beginning and its acknowledgement, and each
receiver is given what is its own of the log, in the log's order, at its own pace.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from faults.history import (
    CaughtUp,
    Change,
    Connection,
    History,
    Membership,
    Reading,
    Receipt,
    Receiver,
    Refusal,
    Revoked,
    Send,
    Step,
    Stored,
    Transport,
)

CONVERSATIONS = ("garden", "kitchen")
STAYING = ("ada", "ben", "cleo")
MOVING = ("dora", "emil")
TRANSPORTS: Sequence[Transport] = ("ws", "sse", "poll")
EVICTED = "fay"
END = 100.0


@dataclass(frozen=True, slots=True)
class _Event:
    at: float
    type: str
    topic: str
    conversation: str
    seq: int | None = None
    client_id: str | None = None
    body: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class _Act:
    """A send or a change on its way: what is known of it before it takes effect."""

    at: float
    began: float
    acked_at: float
    user: str
    conversation: str
    step: Step | None = None
    number: int = 0
    is_acknowledged: bool = True


@dataclass(slots=True)
class _World:
    rng: random.Random
    log: list[_Event] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)
    members: dict[str, set[str]] = field(default_factory=dict)
    changes: dict[tuple[str, str], list[Change]] = field(default_factory=dict)
    windows: dict[tuple[str, str], list[tuple[int, int | None]]] = field(default_factory=dict)
    """By user and conversation: at which places of the log each stay began and ended."""


def correct_history(rng: random.Random) -> History:
    """Three who stay, two who come and go, one who is evicted; two conversations; each with a receiver."""
    world = _World(rng)
    for conversation in CONVERSATIONS:
        first = (*STAYING, EVICTED) if conversation == "garden" else STAYING
        world.members[conversation] = set(first)
        for user in first:
            world.changes[user, conversation] = [Change(Step.JOINED, 0.1, 0.2)]
            world.windows[user, conversation] = [(0, None)]
    for act in sorted([*_sends(rng), *_moves(rng)], key=lambda act: act.at):
        _take_effect(world, act)
    return _seen(world)


def _timed(rng: random.Random, began: float, longest: float) -> tuple[float, float, float]:
    """When it takes effect, began, and is acknowledged."""
    at = began + rng.uniform(0.001, longest)
    return at, began, at + rng.uniform(0.001, longest)


def _sends(rng: random.Random) -> list[_Act]:
    acts = []
    for user in (*STAYING, *MOVING):
        began = 1.0
        for number in range(1, rng.randint(4, 9)):
            at, began, acked_at = _timed(rng, began + rng.uniform(0.0, 4.0), 2.0)
            lost_answer = rng.random() < 0.1
            acts.append(
                _Act(at, began, acked_at, user, rng.choice(CONVERSATIONS), None, number, not lost_answer)
            )
            began = acked_at
    return acts


def _moves(rng: random.Random) -> list[_Act]:
    acts = []
    for user in MOVING:
        for conversation in CONVERSATIONS:
            began, step = 2.0, Step.JOINED
            for _ in range(rng.randint(1, 5)):
                at, began, acked_at = _timed(rng, began + rng.uniform(0.0, 8.0), 1.0)
                acts.append(_Act(at, began, acked_at, user, conversation, step))
                began, step = acked_at, Step.LEFT if step is Step.JOINED else Step.JOINED
    return acts


def _take_effect(world: _World, act: _Act) -> None:
    if act.step is not None:
        _move(world, act, act.step)
        return
    client_id, body = f"{act.user}-{act.number}", f"{act.user} says {act.number}"
    may = act.user in world.members[act.conversation]
    seq = sum(each.conversation == act.conversation for each in world.stored) + 1
    answered = may and act.is_acknowledged
    refused = () if answered else (Refusal(act.acked_at, "rest", "west", "cut" if may else 404),)
    world.sends.append(
        Send(
            act.user,
            act.number,
            act.conversation,
            client_id,
            body,
            act.began,
            act.acked_at if answered else None,
            seq if answered else None,
            refused,
        )
    )
    if may:
        world.stored.append(Stored(act.conversation, seq, client_id, act.user, body))
        world.log.append(
            _Event(act.at, "message.created", "conversation", act.conversation, seq, client_id, body)
        )


def _move(world: _World, act: _Act, step: Step) -> None:
    key = act.user, act.conversation
    world.changes.setdefault(key, []).append(Change(step, act.began, act.acked_at))
    kind = "member.added" if step is Step.JOINED else "member.removed"
    for topic in ("conversation", "user"):
        world.log.append(_Event(act.at, kind, topic, act.conversation, user=act.user))
    if step is Step.JOINED:
        world.members[act.conversation].add(act.user)
        world.windows.setdefault(key, []).append((len(world.log) - 2, None))
    else:
        world.members[act.conversation].discard(act.user)
        world.windows[key][-1] = (world.windows[key][-1][0], len(world.log))


def _readings(world: _World) -> list[Reading]:
    """Each one who moved reads a little later, all that is there by then."""
    readings = []
    for (user, conversation), changes in world.changes.items():
        for at, change in enumerate(changes):
            assert change.acked_at is not None
            began = change.acked_at + world.rng.uniform(0.0001, 3.0)
            if at + 1 < len(changes) and changes[at + 1].began <= began + 0.0001:
                continue
            seqs: tuple[int, ...] = ()
            if change.step is Step.JOINED:
                first = world.windows[user, conversation][at // 2][0]
                seqs = tuple(
                    event.seq
                    for event in world.log[first:]
                    if event.seq is not None and event.conversation == conversation and event.at <= began
                )
            status = 200 if change.step is Step.JOINED else 404
            readings.append(Reading(user, conversation, "west", began, began + 0.0001, status, seqs))
    return readings


def _seen(world: _World) -> History:
    receipts: dict[str, list[Receipt]] = {}
    connections: list[Connection] = []
    for user in (*STAYING, *MOVING, EVICTED):
        receipts[user] = _received(world, user, connections)
    stored = tuple(world.stored)
    everyone = (*STAYING, *MOVING, EVICTED)
    return History(
        sends=tuple(world.sends),
        receivers=tuple(Receiver(user, user, 0.5, stays=user != EVICTED) for user in everyone),
        connections=tuple(connections),
        receipts={user: tuple(given) for user, given in receipts.items()},
        stored={"west": stored, "east": stored},
        memberships=tuple(
            Membership(user, conversation, tuple(changes))
            for (user, conversation), changes in world.changes.items()
        ),
        revocations=(Revoked(frozenset({EVICTED}), END / 8, "suspended"),),
        readings=tuple(_readings(world)),
        caught_up=tuple(CaughtUp(user, END) for user in everyone),
        ended=END,
    )


def _received(world: _World, user: str, connections: list[Connection]) -> list[Receipt]:
    rng = world.rng
    receipts: list[Receipt] = []
    now = 0.5
    number, transport, instance = len(connections), rng.choice(TRANSPORTS), rng.choice(("west", "east"))
    gone = END / 8 + 0.5 if user == EVICTED else END
    opened = now
    for place, event in enumerate(world.log):
        if not _is_visible(world, user, place, event):
            continue
        now = max(now, event.at) + rng.uniform(0.0, 1.0)
        if now > gone:
            break
        if rng.random() < 0.1:
            connections.append(Connection(number, user, user, transport, instance, opened, now))
            number, transport, instance = (
                len(connections),
                rng.choice(TRANSPORTS),
                rng.choice(("west", "east")),
            )
            opened = now
        receipts.append(
            Receipt(
                user,
                now,
                transport,
                instance,
                number,
                f"cursor-{place}",
                event.type,
                event.topic,
                event.conversation,
                event.seq,
                event.client_id,
                event.body,
                event.user,
            )
        )
    connections.append(Connection(number, user, user, transport, instance, opened, gone))
    return receipts


def _is_visible(world: _World, user: str, place: int, event: _Event) -> bool:
    if event.topic == "user":
        return event.user == user
    stays = world.windows.get((user, event.conversation), ())
    return any(begin <= place and (end is None or place < end) for begin, end in stays)
