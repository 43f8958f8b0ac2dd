"""What a user may read, packed and kept up to date, against the plainest reckoning of the same."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from domain.ids import DEFAULT_TENANT
from domain.log import Control, Topic, TopicKind, View, inbox
from realtime.events import Event
from realtime.views import OpenTopics, Subscribers, UserView, window
from tests.support.fakes import FakeLog, conversation, user

#: Keys of few different bytes, so that one is often found where another ends and the next begins.
keys = st.lists(st.sampled_from([b"\x01", b"\x02"]), min_size=17, max_size=17).map(b"".join)
almost = st.sampled_from([b"\x01" * 17, b"\x01" * 16 + b"\x02", b"\x02" + b"\x01" * 16, b"\x02" * 17])
changes = st.lists(st.tuples(st.booleans(), st.one_of(keys, almost)), max_size=40)


@given(changes)
def test_packed_topics_are_a_dict(changes: list[tuple[bool, bytes]]) -> None:
    plain: dict[bytes, int] = {}
    packed = OpenTopics(())
    for position, (opens, key) in enumerate(changes):
        if opens and key not in plain:
            plain[key] = position
            packed.add(key, position)
        elif not opens:
            plain.pop(key, None)
            packed.remove(key)
        assert dict(packed.items()) == plain
        assert list(packed) == list(plain)
        assert len(packed) == len(plain)
        assert all(packed.get(k) == plain.get(k) and (k in packed) == (k in plain) for _, k in changes)
    assert dict(OpenTopics(plain.items()).items()) == plain


moves = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "both", "text", "inbox"]), st.integers(0, 2)), max_size=40
)


@given(moves, st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_view_moved_along_the_log_is_a_view_loaded_later(
    moves: list[tuple[str, int]], loaded_at: int, after: int, upto: int
) -> None:
    """Loaded from a snapshot anywhere, then moved: its spans hold exactly what the log says the user may see."""
    log, me, topics = FakeLog(), user(), [conversation() for _ in range(3)]
    member: set[int] = set()
    view: UserView | None = None

    def load() -> UserView:
        return UserView(DEFAULT_TENANT, View(me, log.head, log.windows_of(me)))

    for n, (move, t) in enumerate(moves):
        if n == loaded_at:
            view = load()
        if move == "inbox":
            log.append(inbox(me))
            continue
        joins = (me,) if move in ("join", "both") and t not in member else ()
        leaves = (me,) if (move == "leave" and t in member) or (move == "both" and joins) else ()
        log.append(topics[t], control=Control(joins=joins, leaves=leaves))
        if joins:
            member.add(t)
        if leaves:
            member.discard(t)
        if view is not None:
            view.catch_up([Event(log.events[-1], 1)])
    view = view or load()
    upto = min(upto, log.head)
    spans = list(view.spans(after, upto))
    seen = {
        event.position
        for event in log.events
        for topic, start, end in spans
        if event.topic.key == topic and start < event.position <= end
    }
    assert seen == {e.position for e in log.visible(me) if after < e.position <= upto}
    for topic, start, end in spans:
        kept = window(topic, start, end)
        assert (kept.topic.key, kept.opens, kept.closes) == (topic, start + 1, end)
    assert {Topic(TopicKind(k[0]), UUID(bytes=k[1:])) for k in view.open} == {
        w.topic for w in log.windows_of(me) if w.closes is None
    }


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=150))
def test_subscribers_are_a_set_few_or_many(changes: list[tuple[bool, int]]) -> None:
    views = [UserView(DEFAULT_TENANT, View(user(), 0, ())) for _ in range(41)]
    subscribers, plain, topic = Subscribers(), set(), b"topic"
    for adds, n in changes:
        if adds:
            subscribers.add(topic, views[n])
            plain.add(n)
        else:
            subscribers.remove(topic, views[n])
            plain.discard(n)
        assert {views.index(view) for view in subscribers.of(topic)} == plain
        assert len(list(subscribers.of(topic))) == len(plain)
        assert len(subscribers) == (1 if plain else 0)
