"""What is live only, made and joined: typing and presence."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

from domain.ids import UserId
from realtime.presence import Presence
from realtime.roster import RedisRoster
from realtime.typing import Typing
from server.parts import Parts
from services.last_seen import LastSeen
from services.presence import PresenceService
from services.typing import TypingService


@dataclass(frozen=True, slots=True)
class Live:
    """The parts that show who is there and who types."""

    typing: TypingService
    presence: PresenceService
    presence_here: Presence
    last_seen: LastSeen

    def visibility_changed(self, users: Collection[UserId]) -> None:
        """After a commit that changed what these users may see of each other."""
        self.presence.visibility_changed(users)
        self.typing.visibility_changed(users)

    @property
    def loops(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What has to run all the time, by name."""
        return {
            "typing": self.typing.run,
            "presence": self.presence.run,
        }


def make_live(parts: Parts) -> Live:
    """Makes them, and joins them to the hub."""
    hub = parts.hub
    roster = RedisRoster(
        parts.redis, str(parts.deployment.id), parts.instance, clock=time.monotonic, wall=time.time
    )
    typing = TypingService(
        parts.database, Typing(hub, parts.bus, clock=time.monotonic, wall=time.time), parts.jobs
    )
    presence = Presence(parts.bus, roster, clock=time.monotonic, wall=time.time)
    last_seen = LastSeen(parts.database)
    service = PresenceService(parts.database, presence, last_seen)
    hub.appeared = presence.appeared
    hub.disappeared = presence.disappeared
    hub.detached = service.forget
    presence.gone = typing.gone
    parts.bus.after_gap(presence.gap)
    return Live(typing, service, presence, last_seen)
