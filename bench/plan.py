"""How long and how large each scenario is: the full run within fifteen minutes, the quick one within two.

On two cores with nothing else to do. What each scenario took is printed below the table.
"""

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
    instance_rounds: int  # of S11
    two_in_full: bool  # S11 with bursts and with S1's load too
    grown_users: int  # S12; ten messages and a hundred log rows for each
    growth_rounds: int
    growth_seconds: float  # of S12's share of S4
    resumes: int
    slow_peers_too: bool  # those a single burst takes seconds


FULL = Plan(
    rounds=3,
    chat_pairs=100,
    chat_seconds=6.0,
    latency_seconds=10.0,
    floor_commits=3000,
    receivers=1000,
    burst=100,
    fanout_seconds=2.5,
    warmup_seconds=1.5,
    idle_connections=10_000,
    held_connections=19_000,
    broadcasts=20,
    storm_sessions=10_000,
    instance_rounds=2,
    two_in_full=True,
    grown_users=100_000,
    growth_rounds=2,
    growth_seconds=6.0,
    resumes=60,
    slow_peers_too=True,
)

QUICK = Plan(
    rounds=1,
    chat_pairs=100,
    chat_seconds=2.0,
    latency_seconds=2.0,
    floor_commits=500,
    receivers=1000,
    burst=100,
    fanout_seconds=1.0,
    warmup_seconds=0.5,
    idle_connections=1000,
    held_connections=2000,
    broadcasts=3,
    storm_sessions=1000,
    instance_rounds=1,
    two_in_full=False,
    grown_users=2_000,
    growth_rounds=1,
    growth_seconds=3.0,
    resumes=20,
    slow_peers_too=False,
)
