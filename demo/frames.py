"""What a client reads, whatever the transport: frames; and how it may end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp

Json = dict[str, Any]
"""JSON as it came. The show is a client: this is its edge."""

CONTROL = frozenset({"hello", "heartbeat", "resync", "drain", "token.expiring"})
"""Frames that are no events."""


class Cut(Exception):
    """The server ended the connection, or could not answer for now: try again, perhaps elsewhere."""


class Refused(Exception):
    """The server said no, and will again."""


CUTS = (Cut, aiohttp.ClientError, OSError, TimeoutError)
"""What a client goes on from."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One envelope or control frame. `cursor` is None for events that are live only."""

    type: str
    cursor: str | None
    data: Json

    @property
    def is_durable(self) -> bool:
        """Whether it has a place of its own in the log."""
        return self.type not in CONTROL and self.cursor is not None


def frame_of(value: Json) -> Frame:
    """From its JSON."""
    return Frame(value["type"], value.get("cursor"), value.get("data", {}))


def checked(status: int, problem: Json) -> None:
    """Raises Cut or Refused where `status` is no success."""
    if status < 400:
        return
    text = f"{status} {problem.get('code', '')}: {problem.get('detail', '')}"
    raise Cut(text) if status >= 500 or status == 429 else Refused(text)
