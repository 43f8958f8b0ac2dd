"""A client that knows what it must be given, and says so the moment it is not."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from domain.ids import SessionId, UserId, new_id
from domain.log import StoredEvent
from realtime.codec import decode_cursor, encode_cursor
from realtime.events import Group, group_of
from realtime.session import Session
from tests.support.fakes import FakeLog, FakeTransport, Instance
from tests.support.simulated import Misuse
from tests.support.wire import Frame, read_frames


class Truth:
    """What may be seen, walked out of the log alone, for the log of now and for those it has replaced."""

    def __init__(self, log: FakeLog) -> None:
        self.log = log
        self._replaced: dict[int, tuple[int, dict[UserId, list[StoredEvent]]]] = {}
        self._known: dict[UserId, tuple[tuple[int, int], list[StoredEvent]]] = {}
        self.withdrawn: dict[int, bytes] = {}
        """The texts that were withdrawn, by the position of the event that withdrew them."""
        self.revoked_at: dict[SessionId, float] = {}

    def visible(self, epoch: int, user: UserId) -> list[StoredEvent]:
        if epoch != self.log.epoch:
            return self._replaced[epoch][1].get(user, [])
        state = (self.log.epoch, self.log.head)
        known = self._known.get(user)
        if known is None or known[0] != state:
            known = self._known[user] = (state, self.log.visible(user))
        return known[1]

    def head(self, epoch: int) -> int:
        return self.log.head if epoch == self.log.epoch else self._replaced[epoch][0]

    def replace(self, position: int, users: Sequence[UserId]) -> None:
        seen = {user: self.log.visible(user) for user in users}
        self._replaced[self.log.epoch] = (self.log.head, seen)
        self.log.restore(position)
        self.withdrawn = {p: text for p, text in self.withdrawn.items() if p <= position}


class WatchedClient:
    """One client: its place in the log is all it keeps between connections."""

    def __init__(self, truth: Truth, user: UserId, groups: frozenset[Group] | None) -> None:
        self.truth = truth
        self.user = user
        self.groups = groups
        self.sign_in = SessionId(new_id())
        self.epoch = truth.log.epoch
        self.place: int | None = None
        self.given = 0
        self.cursors: list[int] = []
        self.instance: Instance | None = None
        self.session: Session | None = None
        self.transport: FakeTransport | None = None

    @property
    def connected(self) -> bool:
        return self.transport is not None

    @property
    def cursor(self) -> str | None:
        return None if self.place is None else encode_cursor(self.epoch, self.place)

    def wants(self, event: StoredEvent) -> bool:
        return self.groups is None or group_of(event.type) in self.groups

    def next_after(self, place: int) -> int | None:
        """The position of the next event it must be given."""
        seen = self.truth.visible(self.epoch, self.user)
        start = bisect_right(seen, place, key=lambda e: e.position)
        return next((e.position for e in seen[start:] if self.wants(e)), None)

    # The connection.

    def attach(self, instance: Instance, transport: FakeTransport) -> None:
        self.instance, self.transport = instance, transport
        transport.written = self._written

    def cut(self) -> None:
        """The connection is gone, and with it what had not arrived."""
        self.absorb()
        if self.session is not None:
            self.session.detach()
        self.instance = self.session = self.transport = None

    def absorb(self) -> None:
        """Takes what has arrived, and checks it; notices where the server has closed."""
        if self.transport is None:
            return
        for frame in self.transport.frames():
            self.take(frame)
        closing = self.transport.closing
        if closing is not None:
            if closing.code == 4401:
                assert self.sign_in in self.truth.revoked_at
            if closing.code == 4408:
                assert self.transport.stalled
            assert closing.code in (4401, 4408, 1012)
            self.instance = self.session = self.transport = None

    def renew_sign_in(self) -> None:
        self.sign_in = SessionId(new_id())

    # What is written: looked at as it leaves, whether it arrives or not.

    def _written(self, data: bytes) -> None:
        assert self.instance is not None
        assert self.transport is not None
        try:
            assert len(data) <= 2 * self.instance.hub.queue_bytes + 4000, "more than a queue holds, at once"
            self.check_texts(self.instance, data)
            if any("topic" in frame.data for frame in read_frames(self.transport.wire, data)):
                self.check_fresh(self.instance)
                self.check_signed_in(self.instance, data)
        except AssertionError as error:
            raise Misuse(*error.args) from error

    def check_texts(self, instance: Instance, data: bytes) -> None:
        for position, text in self.truth.withdrawn.items():
            if instance.reader.epoch == self.truth.log.epoch and instance.hub.position >= position:
                assert text not in data, f"withdrawn at {position}"

    def check_fresh(self, instance: Instance) -> None:
        """An independent reckoning of I9: some reading of the head, less than a second old, was read up to."""
        now = instance.hub.clock()
        assert any(
            now - began < 1.0 and head <= instance.reader.position for began, head in instance.source.readings
        ), "an event was written by an instance that could not read the log for a second"

    def check_signed_in(self, instance: Instance, data: bytes) -> None:
        """A second after the sign-in ended nothing goes out but the notice of it, which has no place."""
        assert self.transport is not None
        ended = self.truth.revoked_at.get(self.sign_in)
        if ended is None or instance.hub.clock() - ended <= 1.0:
            return
        for frame in read_frames(self.transport.wire, data):
            assert frame.data.get("cursor") is None, "given to a sign-in that had ended"

    # What arrives.

    def take(self, frame: Frame) -> None:
        cursor = frame.data.get("cursor")
        if frame.event is not None:
            assert frame.event == frame.type
            assert frame.id == cursor
        if cursor is None:
            assert frame.type in ("typing.started", "session.revoked", "reply")
            return
        at = decode_cursor(cursor)
        if frame.type == "resync":
            self._resync(frame.data["reason"])
            self.epoch, self.place = at.epoch, at.position
        elif frame.type == "hello":
            if self.place is None:
                self.epoch, self.place = at.epoch, at.position
        elif "topic" in frame.data:
            self.take_event(at.epoch, at.position)
        else:
            assert frame.type == "heartbeat"
            self.take_place(at.epoch, at.position)
        assert self.place is not None
        self.cursors.append(self.place)

    def _resync(self, reason: str) -> None:
        log, place = self.truth.log, self.place
        assert place is not None
        if reason == "cursor_expired":
            assert place < log.floor, "a cursor that is retained never expires"
        else:
            assert reason == "epoch_changed"
            assert self.epoch != log.epoch or place > log.head

    def take_event(self, epoch: int, position: int) -> None:
        assert self.place is not None, "hello comes first"
        assert epoch == self.epoch
        assert position == self.next_after(self.place), f"behind {self.place} came {position}"
        self.place = position
        self.given += 1

    def take_place(self, epoch: int, position: int) -> None:
        assert self.place is not None
        assert epoch == self.epoch, "a place in another log, without a resync"
        assert position >= self.place, "a cursor never goes back"
        assert position <= self.truth.head(epoch)
        missing = self.next_after(self.place)
        assert missing is None or missing > position, f"at {position}, but {missing} was not written"
        self.place = position
