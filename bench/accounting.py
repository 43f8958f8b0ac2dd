"""What the kernel says a process used, and what the whole machine was busy with."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User plus system time of these processes, all their threads included, their children not."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def tree_cpu_seconds(root: int) -> float:
    """User plus system time of a process and of all it ever started, also of those that ended meanwhile."""
    fields = Path(f"/proc/{root}/stat").read_text().rpartition(")")[2].split()
    ended = (int(fields[13]) + int(fields[14])) / _TICKS
    living = 0.0
    for pid in descendants(root):
        try:
            living += cpu_seconds([pid])
        except OSError:  # it ended between two looks
            continue
    return living + ended


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes, shared pages counted in each."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total


def descendants(root: int) -> list[int]:
    """The process `root` and everything it started that still runs below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:  # it ended meanwhile
            continue
        parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, at = [root], 0
    while at < len(found):
        found += parents.get(found[at], [])
        at += 1
    return found


def machine_seconds() -> float:
    """Seconds of CPU the whole machine spent since it started: on anything, and waiting for its own host."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, stolen = (int(field) for field in fields)
    return (user + nice + system + irq + softirq + stolen) / _TICKS
