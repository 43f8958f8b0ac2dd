"""Small parts of the edge: origins, traces, metrics, counters in memory, fingerprints."""

from __future__ import annotations

import asyncpg
import pytest
from pydantic import BaseModel, ValidationError

from handlers.keys import Client
from handlers.origins import Origins
from realtime import closing
from server.metrics import Metrics
from server.ratelimits import FALLBACK_KEYS, MemoryCounters
from server.traces import message_of, trace_of
from services.idempotency import fingerprint

HERE = Client("192.0.2.1", "http", "chat.example.com:8080")


@pytest.mark.parametrize(
    ("origin", "let_in"),
    [
        (None, True),
        ("http://chat.example.com:8080", True),
        ("https://chat.example.com:8080", True),
        ("HTTP://CHAT.example.com:8080", True),
        ("http://chat.example.com", False),
        ("http://evil.com#chat.example.com:8080", False),
        ("http://chat.example.com:8080.evil.com", False),
        ("http://x@chat.example.com:8080", False),
        ("null", False),
        ("", False),
        ("file://", False),
        ("ws://chat.example.com:8080", False),
        ("https://app.example.com", True),
        ("https://app.example.com:443", True),
        ("http://app.example.com", False),
        ("https://app.example.com.evil.com", False),
    ],
)
def test_an_origin_is_the_servers_own_or_named(origin: str | None, let_in: bool) -> None:
    assert Origins(["https://app.example.com"]).allows(origin, HERE) is let_in


def test_a_port_that_goes_without_saying_makes_no_difference() -> None:
    origins = Origins([])
    assert origins.allows("https://chat.example.com", Client("", "https", "chat.example.com:443"))
    assert origins.allows("https://chat.example.com:443", Client("", "https", "chat.example.com"))
    assert not origins.allows("https://chat.example.com:80", Client("", "https", "chat.example.com"))


def test_a_star_lets_in_every_origin_without_cookies() -> None:
    origins = Origins(iter(["*", "https://app.example.com"]))
    assert origins.allows("https://anything.example", HERE)
    assert not origins.named("https://anything.example")
    assert origins.named("https://app.example.com")


WORDS = "private words"
MESSAGE = "outer\nwith a second line"


class Small(BaseModel):
    size: int


def test_a_trace_says_where_and_why_without_anyones_words() -> None:
    with pytest.raises(ValidationError) as wrong:
        Small.model_validate({"size": WORDS})
    assert "private" not in trace_of(wrong.value)
    assert "('size',): int_parsing" in trace_of(wrong.value)
    failing = asyncpg.NotNullViolationError("Failing row contains (private words)")
    assert "private" not in message_of(failing)
    refused = asyncpg.DataError("invalid input for query argument $1: 'private words'")
    assert "private" not in message_of(refused)


def test_a_trace_holds_the_whole_chain() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise RuntimeError(MESSAGE) from error
    except RuntimeError as error:
        told = trace_of(error)
    assert told.index("KeyError: 'inner'") < told.index("RuntimeError: outer")
    assert "second line" not in told
    assert "in test_a_trace_holds_the_whole_chain" in told


def test_metrics_are_each_instances_own() -> None:
    one, two = Metrics(), Metrics()
    one.connection_opened("sse")
    assert 'parley_connections{transport="sse"} 1.0' in one.render().decode()
    assert 'transport="sse"' not in two.render().decode()


def test_the_log_s_lag_grows_while_it_is_not_read() -> None:
    now = 100.0
    metrics = Metrics(lambda: now)
    metrics.log_read(7, 0, 0.25)
    assert "parley_log_lag_seconds 0.25" in metrics.render().decode()
    now += 30
    assert "parley_log_lag_seconds 30.25" in metrics.render().decode()
    metrics.log_read(8, 1, 0.5)
    assert "parley_log_lag_seconds 0.5" in metrics.render().decode()


def test_metrics_tell_what_they_were_told() -> None:
    metrics = Metrics(lambda: 100.0)
    metrics.connection_opened("websocket")
    metrics.connection_opened("websocket")
    metrics.connection_closed("websocket", "drain")
    metrics.command("message.send", "ok")
    metrics.delivered("sse", 3)
    metrics.delivered("ws", 4)
    metrics.hint_received()
    metrics.watch_redis(lambda: True)
    metrics.caught_up("ring", 5)
    metrics.caught_up("database", 7)
    metrics.flushed(64, 0.003)
    metrics.log_read(100, 2, 0.5)
    metrics.gap_healed()
    metrics.watch_depth("commits", lambda: 12)
    metrics.watch_cache("ring", lambda: 20)
    metrics.watch_tasks(lambda: 34)
    text = metrics.render().decode()
    for line in (
        'parley_connections{transport="websocket"} 1.0',
        'parley_connections_closed_total{reason="drain",transport="websocket"} 1.0',
        'parley_commands_total{op="message.send",outcome="ok"} 1.0',
        'parley_deliveries_total{transport="sse"} 3.0',
        'parley_deliveries_total{transport="websocket"} 4.0',
        "parley_hints_total 1.0",
        "parley_redis_up 1.0",
        'parley_catch_up_reads_total{source="ring"} 1.0',
        'parley_catch_up_events_total{source="database"} 7.0',
        "parley_commit_batch_size_sum 64.0",
        "parley_commit_flush_seconds_count 1.0",
        "parley_log_head_position 100.0",
        "parley_log_lag_positions 2.0",
        "parley_log_lag_seconds 0.5",
        "parley_hint_gaps_healed_total 1.0",
        'parley_queue_depth{queue="commits"} 12.0',
        'parley_cache_entries{cache="ring"} 20.0',
        "parley_tasks 34.0",
    ):
        assert line in text.splitlines(), line


def test_counters_in_memory_are_dropped_with_their_window_and_never_grow_without_bound() -> None:
    counters = MemoryCounters()
    assert [counters.increment("a", 60, 0.0) for _ in range(3)] == [1, 2, 3]
    assert counters.increment("a", 3600, 0.0) == 1
    assert counters.increment("a", 60, 60.0) == 1
    for n in range(FALLBACK_KEYS):
        counters.increment(str(n), 60, 60.0)
    assert counters.increment("one more", 60, 60.0) == 1
    assert max(len(counts) for _, counts in counters._windows.values()) <= FALLBACK_KEYS


def test_a_fingerprint_keeps_method_path_and_body_apart() -> None:
    made = {
        fingerprint("POST", "/a", b"b"),
        fingerprint("POST", "/ab", b""),
        fingerprint("POS", "T/a", b"b"),
        fingerprint("PUT", "/a", b"b"),
        fingerprint("POST", "/a", b"c"),
    }
    assert len(made) == 5


def test_every_reason_for_closing_has_a_name_that_does_not_change() -> None:
    fixed = {value.name for value in vars(closing).values() if isinstance(value, closing.Closing)}
    assert fixed == {"abuse", "revoked", "expired", "silent", "stalled", "too_many", "binary"}
    assert closing.draining(17).name == closing.draining(18).name == "drain"
