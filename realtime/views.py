"""What one user may read of the log, kept exact while the log moves, and shared by all their sessions here."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING
from uuid import UUID

from domain.ids import TenantId
from domain.log import Topic, TopicKind, View, Window
from realtime.events import Event

if TYPE_CHECKING:
    from realtime.session import Follower

KEY_BYTES = 17  # of domain.log.topic_key


class OpenTopics:
    """Topics with the position each opened at, packed: a user's twenty conversations take 500 bytes, not 2,300.

    Looking one up walks them all; the hub does that only where a membership changes, and for events about a message
    that not all of a topic's readers may know.
    """

    __slots__ = ("_keys", "_opens")

    def __init__(self, topics: Iterable[tuple[bytes, int]]) -> None:
        pairs = list(topics)
        self._keys = b"".join([key for key, _ in pairs])
        self._opens = array("q", [opens for _, opens in pairs])

    def _index(self, topic: bytes) -> int:
        at = self._keys.find(topic)
        while at % KEY_BYTES:  # found across two keys, or not at all (-1)
            if at < 0:
                return -1
            at = self._keys.find(topic, at + 1)
        return at // KEY_BYTES

    def get(self, topic: bytes) -> int | None:
        """The position it opened at; None where it is not open."""
        index = self._index(topic)
        return None if index < 0 else self._opens[index]

    def add(self, topic: bytes, opens: int) -> None:
        self._keys += topic
        self._opens.append(opens)

    def remove(self, topic: bytes) -> None:
        index = self._index(topic)
        if index >= 0:
            self._keys = self._keys[: index * KEY_BYTES] + self._keys[(index + 1) * KEY_BYTES :]
            del self._opens[index]

    def __contains__(self, topic: bytes) -> bool:
        return self._index(topic) >= 0

    def __iter__(self) -> Iterator[bytes]:
        return (self._keys[at : at + KEY_BYTES] for at in range(0, len(self._keys), KEY_BYTES))

    def __len__(self) -> int:
        return len(self._opens)

    def items(self) -> Iterator[tuple[bytes, int]]:
        return zip(self, self._opens, strict=True)


class UserView:
    """The topics a user may read: those open now, and past stays that replay still gives.

    Exact as of the hub's position: the hub moves it with every event that opens or closes a topic for the user.
    """

    __slots__ = ("closed", "delivered", "idle_since", "open", "sessions", "tenant", "user")

    def __init__(self, tenant: TenantId, loaded: View) -> None:
        self.tenant = tenant
        self.user = loaded.user
        self.open = OpenTopics((w.topic.key, w.opens) for w in loaded.windows if w.closes is None)
        self.closed: tuple[tuple[bytes, int, int], ...] = tuple(
            (w.topic.key, w.opens, w.closes) for w in loaded.windows if w.closes is not None
        )
        self.sessions: list[Follower] = []
        self.idle_since = 0.0
        self.delivered = 0
        """How far the user's clients have said, by the cursors they came back with, that everything has arrived."""

    def apply_join(self, event: Event) -> bool:
        """Opens the event's topic at the event. False where it was open already."""
        if event.topic in self.open:
            return False
        self.open.add(event.topic, event.position)
        return True

    def apply_leave(self, event: Event, floor: int = 0) -> bool:
        """Closes the event's topic after the event. False where it was not open. Forgets stays before ``floor``."""
        opens = self.open.get(event.topic)
        if opens is None or opens > event.position:
            return False
        self.open.remove(event.topic)
        retained = [stay for stay in self.closed if stay[2] > floor]
        self.closed = (*retained, (event.topic, opens, event.position))
        return True

    def catch_up(self, controls: Iterable[Event]) -> None:
        """Applies what happened to this user between the snapshot it was loaded from and the hub's position."""
        for event in controls:
            if self.user in event.control.joins:
                self.apply_join(event)
            if self.user in event.control.leaves:
                self.apply_leave(event)

    def shows(self, event: Event) -> bool:
        """Whether an event of a stretch the user may see is theirs, too, by what it is about."""
        if event.control.about is None:
            return True
        opens = self.open.get(event.topic)
        if opens is not None and opens <= event.position:
            return event.control.shown_from(opens)
        return any(
            event.control.shown_from(opened)
            for topic, opened, closed in self.closed
            if topic == event.topic and opened <= event.position <= closed
        )

    def spans(self, after: int, upto: int) -> Iterator[tuple[bytes, int, int]]:
        """``(topic, after, upto)`` for each stretch of the log inside the bounds that the user may see."""
        for topic, opens in self.open.items():
            if opens <= upto:
                yield topic, max(after, opens - 1), upto
        for topic, opens, closes in self.closed:
            if closes > after and opens <= upto:
                yield topic, max(after, opens - 1), min(upto, closes)


def window(topic: bytes, after: int, upto: int) -> Window:
    """A span as a window, for reading the stored log."""
    return Window(Topic(TopicKind(topic[0]), UUID(bytes=topic[1:])), after + 1, upto)


class Subscribers:
    """The views that have a topic open. A list while few, a dict once many: small for a pair, quick for a crowd."""

    __slots__ = ("_topics",)
    FEW = 16

    def __init__(self) -> None:
        self._topics: dict[bytes, list[UserView] | dict[UserView, None]] = {}

    def of(self, topic: bytes) -> Collection[UserView]:
        return self._topics.get(topic, ())

    def add(self, topic: bytes, view: UserView) -> None:
        views = self._topics.get(topic)
        if views is None:
            self._topics[topic] = [view]
        elif isinstance(views, dict):
            views[view] = None
        elif view not in views:
            views.append(view)
            if len(views) > self.FEW:
                self._topics[topic] = dict.fromkeys(views)

    def remove(self, topic: bytes, view: UserView) -> None:
        views = self._topics.get(topic)
        if views is None or view not in views:
            return
        if isinstance(views, dict):
            del views[view]
        else:
            views.remove(view)
        if not views:
            del self._topics[topic]

    def __len__(self) -> int:
        return len(self._topics)
