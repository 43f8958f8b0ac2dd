"""Whatever happens to users, instances and Redis: when it has been quiet for a while, everyone is told the truth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.ids import UserId
from tests.support.fakes import passes, turns, user
from tests.support.live import PresentInstance, World
from tests.support.simulated import SimulatedLoop

USERS: Sequence[UserId] = [user() for _ in range(3)]
PLACES = 3
QUIET = 60.0

some_user = st.integers(0, len(USERS) - 1)
some_place = st.integers(0, PLACES - 1)
Step = tuple[str, int, int, float]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("open"), some_place, some_user, st.just(0.0)),
        st.tuples(st.just("close"), some_place, some_user, st.just(0.0)),
        st.tuples(
            st.just("pass"), st.just(0), st.just(0), st.sampled_from([0.0005, 0.1, 1.0, 2.9, 7.0, 40.0])
        ),
        st.tuples(
            st.sampled_from(["die", "leave", "lossy", "sound", "away", "back", "flush"]),
            some_place,
            st.just(0),
            st.just(0.0),
        ),
    ),
    max_size=40,
)


class Story:
    """Instances, one a place; where one ends another begins, which knows nothing."""

    def __init__(self) -> None:
        self.world = World()
        self.started = 0
        self.places: list[PresentInstance] = []

    async def begin(self) -> PresentInstance:
        self.started += 1
        instance = self.world.add(f"i{self.started}")
        self.world.instances.append(instance)
        await turns()
        await instance.watch(*USERS)
        return instance

    def connected(self, who: UserId) -> bool:
        return any(place.sessions.get(who, 0) for place in self.places)

    async def take(self, step: Step) -> None:
        name, at, who, seconds = step
        place, store, channels = self.places[at], self.world.store, self.world.channels
        if name == "open":
            place.open(USERS[who])
        elif name == "close":
            if place.sessions.get(USERS[who]):
                place.close(USERS[who])
        elif name == "pass":
            await passes(seconds)
        elif name in ("die", "leave"):
            await (place.die() if name == "die" else place.leave())
            self.places[at] = await self.begin()
        elif name in ("lossy", "sound"):
            channels.lossy = lambda: name == "lossy"
        elif name in ("away", "back"):
            store.away = name == "away"
        else:
            store.flush()
        for instance in self.places:
            for one in USERS:
                if instance.sessions.get(one):
                    assert instance.online(one), "who has a session here is online here, whatever Redis says"

    async def tell(self, story: Sequence[Step]) -> None:
        self.places = [await self.begin() for _ in range(PLACES)]
        for step in story:
            await self.take(step)
        self.world.channels.lossy = lambda: False
        self.world.store.away = False
        await passes(QUIET)
        for instance in self.places:
            for who in USERS:
                assert instance.online(who) == self.connected(who)
                told = [status for one, *status in instance.told if one == who]
                assert all(one != other for one, other in pairwise(told)), "told only what is new"
                if told:
                    assert told[-1][0] == self.connected(who), "told last what is true"


async def tell(taken: Sequence[Step]) -> None:
    story = Story()
    try:
        await story.tell(taken)
    finally:
        await story.world.stop()


@settings(max_examples=150, deadline=None)
@given(steps)
def test_everyone_is_told_the_truth_in_the_end(story: list[Step]) -> None:
    loop = SimulatedLoop()
    try:
        loop.run(tell(story), within=100_000)
    finally:
        loop.close()
