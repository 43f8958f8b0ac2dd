"""Whether one log can have told everybody what they were told: an order that all sequences agree with.

Nobody knows the positions, since cursors are opaque. But each receiver's events came in the log's order, messages of a
conversation are in the order of their numbers, and what was known before another thing began comes before it. Each of
these is an edge between two events. The log has an order if and only if the edges make no circle.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise

from faults.facts import CREATED, Facts
from faults.history import Receipt
from faults.verdict import Kind, Violation

Event = tuple[str, int | str]
"""A message is its conversation and number; any other durable event is `""` and its cursor."""


def event_of(receipt: Receipt) -> Event | None:
    """None for live-only events."""
    if receipt.type == CREATED and receipt.conversation is not None and receipt.seq is not None:
        return receipt.conversation, receipt.seq
    return None if receipt.cursor is None else ("", receipt.cursor)


def check_order(facts: Facts, without: Collection[str]) -> list[Violation]:
    """One violation for each knot of circles. Receivers in `without` are left out: they were judged alone."""
    sequences = {
        name: list(dict.fromkeys(event for receipt in receipts if (event := event_of(receipt)) is not None))
        for name, receipts in facts.receipts.items()
        if name not in without
    }
    graph = _Graph()
    for sequence in sequences.values():
        graph.chain(sequence)
    for conversation, messages in facts.messages.items():
        graph.chain([(conversation, seq) for seq in sorted(messages)])
    _tie_to_the_clock(graph, facts)
    return [Violation(Kind.REORDERED, _words(facts, sequences, circle)) for circle in graph.circles()]


def _tie_to_the_clock(graph: _Graph, facts: Facts) -> None:
    """A message known before another one began comes first; through one node a beginning, not one edge a pair."""
    places = [(conversation, seq) for conversation, messages in facts.messages.items() for seq in messages]
    begun = sorted((at, place) for place in places if (at := facts.begun_at(place)) > float("-inf"))
    times = [at for at, _ in begun]
    graph.chain([("at", number) for number in range(len(begun))])
    for number, (_, place) in enumerate(begun):
        graph.edge(("at", number), place)
    for place in places:
        number = bisect_right(times, facts.known_at(place))
        if number < len(times):
            graph.edge(place, ("at", number))


class _Graph:
    """Events and what comes after what."""

    def __init__(self) -> None:
        self._after: dict[Event, set[Event]] = defaultdict(set)

    def edge(self, before: Event, after: Event) -> None:
        self._after[before].add(after)

    def chain(self, events: Sequence[Event]) -> None:
        for before, after in pairwise(events):
            self._after[before].add(after)

    def circles(self) -> Iterator[list[Event]]:
        """A shortest circle out of each knot, its first event again at its end."""
        left = self._without_loose_ends()
        while left:
            knot = self._knot(next(iter(left)), left)
            if len(knot) > 1:
                yield self._circle(next(iter(knot)), knot)
            left -= knot

    def _without_loose_ends(self) -> set[Event]:
        """What is in a circle, or between two: take away what nothing comes before, again and again; then backwards."""
        forth: Mapping[Event, Collection[Event]] = self._after
        left = _peel(forth, {*forth, *(each for events in forth.values() for each in events)})
        back: dict[Event, list[Event]] = defaultdict(list)
        for event in left:
            for each in forth.get(event, ()):
                if each in left:
                    back[each].append(event)
        return _peel(back, left)

    def _knot(self, start: Event, within: set[Event]) -> set[Event]:
        """Everything that is both before and after `start`."""
        back: dict[Event, list[Event]] = defaultdict(list)
        for event in within:
            for each in self._after.get(event, ()):
                back[each].append(event)
        return _reach(self._after, start, within) & _reach(back, start, within)

    def _circle(self, start: Event, knot: set[Event]) -> list[Event]:
        came_from: dict[Event, Event] = {}
        waiting = deque([start])
        while waiting:
            event = waiting.popleft()
            for each in self._after.get(event, ()):
                if each == start:
                    path = [start, event]
                    while path[-1] != start:
                        path.append(came_from[path[-1]])
                    return path[::-1]
                if each in knot and each not in came_from:
                    came_from[each] = event
                    waiting.append(each)
        raise AssertionError("a knot has a circle through each of its events")


def _peel(after: Mapping[Event, Collection[Event]], events: set[Event]) -> set[Event]:
    before = dict.fromkeys(events, 0)
    for event in events:
        for each in after.get(event, ()):
            if each in before:
                before[each] += 1
    free = deque(event for event, count in before.items() if not count)
    while free:
        event = free.popleft()
        del before[event]
        for each in after.get(event, ()):
            if each in before:
                before[each] -= 1
                if not before[each]:
                    free.append(each)
    return set(before)


def _reach(after: Mapping[Event, Collection[Event]], start: Event, within: set[Event]) -> set[Event]:
    found = {start}
    waiting = deque([start])
    while waiting:
        for each in after.get(waiting.popleft(), ()):
            if each in within and each not in found:
                found.add(each)
                waiting.append(each)
    return found


def _words(facts: Facts, sequences: Mapping[str, Sequence[Event]], circle: Sequence[Event]) -> str:
    """Each step of the circle with its reason; the nodes that stand for moments are passed over."""
    solid = [event for event in circle if event[0] != "at"]
    solid = solid if solid[0] == solid[-1] else [*solid, solid[0]]
    steps = [
        f"{_name(before)} before {_name(after)} ({_reason(facts, sequences, before, after)})"
        for before, after in pairwise(solid)
        if before != after
    ]
    return "no order of the log allows " + ", ".join(steps[:6])


def _name(event: Event) -> str:
    return f"{event[0]}#{event[1]}" if event[0] else f"event {event[1]}"


def _reason(facts: Facts, sequences: Mapping[str, Sequence[Event]], before: Event, after: Event) -> str:
    for name, sequence in sequences.items():
        if before in sequence and after in sequence and sequence.index(after) == sequence.index(before) + 1:
            return f"told so to {name}"
    if (
        before[0] == after[0]
        and isinstance(before[1], int)
        and isinstance(after[1], int)
        and before[1] < after[1]
    ):
        return "by their numbers"
    return "known before the other began"
