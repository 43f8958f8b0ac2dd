"""How many commands a user may send over WebSockets, on this instance."""

from __future__ import annotations

from weakref import WeakValueDictionary

from domain.errors import TooMany
from domain.ids import UserId

BURST_SECONDS = 2


class Pace:
    """A token bucket that holds so many commands a second, for :data:`BURST_SECONDS`."""

    __slots__ = ("__weakref__", "_at", "_rate", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = BURST_SECONDS * rate
        self._at = 0.0

    def spend(self, now: float) -> None:
        """Takes one command, at a time of any clock that only goes forward. Raises TooMany, with how long to wait."""
        self._tokens = min(BURST_SECONDS * self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            raise TooMany(retry_after=(1 - self._tokens) / self._rate)
        self._tokens -= 1


class Paces:
    """One bucket a user, whichever connections they send over; it is forgotten with the last of them."""

    def __init__(self, rate: float) -> None:
        """``rate``: commands a second."""
        self._rate = rate
        self._of: WeakValueDictionary[UserId, Pace] = WeakValueDictionary()

    def of(self, user: UserId) -> Pace:
        """The user's bucket, to be held as long as the connection lasts."""
        pace = self._of.get(user)
        if pace is None:
            pace = self._of[user] = Pace(self._rate)
        return pace
