"""How many requests an address, a user and an account are allowed, counted in Redis for all instances together.

Each allowance is a number of requests in a fixed window (a minute or an hour of the clock), so one increment tells the
whole state and the headers are exact; across the edge of two windows a client can get twice the number. While Redis is
away each instance counts for itself, in memory.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from types import MappingProxyType
from typing import Literal

from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from domain.ids import UserId
from handlers.endpoint import Limit
from handlers.serving import Verdict

Scope = Literal["user", "address", "account"]

ALLOWANCES: Mapping[Limit, Mapping[Scope, str]] = MappingProxyType(
    {
        # Many people share an address (offices, mobile carriers), so an address is allowed what some users are.
        "read": {"user": "1200/minute", "address": "6000/minute"},
        "write": {"user": "300/minute", "address": "3000/minute"},
        "send": {"user": "600/minute", "address": "6000/minute"},
        "realtime": {"user": "1200/minute", "address": "6000/minute"},
        # Guessing passwords: an account is guarded whoever asks, an address whichever account it asks for.
        "auth": {"user": "60/minute", "address": "30/minute;300/hour", "account": "10/minute;60/hour"},
    }
)

FALLBACK_KEYS = 100_000
"""Most counters kept in memory while Redis is away; past it a window starts anew."""


@dataclass(frozen=True, slots=True)
class Spent:
    """One allowance after this request."""

    scope: Scope
    item: RateLimitItem
    count: int
    resets_in: float

    @property
    def left(self) -> int:
        return max(0, self.item.amount - self.count)

    @property
    def exceeded(self) -> bool:
        return self.count > self.item.amount


class NoLimits:
    """For ``PARLEY_RATE_LIMITS=off``."""

    async def spend(
        self, limit: Limit, *, address: str = "", user: UserId | None = None, account: str = ""
    ) -> Verdict:
        return Verdict()


class RateLimits:
    """Counts in Redis, through the pool given; keys start with ``prefix``. Safe to share by all requests.

    After a failure Redis is asked again only after ``rest_seconds``: a frozen Redis costs one request its time limit,
    not every one.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        prefix: str,
        limited: Callable[[Limit, Scope], None],
        allowances: Mapping[Limit, Mapping[Scope, str]] = ALLOWANCES,
        clock: Callable[[], float] = time.time,
        timeout: float = 0.25,
        rest_seconds: float = 1.0,
    ) -> None:
        self._storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=f"{prefix}limits",
            connection_pool=pool,  # type: ignore[arg-type]  # declared for scalars, documented for a pool too
        )
        self._allowances = {
            limit: {scope: tuple(parse_many(text)) for scope, text in scopes.items()}
            for limit, scopes in allowances.items()
        }
        self._limited = limited
        self._clock = clock
        self._timeout = timeout
        self._rest = rest_seconds
        self._away_until = 0.0
        self._memory = MemoryCounters()

    async def spend(
        self, limit: Limit, *, address: str = "", user: UserId | None = None, account: str = ""
    ) -> Verdict:
        """Takes one request from each allowance named. Never raises, but for being cancelled."""
        who: dict[Scope, str] = {}
        if user is not None:
            who["user"] = str(user)
        if address:
            who["address"] = address_group(address)
        if account:
            who["account"] = account
        allowed = self._allowances.get(limit, {})
        named = [(scope, item) for scope in who for item in allowed.get(scope, ())]
        if not named:
            return Verdict()
        now = self._clock()
        keys = [
            (f"{limit}/{scope}/{who[scope]}/{int(now // item.get_expiry())}", item.get_expiry())
            for scope, item in named
        ]
        counts = await self._count(keys, now)
        spent = [
            Spent(scope, item, count, item.get_expiry() - now % item.get_expiry())
            for (scope, item), count in zip(named, counts, strict=True)
        ]
        return self._verdict(limit, spent)

    def _verdict(self, limit: Limit, spent: Sequence[Spent]) -> Verdict:
        exceeded = [s for s in spent if s.exceeded]
        for s in exceeded:
            self._limited(limit, s.scope)
        retry_after = max((s.resets_in for s in exceeded), default=0.0)
        return Verdict(not exceeded, retry_after, headers_of(spent))

    async def _count(self, keys: Sequence[tuple[str, int]], now: float) -> Sequence[int]:
        if time.monotonic() >= self._away_until:
            try:
                async with asyncio.timeout(self._timeout):
                    return await asyncio.gather(*(self._storage.incr(key, seconds) for key, seconds in keys))
            except (RedisError, OSError, TimeoutError):
                self._away_until = time.monotonic() + self._rest
        return [self._memory.increment(key, seconds, now) for key, seconds in keys]


class MemoryCounters:
    """The counters of one instance: one set for each length of window, dropped whole when the window ends."""

    def __init__(self) -> None:
        self._windows: dict[int, tuple[int, Counter[str]]] = {}

    def increment(self, key: str, seconds: int, now: float) -> int:
        index = int(now // seconds)
        current, counts = self._windows.get(seconds, (-1, Counter()))
        if current != index or len(counts) >= FALLBACK_KEYS:
            counts = Counter()
            self._windows[seconds] = (index, counts)
        counts[key] += 1
        return counts[key]


def headers_of(spent: Sequence[Spent]) -> Mapping[str, str]:
    """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10): the tightest, and all of them."""
    tightest = min(spent, key=lambda s: (not s.exceeded, s.left / s.item.amount))
    policies = ", ".join(f'"{_policy(s)}";q={s.item.amount};w={s.item.get_expiry()}' for s in spent)
    state = f'"{_policy(tightest)}";r={tightest.left};t={math.ceil(tightest.resets_in)}'
    return {"RateLimit-Policy": policies, "RateLimit": state}


def _policy(spent: Spent) -> str:
    return spent.scope if spent.item.get_expiry() == 60 else f"{spent.scope}-{spent.item.GRANULARITY.name}"


def address_group(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 customer gets whole."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(ip_network((parsed.packed, 64), strict=False).network_address)
    return address
