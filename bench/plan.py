"""How long and how large each scenario is: the full run within ten minutes, the quick one within two."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Rounds alternate between the servers compared, and the median round counts."""

    rounds: int
    chat_pairs: int
    chat_seconds: float
    latency_seconds: float
    floor_commits: int
    receivers: int
    burst: int
    fanout_seconds: float
    warmup_seconds: float
    idle_connections: int
    held_connections: int
    broadcasts: int
    storm_sessions: int
    bursts_at_two: bool  # S11 with bursts too
    grown_users: int  # S12; ten messages and a hundred log rows for each
    growth_seconds: float  # of S12's share of S4
    resumes: int
    slow_peers_too: bool  # those a single burst takes seconds


FULL = Plan(
    rounds=3,
    chat_pairs=100,
    chat_seconds=6.0,
    latency_seconds=12.0,
    floor_commits=3000,
    receivers=1000,
    burst=100,
    fanout_seconds=3.0,
    warmup_seconds=1.5,
    idle_connections=10_000,
    held_connections=19_000,
    broadcasts=20,
    storm_sessions=10_000,
    bursts_at_two=True,
    grown_users=100_000,
    growth_seconds=8.0,
    resumes=60,
    slow_peers_too=True,
)

QUICK = Plan(
    rounds=1,
    chat_pairs=100,
    chat_seconds=3.0,
    latency_seconds=3.0,
    floor_commits=500,
    receivers=1000,
    burst=100,
    fanout_seconds=1.5,
    warmup_seconds=0.7,
    idle_connections=1000,
    held_connections=2000,
    broadcasts=3,
    storm_sessions=1000,
    bursts_at_two=False,
    grown_users=2_000,
    growth_seconds=3.0,
    resumes=20,
    slow_peers_too=False,
)
