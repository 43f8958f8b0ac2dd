"""A poll without a task is given what reading the log would give."""

from __future__ import annotations

import random

import pytest

from domain.ids import DEFAULT_TENANT, SessionId, new_id
from domain.log import Control
from realtime.events import Group
from realtime.poll import PromptPoll
from tests.support.fakes import FakeLog, Instance, conversation, turns, user

FOREVER = float("inf")
FILTERS: list[frozenset[Group] | None] = [None, frozenset({"always", "messages"}), frozenset({"always"})]


async def joined() -> tuple[FakeLog, Instance]:
    log = FakeLog()
    instance = await Instance(log).start()
    log.committed = instance.reader.offer
    return log, instance


@pytest.mark.parametrize("groups", FILTERS, ids=lambda groups: "-".join(sorted(groups or {"all"})))
@pytest.mark.parametrize("seed", range(5))
async def test_what_it_is_offered_is_what_there_is_to_read(
    seed: int, groups: frozenset[Group] | None
) -> None:
    rng = random.Random(seed)
    log, instance = await joined()
    hub, ann = instance.hub, user()
    topics = [conversation() for _ in range(4)]
    log.join(topics[0], ann)
    await turns()
    view = await hub.view(DEFAULT_TENANT, ann)
    reached, taken = hub.position, 0
    for _ in range(60):
        woken: list[bool] = []
        poll = hub.prompt_poll(
            view, sign_in=SessionId(new_id()), expires_at=FOREVER, groups=groups, stirred=woken.append
        )
        batch = []
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            topic = rng.choice(topics)
            type_, control = "message.created", Control()
            if rng.random() < 0.2:
                type_ = rng.choice(["member.added", "member.removed"])
                control = Control(joins=(ann,)) if type_ == "member.added" else Control(leaves=(ann,))
            elif rng.random() < 0.2 and log.head:
                control = Control(redacts=(rng.randint(1, log.head),))
            batch.append((topic, type_, "text", control))
        log.append_all(batch)
        await turns()
        read = await poll.read(reached, 3)
        offered = poll.take_offered(3)
        if offered is not None:
            taken += 1
            assert (list(offered[0]), *offered[1:]) == read
            assert len(woken) == 1
        assert bool(woken) is bool(read[0])
        assert poll.read_at_once(reached, 3) in (None, read)
        hub.detach(poll)
        reached = hub.position
    assert taken or groups == frozenset({"always"})


async def test_it_is_told_of_its_end_and_of_stale_events() -> None:
    log, instance = await joined()
    hub, ann, sign_in, topic = instance.hub, user(), SessionId(new_id()), conversation()
    log.join(topic, ann)
    await turns()
    view = await hub.view(DEFAULT_TENANT, ann)
    told: list[tuple[bool, bool, bool]] = []

    def poll(expires_at: float = FOREVER) -> PromptPoll:
        made = hub.prompt_poll(
            view,
            sign_in=sign_in,
            expires_at=expires_at,
            groups=None,
            stirred=lambda fresh: told.append((fresh, made.ended, made.draining)),
        )
        return made

    first = poll(expires_at=hub.wall())
    hub.beat()
    await turns()
    assert told == [(True, True, False)]
    hub.detach(first)
    second = poll()
    await hub.drain(batch=10, pause=0, reconnect_after_ms=lambda: 1)
    await turns()
    assert told[1:] == [(True, False, True)]
    assert hub.leaving
    hub.detach(second)
    poll()
    log.append(topic)
    log.revoke(ann, sign_in)
    await turns()
    assert told[2:] == [(True, True, False)]
