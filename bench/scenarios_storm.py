"""S7: everybody is cut off, misses a hundred messages, and comes back at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from bench.clients import Account, rest
from bench.load import in_own_process
from bench.parley_stage import SETTINGS, database_of
from bench.processes import Server, empty_directory, instance
from bench.report import Row, Target
from bench.resumed import Missed
from bench.scenario import PARLEY, Report, say
from bench.seed import SeededCrowd, seed_crowd
from bench.statements import Statements
from bench.stats import percentile
from bench.storm import Return, StormResult, StormSpec, run_missing, run_return

TARGET_SESSIONS = 10_000
_TARGET_SECONDS = 10
_TARGET_QUERIES = 0.01
_GROUP, _CONVERSATIONS_EACH = 19, 20
_SAID_IN_EACH = 5  # so that everyone misses a hundred
_QUIET_SECONDS = 2.0
_MIB = 1024 * 1024


def storms(report: Report) -> None:
    """Two storms: at the instance that held everybody, and at one that has just started. Raises WrongError."""
    users = report.plan.storm_sessions
    with empty_directory() as directory:
        with instance(directory, 1, **SETTINGS) as server:
            url, _ = database_of(server)
            crowd = asyncio.run(
                seed_crowd(url, server.data_dir, users, _CONVERSATIONS_EACH, group_size=_GROUP)
            )
            asyncio.run(_begin_the_log(server.port, crowd))
            load = _load(server, crowd)
            cursors = in_own_process(run_missing, load)
            _tell(report, "where they were", *_storm(server, Return(load, cursors)))
        with instance(directory, 1, **SETTINGS) as server:
            # With the same cursors: nobody has said yet that anything arrived.
            _, helpers = database_of(server)
            load = replace(load, port=server.port, pids=server.pids, helpers=helpers)
            _tell(report, "at an instance just started", *_storm(server, Return(load, cursors)))


async def _begin_the_log(port: int, crowd: SeededCrowd) -> None:
    """So that cursors are behind something, and who comes back with one says that it arrived."""
    one, other = (Account(f"held{user:06d}", crowd.tokens[user]) for user in (0, 1))
    async with rest(port) as api:
        await api.direct(one, other)


def _load(server: Server, crowd: SeededCrowd) -> StormSpec:
    users = len(crowd.tokens)
    groups = [each.encode() for each in crowd.groups]
    common = crowd.common_conversation.encode()
    _, helpers = database_of(server)
    return StormSpec(
        server.port,
        server.pids,
        helpers,
        crowd.tokens,
        tuple((common, *(groups[(user - step) % users] for step in range(_GROUP))) for user in range(users)),
        (
            # The last member of the first of nineteen groups in a row is in all of them.
            *(
                ((start + _GROUP - 1) % users, tuple(groups[start : start + _GROUP]))
                for start in range(0, users, _GROUP)
            ),
            (0, (common,)),
        ),
        Missed(1, _SAID_IN_EACH, {each: n for n, each in enumerate([common, *groups])}),
    )


def _storm(server: Server, load: Return) -> tuple[StormResult, Counter[str]]:
    """The storm, and the statements it made PostgreSQL carry out: without those made when nothing happens."""
    url, _ = database_of(server)
    with Statements(url, server.data_dir) as quiet:
        asyncio.run(asyncio.sleep(_QUIET_SECONDS))
    with Statements(url, server.data_dir) as asked:
        result = in_own_process(run_return, load)
    return result, Counter({text: n for text, n in asked.made.items() if text not in quiet.made})


def _tell(report: Report, where: str, result: StormResult, asked: Counter[str]) -> None:
    sessions = len(result.caught_up)
    judged = sessions >= TARGET_SESSIONS and where == "where they were"
    queries = asked.total()
    each = result.cost.server / sessions * 1e6
    report.record(
        "S7",
        f"{PARLEY}, {where}",
        {
            "sessions": sessions,
            "events": result.events,
            "seconds": result.seconds,
            "caught_up_seconds": {str(p): percentile(result.caught_up, p) for p in (50, 90, 99, 100)},
            "server_us_a_session": each,
            "database_seconds": result.cost.helpers,
            "generator_seconds": result.cost.generator,
            "rss_mib": result.rss / _MIB,
            "statements": dict(asked),
        },
        result.cost.foreign,
        result.cost.seconds,
    )
    say(
        f"  S7 {where}: {sessions:,} back in {result.seconds:.1f} s, {result.events:,} events,"
        f" {each:.0f} µs of the server each, {queries} statements, generator {result.cost.generator:.1f} s"
    )
    note = f"{sessions:,} sessions, {where}"
    report.rows += [
        Row(
            "S7",
            "until all who come back have what they missed",
            result.seconds,
            "s",
            target=Target("at most", _TARGET_SECONDS, False) if judged else None,
            note=note,
        ),
        Row(
            "S7",
            "database queries a session",
            queries / sessions,
            "",
            target=Target("at most", _TARGET_QUERIES, False) if judged else None,
            note=note,
        ),
        Row("S7", "server CPU a session", each, "µs", note=note),
        Row("S7", "memory of the server", result.rss / _MIB, "MiB", note=note),
    ]
