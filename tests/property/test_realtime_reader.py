"""Whatever becomes of the hints, what is applied is the log: dense, in order, each event once."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.log import StoredEvent
from realtime.log import LogReader
from realtime.ring import Ring
from tests.support.fakes import Background, Counted, FakeLog, FakeSource, conversation, passes
from tests.support.simulated import simulated

sizes = st.lists(st.integers(1, 4), min_size=1, max_size=12)
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["deliver", "deliver", "repeat", "lose", "commit", "wait", "freeze", "away", "back", "slow"]
        ),
        st.integers(0, 30),
    ),
    max_size=60,
)


@given(sizes, steps)
@settings(max_examples=150, deadline=None)
def test_any_order_repetition_and_loss_of_hints_gives_the_log(
    sizes: list[int], steps: list[tuple[str, int]]
) -> None:
    @simulated
    async def story() -> None:
        log, topic, loop = FakeLog(), conversation(), asyncio.get_running_loop()
        source = FakeSource(log)
        reader = LogReader(source, Ring(max_events=1000, max_bytes=1 << 30), Counted(), loop.time)
        applied: list[int] = []
        told: list[list[StoredEvent]] = []

        def take() -> None:
            fresh = reader.ring.slice(len(applied), 1000)
            assert fresh, "called only where there is something new"
            applied.extend(event.position for event in fresh)

        def lost() -> None:
            raise AssertionError("nothing of the log was lost")

        reader.applied, reader.lost = take, lost
        background = Background()
        await reader.start(0)
        background.spawn(reader.run())
        waiting: list[list[StoredEvent]] = []
        commits = iter(sizes)

        def commit() -> None:
            size = next(commits, None)
            if size is not None:
                waiting.append([log.append(topic) for _ in range(size)])
                told.append(waiting[-1])

        for step, pick in steps:
            if step == "commit":
                commit()
            elif step == "deliver" and waiting:
                reader.offer(waiting.pop(pick % len(waiting)))
            elif step == "repeat" and told:
                batch = told[pick % len(told)]
                reader.offer(batch[pick % len(batch) :])
            elif step == "lose" and waiting:
                waiting.pop(pick % len(waiting))
            elif step == "wait":
                await passes(pick / 40)
            elif step == "freeze":
                loop.now += pick  # type: ignore[attr-defined]
            elif step in ("away", "back"):
                source.away = step == "away"
            elif step == "slow":
                source.latency = pick / 60
            assert applied == list(range(1, len(applied) + 1))
            assert len(applied) == reader.position <= log.head
            if reader.fresh:
                began = max(at for at, head in source.readings if head <= reader.position)
                assert loop.time() - began < 1.0, "fresh without a reading"
        source.away, source.latency = False, 0.0
        await passes(13.0)
        assert applied == list(range(1, log.head + 1))
        assert reader.fresh
        assert not reader._early
        assert reader._early_events == 0
        await background.stop()

    story()
