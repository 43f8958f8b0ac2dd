"""Prometheus metrics, ``parley_*``. One object, one registry: nothing global, so tests can make as many as they like.

No label ever holds an id of a user, a tenant or anything they wrote: every label's values are a short, fixed list.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Generic, Literal, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from handlers.longpoll import POLL

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FLUSH_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

Source = Literal["ring", "database"]
MetricT = TypeVar("MetricT", Counter, Gauge, Histogram)


class Metrics:
    """Everything this instance counts. Methods are cheap enough for the hot path and never raise."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        make = _Maker(self.registry)

        self._requests = _Labelled(
            make.counter(
                "http_requests", "HTTP requests answered, by path template.", "method", "route", "status"
            )
        )
        self._request_seconds = _Labelled(
            make.histogram(
                "http_request_seconds",
                "Time to answer; streams are left out.",
                _REQUEST_BUCKETS,
                "method",
                "route",
            )
        )
        self._requests_now = make.gauge(
            "http_requests_in_progress", "HTTP requests being served, streams too."
        )
        self._limited = make.counter("rate_limited", "Requests refused with 429.", "limit", "scope")
        self._replayed = make.counter("idempotent_replays", "Answers given again for an Idempotency-Key.")

        self._connections = _Labelled(make.gauge("connections", "Open realtime connections.", "transport"))
        self._closed = _Labelled(
            make.counter(
                "connections_closed",
                "Realtime connections ended, by the server's reason.",
                "transport",
                "reason",
            )
        )
        self._repeated = make.counter(
            "polls_repeated", "Polls answered out of turn, as they repeated the one before."
        )
        self.repeated_polls = RepeatedPolls()
        self._folding = Lock()
        self._folded_now = 0
        self._folded_ended: dict[int, int] = {}
        self._commands = _Labelled(make.counter("commands", "WebSocket commands.", "op", "outcome"))
        self._deliveries = _Labelled(
            make.counter(
                "deliveries",
                "Runs of events of one topic pushed; replays and polls are left out.",
                "transport",
            )
        )
        self._resyncs = make.counter("resyncs", "Sessions told to read everything again.", "reason")
        self._slow = make.counter(
            "sessions_fallen_behind", "Sessions whose queue overflowed and that read the log."
        )
        self._catch_up_reads = _Labelled(make.counter("catch_up_reads", "Reads of missed events.", "source"))
        self._catch_up_events = _Labelled(
            make.counter("catch_up_events", "Events given by those reads.", "source")
        )

        self._batch_size = make.histogram("commit_batch_size", "Messages in one commit.", _BATCH_BUCKETS)
        self._flush_seconds = make.histogram("commit_flush_seconds", "Time of one commit.", _FLUSH_BUCKETS)
        self._commit_failures = make.counter(
            "commit_failures", "Batches not stored because PostgreSQL was away or busy."
        )
        self._overloaded = make.counter("overloaded", "Writes refused because too many were waiting.")

        self._head = make.gauge("log_head_position", "Newest position of the log, at the last reading.")
        self._lag_positions = make.gauge(
            "log_lag_positions", "How far the last reading was ahead of what was known before."
        )
        self._read_up_to = clock()
        make.gauge(
            "log_lag_seconds", "Age of what this instance knows of the log; grows while it cannot be read."
        ).set_function(lambda: self._clock() - self._read_up_to)
        self._gaps = make.counter("hint_gaps_healed", "Holes in the hints that were read from PostgreSQL.")
        self._hints = make.counter("hints", "Hints received from other instances.")
        self._redis_up = make.gauge("redis_up", "1 while this instance hears Redis, else 0.")
        self._depths: dict[str, Callable[[], float]] = {}
        self.registry.register(_ByName("parley_queue_depth", "What waits, by queue.", "queue", self._depths))
        self._caches: dict[str, Callable[[], float]] = {}
        self.registry.register(
            _ByName("parley_cache_entries", "What is kept in memory, by cache.", "cache", self._caches)
        )
        self._tasks = make.gauge("tasks", "asyncio tasks that have not ended.")

    # What HTTP tells

    def request_started(self) -> None:
        self._requests_now.inc()

    def request_ended(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """``route`` is a path template, or ``unmatched``; ``seconds`` None for a stream."""
        self._requests_now.dec()
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        if seconds is not None:
            self._request_seconds.labels(method, route).observe(seconds)

    def rate_limited(self, limit: str, scope: str) -> None:
        self._limited.labels(limit, scope).inc()

    def answer_replayed(self) -> None:
        self._replayed.inc()

    # What the realtime core tells

    def connection_opened(self, transport: str) -> None:
        """``transport``: websocket, sse or poll."""
        self._connections.labels(transport).inc()

    def connection_closed(self, transport: str, reason: str) -> None:
        self._connections.labels(transport).dec()
        self._closed.labels(transport, reason).inc()

    def command(self, op: str, outcome: str) -> None:
        """``op``: one of the protocol's, or ``unknown``; ``outcome``: ``ok`` or an error's code."""
        self._commands.labels(op, outcome).inc()

    def delivered(self, wire: str, runs: int) -> None:
        """``wire``: ws or sse; ``runs``: events of one topic that were pushed together count once."""
        self._deliveries.labels("websocket" if wire == "ws" else wire).inc(runs)

    def resynced(self, reason: str) -> None:
        self._resyncs.labels(reason).inc()

    def fell_behind(self) -> None:
        """A session's queue overflowed; it goes on from the log."""
        self._slow.inc()

    def caught_up(self, source: Source, events: int) -> None:
        """One read of missed events, from the ring or from the database."""
        self._catch_up_reads.labels(source).inc()
        self._catch_up_events.labels(source).inc(events)

    # What the log and the commits tell

    def flushed(self, batch: int, seconds: float) -> None:
        """One group commit: how many writes, and how long it took."""
        self._batch_size.observe(batch)
        self._flush_seconds.observe(seconds)

    def flush_failed(self) -> None:
        """A batch whose senders were told to try again: PostgreSQL was away or busy."""
        self._commit_failures.inc()

    def refused_overloaded(self) -> None:
        self._overloaded.inc()

    def log_read(self, head: int, behind: int, seconds: float) -> None:
        """A reading of the log up to its head: where that is, how far behind it this instance had been, and how long
        the reading took."""
        self._head.set(head)
        self._lag_positions.set(behind)
        self._read_up_to = self._clock() - seconds

    def gap_healed(self) -> None:
        self._gaps.inc()

    def hint_received(self) -> None:
        self._hints.inc()

    def watch_redis(self, heard: Callable[[], bool]) -> None:
        """Has ``heard()`` asked at each scrape and shown as ``parley_redis_up``."""
        self._redis_up.set_function(lambda: float(heard()))

    def watch_depth(self, queue: str, depth: Callable[[], float]) -> None:
        """Has ``depth()`` asked at each scrape and shown as ``parley_queue_depth{queue=…}``."""
        self._depths[queue] = depth

    def watch_cache(self, cache: str, entries: Callable[[], float]) -> None:
        """Has ``entries()`` asked at each scrape and shown as ``parley_cache_entries{cache=…}``."""
        self._caches[cache] = entries

    def watch_tasks(self, tasks: Callable[[], float]) -> None:
        """Has ``tasks()`` asked at each scrape, from another thread than the loop's, and shown as ``parley_tasks``."""
        self._tasks.set_function(tasks)

    def render(self) -> bytes:
        """The text Prometheus reads (:data:`CONTENT_TYPE`)."""
        self._fold()
        return generate_latest(self.registry)

    def _fold(self) -> None:
        """Adds what was counted apart since the last time."""
        with self._folding:
            polls, waiting = self.repeated_polls, self._connections.labels("poll")
            before, self._folded_now = self._folded_now, polls.now
            waiting.inc(self._folded_now - before)
            self._requests_now.inc(self._folded_now - before)
            for status, ended in list(polls.ended.items()):
                new = ended - self._folded_ended.get(status, 0)
                self._folded_ended[status] = ended
                self._requests.labels("GET", POLL, str(status)).inc(new)
                self._closed.labels("poll", "answered").inc(new)
                if status == 200:
                    self._repeated.inc(new)


class RepeatedPolls:
    """Counts of polls answered out of turn (:mod:`server.fast_polls`), apart from the library's: nine of those a poll
    would be a fifth of its time. They are added to what all requests and connections count when they are asked for."""

    def __init__(self) -> None:
        self.now = 0
        self.ended: dict[int, int] = {200: 0}
        """By status."""


class _Labelled(Generic[MetricT]):
    """A metric whose labels have few values. Finding one again takes 0.1 µs, where the library checks for 1.5 µs."""

    def __init__(self, metric: MetricT) -> None:
        self._metric: MetricT = metric
        self._known: dict[tuple[str, ...], MetricT] = {}

    def labels(self, *values: str) -> MetricT:
        known = self._known.get(values)
        if known is None:
            known = self._known[values] = self._metric.labels(*values)
        return known


class _ByName(Collector):
    """A gauge of several named sources, each asked when it is scraped."""

    def __init__(self, name: str, text: str, label: str, sources: dict[str, Callable[[], float]]) -> None:
        self._name = name
        self._text = text
        self._label = label
        self._sources = sources

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._text, labels=[self._label])
        for name, source in list(self._sources.items()):
            family.add_metric([name], source())
        yield family


class _Maker:
    """Makes metrics in one registry, under one prefix."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"parley_{name}", text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"parley_{name}", text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"parley_{name}", text, labels, buckets=buckets, registry=self._registry)
