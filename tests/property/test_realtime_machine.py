"""Two instances on one log, clients that come and go on any transport, and everything that can go wrong between them.

At each step, on simulated time: every client is given exactly what its user may see behind its place, in order, without
a gap or a repeat, whatever it switches to (I2, I3); no cursor passes what was not written; queues are bounded (I8);
an instance that cannot read the log writes no event (I9); a withdrawn text never leaves; a revoked sign-in is given
nothing. At the end, when all has healed, everyone has everything.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain.ids import DEFAULT_TENANT
from domain.log import NO_CONTROL, Control, Topic, inbox
from realtime.codec import Wire, decode_cursor, decode_hint, encode_hint
from realtime.events import Group
from realtime.hub import HubLimits
from realtime.places import NotFresh, Place
from realtime.session import Session, State
from realtime.views import UserView
from tests.support.fakes import (
    FakeLog,
    FakeTransport,
    Instance,
    SourceAway,
    conversation,
    passes,
    turns,
    user,
)
from tests.support.simulated import SimulatedLoop
from tests.support.watched_client import Truth, WatchedClient

QUEUE = 3000
LIMITS = HubLimits(heartbeat=5.0, queue_bytes=QUEUE, dispatch=4, flush=2, idle_views=2, idle_seconds=3.0)
LONGEST = 1500  # characters of a text
FILTERS: list[frozenset[Group] | None] = [
    None,
    None,
    frozenset({"messages", "always"}),
    frozenset({"always"}),
]

instances = st.integers(0, 1)
people = st.integers(0, 2)
clients = st.integers(0, 4)
topics = st.integers(0, 2)
sizes = st.sampled_from([0, 0, 300, LONGEST])
steps = st.sampled_from(["send", "send", "join", "leave", "hide", "withdraw", "notify", "tell"])


class RealtimeMachine(RuleBasedStateMachine):
    @initialize(
        filters=st.lists(st.sampled_from(FILTERS), min_size=5, max_size=5),
        ring=st.sampled_from([30, 60, 1000]),
        crowd=st.sampled_from([1, 2, 16, 16]),
    )
    def begin(self, filters: list[frozenset[Group] | None], ring: int, crowd: int) -> None:
        self.broken = False
        self.loop = SimulatedLoop()
        self.log = FakeLog()
        self.log.committed = self._tell
        self.truth = Truth(self.log)
        self.home = 0
        self.hints: list[list[bytes]] = [[], []]
        self.users = [user() for _ in range(3)]
        self.topics = [conversation() for _ in range(3)]
        self.members: dict[int, set[int]] = {n: set() for n in range(3)}
        self.texts: dict[int, tuple[int, bytes]] = {}
        self.clients = [
            WatchedClient(self.truth, self.users[n % 3], groups) for n, groups in enumerate(filters)
        ]
        self.instances: list[Instance] = []

        async def start() -> None:
            for _ in range(2):
                instance = await Instance(self.log, LIMITS, ring_events=ring).start()
                instance.hub.CROWD = crowd
                self.instances.append(instance)

        self.do(start())
        self.commit(0, [("join", t, n, 0) for t in range(2) for n in range(3)])
        for n in range(4):
            self.connect(n, n % 2, "sse" if n % 3 else "ws", 0)

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self.loop.run(work)
        except BaseException:
            self.broken = True
            raise

    def _tell(self, events: Any) -> None:
        """Its own instance knows at once; for the other a hint is on its way."""
        self.hints[1 - self.home].append(encode_hint(self.log.epoch, events))
        self.instances[self.home].reader.offer(events)

    # What happens in the log.

    @rule(home=instances, what=st.lists(st.tuples(steps, topics, people, sizes), min_size=1, max_size=8))
    def commit(self, home: int, what: list[tuple[str, int, int, int]]) -> None:
        drafts: list[tuple[Topic, str, str, Control]] = []
        for step, t, person, size in what:
            position, topic, who = self.log.head + len(drafts) + 1, self.topics[t], self.users[person]
            if step == "notify":
                drafts.append((inbox(who), "something.new", "", NO_CONTROL))
            elif step == "tell":  # what has a control is dispatched on its own, in the middle of a batch
                drafts.append((inbox(who), "something.new", "", Control(about=1)))
            elif step == "send":
                text = f"text-{position}-" + "x" * size
                self.texts[position] = (t, f"text-{position}-".encode())
                drafts.append((topic, "message.created", text, NO_CONTROL))
            elif step == "hide":
                known = sorted(p for p, (its, _) in self.texts.items() if its == t) or [1]
                about = known[person * (len(known) - 1) // 2]
                drafts.append((topic, "message.updated", "", Control(about=about)))
            elif step == "join" and person not in self.members[t]:
                self.members[t].add(person)
                drafts.append((topic, "member.added", "", Control(joins=(who,))))
            elif step == "leave" and person in self.members[t]:
                self.members[t].discard(person)
                drafts.append((topic, "member.removed", "", Control(leaves=(who,))))
            elif step == "withdraw":
                of = [p for p, (its, _) in self.texts.items() if its == t and p <= self.log.head]
                if of:
                    self.truth.withdrawn[position] = self.texts.pop(of[-1])[1]
                    control = Control(redacts=(of[-1],), about=of[-1] if person else None)
                    drafts.append((topic, "message.deleted", "", control))

        async def work() -> None:
            self.home = home
            if drafts:
                self.log.append_all(drafts)

        self.do(work())

    @rule(home=instances, topic=topics, count=st.integers(1, 12), size=sizes)
    def burst(self, home: int, topic: int, count: int, size: int) -> None:
        self.commit(home, [("send", topic, 0, size)] * count)

    @rule(home=instances, topic=topics, step=steps, person=people, size=sizes)
    def interrupted_burst(self, home: int, topic: int, step: str, person: int, size: int) -> None:
        sends = [("send", topic, 0, size)] * 3
        self.commit(home, [sends[0], (step, topic, person, 0), *sends])

    @rule(home=instances, topic=topics, client=clients, size=st.sampled_from([300, LONGEST]))
    def flood_a_client_that_does_not_read(self, home: int, topic: int, client: int, size: int) -> None:
        self.stop_reading(client)
        self.commit(home, [("send", topic, 0, size)] * (2 * QUEUE // size))
        self.wait(0.3)

    @rule(home=instances, topic=topics)
    def withdraw(self, home: int, topic: int) -> None:
        self.commit(home, [("send", topic, 0, 0), ("notify", topic, 0, 0)])
        self.commit(home, [("withdraw", topic, 0, 0), ("send", topic, 0, 0)])

    @rule(home=instances, client=clients)
    def revoke(self, home: int, client: int) -> None:
        it = self.clients[client]

        async def work() -> None:
            self.home = home
            self.truth.revoked_at[it.sign_in] = self.loop.time()
            self.log.revoke(it.user, it.sign_in)
            await turns()

        self.do(work())

    @rule(topic=topics, instance=instances)
    def type_something(self, topic: int, instance: int) -> None:
        async def work() -> None:
            envelope = b'{"cursor":null,"type":"typing.started","topic":{},"data":{}}'
            self.instances[instance].hub.live(self.topics[topic].key, envelope, "typing.started", "messages")

        self.do(work())

    @rule(keep=st.integers(0, 30))
    def retain(self, keep: int) -> None:
        async def work() -> None:
            self.log.floor = max(self.log.floor, self.log.head - keep)
            floor = self.log.floor
            await passes(2.5)
            self.log.dropped = max(self.log.dropped, floor)

        self.do(work())

    @precondition(lambda self: all(not i.source.away and i.source.latency < 0.2 for i in self.instances))
    @rule(lost=st.integers(0, 30))
    def restore(self, lost: int) -> None:
        """Seldom, as it sends everyone away."""

        async def work() -> None:
            if lost > 6:
                return
            for client in self.clients:
                client.absorb()
            self.truth.replace(max(self.log.floor, self.log.head - lost), self.users)
            for hints in self.hints:
                hints.clear()
            self.texts = {p: text for p, text in self.texts.items() if p <= self.log.head}
            self.members = {
                t: {n for n, who in enumerate(self.users) if self._is_member(who, topic)}
                for t, topic in enumerate(self.topics)
            }
            await passes(1.0)

        self.do(work())

    def _is_member(self, who: Any, topic: Topic) -> bool:
        return any(w.topic == topic and w.closes is None for w in self.log.windows_of(who))

    # What happens to the instances.

    @rule(instance=instances, picks=st.lists(st.integers(0, 20), min_size=1, max_size=6), keep=st.booleans())
    def deliver_hints(self, instance: int, picks: list[int], keep: bool) -> None:
        async def work() -> None:
            hints = self.hints[instance]
            for pick in picks:
                if hints:
                    payload = hints[pick % len(hints)] if keep else hints.pop(pick % len(hints))
                    epoch, events = decode_hint(payload)
                    if epoch == self.instances[instance].reader.epoch:
                        self.instances[instance].reader.offer(events)

        self.do(work())

    @rule(instance=instances)
    def lose_hints(self, instance: int) -> None:
        self.hints[instance].clear()

    @rule(
        instance=instances,
        trouble=st.sampled_from(["away", "away", 0.03, 0.3, 1.2]),
        seconds=st.sampled_from([0.3, 2.0, 6.0]),
    )
    def trouble_with_the_log(self, instance: int, trouble: str | float, seconds: float) -> None:
        source = self.instances[instance].source
        if trouble == "away":
            source.away = True
        else:
            assert isinstance(trouble, float)
            source.latency = trouble
        self.do(passes(seconds))

    @rule(instance=instances, client=clients, topic=topics, seconds=st.sampled_from([1.5, 20.0]))
    def stop_while_others_go_on(self, instance: int, client: int, topic: int, seconds: float) -> None:
        """A process is stopped with something still to be written; meanwhile, on another, a sign-in ends."""
        it = self.clients[client]

        async def work() -> None:
            self.home = instance
            self.log.append_all([(self.topics[topic], "message.created", "", NO_CONTROL)] * 2)
            self.home = 1 - instance
            self.log.append(inbox(it.user), "something.new")
            self.log.revoke(it.user, it.sign_in)
            self.log.append(inbox(it.user), "something.new")
            self.truth.revoked_at[it.sign_in] = self.loop.time()
            self.hints[instance].clear()
            self.loop.freeze(seconds)

        self.do(work())

    @rule(seconds=st.sampled_from([0.5, 1.5, 20.0]))
    def freeze(self, seconds: float) -> None:
        """Both processes are stopped, wherever they are."""
        self.loop.freeze(seconds)

    @rule(instance=instances)
    def heal(self, instance: int) -> None:
        source = self.instances[instance].source
        source.away, source.latency = False, 0.0

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.3, 1.1, 6.0]))
    def wait(self, seconds: float) -> None:
        self.do(passes(seconds))

    @rule(count=st.integers(1, 6))
    def turn(self, count: int) -> None:
        self.do(turns(count))

    # What the clients do.

    @rule(client=clients, instance=instances, wire=st.sampled_from(["ws", "sse"]), back=st.integers(0, 40))
    def connect(self, client: int, instance: int, wire: Wire, back: int) -> None:
        it = self.clients[client]
        if it.connected:
            it.cut()
        if it.sign_in in self.truth.revoked_at:
            it.renew_sign_in()
        if back > 30 and it.cursors and it.epoch == self.log.epoch:
            it.place = it.cursors[-min(back - 30, len(it.cursors))]  # it had not kept the newest
            it.cursors = [c for c in it.cursors if c <= it.place]

        async def work() -> None:
            on = self.instances[instance]
            begun = await self._begin(on, it)
            if begun is None:
                return
            view, place = begun
            transport = FakeTransport(wire, on.hub.clock)
            it.attach(on, transport)
            it.session = on.hub.open(
                view, transport, place, sign_in=it.sign_in, expires_at=float("inf"), groups=it.groups
            )
            it.session.greet({"type": "hello", "cursor": place.presented}, place.resync)
            if place.resync is None:
                assert it.place is None or place.presented == it.cursor
            it.session.start()

        self.do(work())

    async def _begin(self, on: Instance, it: WatchedClient) -> tuple[UserView, Place] | None:
        """As the handlers do it; None where the answer would be 503."""
        try:
            while True:
                place = await on.hub.places.find(it.cursor)
                view = await on.hub.view(DEFAULT_TENANT, it.user)
                if on.hub.places.holds(place):
                    return view, place
        except (NotFresh, SourceAway):
            return None

    @rule(client=clients)
    def disconnect(self, client: int) -> None:
        self.clients[client].cut()

    @rule(client=clients, instance=instances, limit=st.integers(1, 9), again=st.booleans())
    def poll(self, client: int, instance: int, limit: int, again: bool) -> None:
        it = self.clients[client]
        it.cut()
        if it.sign_in in self.truth.revoked_at:
            it.renew_sign_in()

        async def work() -> None:
            place = it.place
            await self._poll(self.instances[instance], it, limit)
            if again and place is not None and it.epoch == self.log.epoch:
                it.place = place  # the answer never arrived: the same cursor gives the same again
                await self._poll(self.instances[instance], it, limit)

        self.do(work())

    async def _poll(self, on: Instance, it: WatchedClient, limit: int) -> None:
        begun = await self._begin(on, it)
        if begun is None:
            return
        view, place = begun
        if place.resync is not None:
            it._resync(place.resync)
        if it.place is None or place.resync is not None:
            it.epoch, it.place = place.epoch, place.position
            return
        poll = on.hub.poll(view, sign_in=it.sign_in, expires_at=float("inf"), groups=it.groups)
        try:
            events, reached, more = await poll.read(place.position, limit)
        except (NotFresh, SourceAway):
            return
        finally:
            on.hub.detach(poll)
        if poll.ended or (events and not on.hub.fresh):
            return
        assert len(events) <= limit
        if events:
            it.check_fresh(on)
        for event in events:
            it.check_texts(on, event.envelope)
            at = decode_cursor(event.cursor)
            it.take_event(at.epoch, at.position)
        if more:
            assert reached == events[-1].position
        it.take_place(poll.epoch, reached)
        it.cursors.append(reached)

    @rule(client=clients, size=sizes)
    def answer(self, client: int, size: int) -> None:
        """To a command, which may come from a peer that reads nothing."""
        session = self.clients[client].session
        if session is not None:

            async def work() -> None:
                session.send_control(b'{"type":"reply","padding":"%b"}' % (b"x" * size), "reply")
                await turns()

            self.do(work())

    @rule(client=clients)
    def stop_reading(self, client: int) -> None:
        transport = self.clients[client].transport
        if transport is not None:
            transport.stall()

    @rule(client=clients, size=st.sampled_from([1, 200, 2000, None]))
    def read_on(self, client: int, size: int | None) -> None:
        transport = self.clients[client].transport
        if transport is not None and (size is None or transport.stalled):
            transport.take(size)

    # What always holds.

    @invariant()
    def what_arrived_is_right(self) -> None:
        for client in getattr(self, "clients", ()):
            client.absorb()

    @invariant()
    def queues_are_bounded(self) -> None:
        for client in getattr(self, "clients", ()):
            if client.transport is not None and client.session is not None:
                assert client.transport.buffered() <= (Session.MOST_QUEUES + 1) * QUEUE + 2 * LONGEST
                assert sum(chunk.size for chunk in client.session._pending) <= QUEUE
        for it in getattr(self, "instances", ()):
            assert not it.background.failures

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        if not self.broken:
            self.do(self._settle())
        self.loop.close()

    async def _settle(self) -> None:
        """All is well again: everyone comes back, and has everything."""
        for instance in self.instances:
            instance.source.away, instance.source.latency = False, 0.0
        await passes(3.0)
        for n, client in enumerate(self.clients):
            client.cut()
            if client.sign_in in self.truth.revoked_at:
                client.renew_sign_in()
            on = self.instances[n % 2]
            transport = FakeTransport("sse" if n % 3 else "ws", on.hub.clock)
            client.attach(on, transport)
            cursor = client.cursor
            client.session, _ = await on.connect(
                client.user, cursor, groups=client.groups, sign_in=client.sign_in, transport=transport
            )
        await passes(LIMITS.heartbeat + 2)
        for instance in self.instances:
            assert not instance.background.failures
        for client in self.clients:
            client.absorb()
            assert client.session is not None
            assert client.session.state is State.LIVE
            assert client.place == self.log.head, "everything was given, and the heartbeat says so"
        for instance in self.instances:
            await instance.background.stop()


TestRealtime = RealtimeMachine.TestCase
TestRealtime.settings = settings(
    max_examples=250,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
