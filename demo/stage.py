"""The stage: everybody and everything of the show, as the acts use it and the views look at it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import Enum, auto

import aiohttp

from demo.api import Api
from demo.instances import Fleet, Instance
from demo.ledger import Ledger
from demo.people import Move, Person, Seat
from demo.redis_faults import RedisFaults
from demo.script import CAST, VIEWER
from demo.transcript import Transcript


class Tone(Enum):
    """How a line of the story is meant."""

    PLAIN = auto()
    FAULT = auto()
    GOOD = auto()


@dataclass(frozen=True, slots=True)
class Beat:
    """One thing that happened; `at` is in seconds since the show began."""

    at: float
    text: str
    tone: Tone


class Stage:
    """Written by the acts, read by a view.

    `pace` stretches every pause of the script; what is measured is not stretched. `counting_from` is the first
    `seq` that is a number being counted, `victim` the instance that is killed, `killed_at` when that was (monotonic):
    0 or None before that.
    """

    def __init__(self, fleet: Fleet, http: aiohttp.ClientSession, pace: float = 1.0) -> None:
        self.fleet = fleet
        self.api = Api(http)
        self.redis = RedisFaults(fleet.data_dir)
        self.ledger = Ledger()
        seats = {instance.name: instance for instance in fleet.instances}
        self.people = {
            name: Person(name, Seat(transport, seats[where]), http, fleet, self.ledger)
            for name, transport, where in CAST
        }
        self.viewer = self.people[VIEWER]
        self.names: dict[str, str] = {}
        self.transcript = Transcript(self.names)
        self.conversation = ""
        self.start = ""
        self.act = ""
        self.counting_from = 0
        self.victim: Instance | None = None
        self.killed_at = 0.0
        self.story: list[Beat] = []
        self.began = time.monotonic()
        self._pace = pace

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def tell(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        """Adds to the story."""
        self.story.append(Beat(self.elapsed, text, tone))

    def is_surprise(self, move: Move) -> bool:
        """Whether nothing in the script made for it."""
        return not move.wanted and (move.source.instance is not self.victim or move.left < self.killed_at)

    async def pause(self, seconds: float) -> None:
        """So many seconds of the script."""
        await asyncio.sleep(seconds * self._pace)


def span(seconds: float) -> str:
    """A time for people: `38 ms`, `1.2 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"
