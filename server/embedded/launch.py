"""Starts one program under another account, detached or not. Run as a script, never imported.

    python -I -S launch.py '{"argv": […], "detach": true, …}'

It stands between Parley and the embedded services for three reasons:

- PostgreSQL refuses to run as root. Started by root, this gives up root for the account asked for.
  Where that account cannot walk to the program or its data (a checkout under `/root`, mode 0700), it
  keeps the one Linux capability to pass directories (CAP_DAC_READ_SEARCH, else CAP_DAC_OVERRIDE),
  so that no directory's mode has to be opened to everyone.
- A service must not hear the terminal's Ctrl-C and must outlive the instance that started it, since
  others may share it: detached, it gets a session of its own and init as its parent.
- It must not inherit Parley's environment, where the secrets are.

Detached, it prints the program's process id and exits 0 at once; else it becomes the program.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import TypedDict

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2
_CAPABILITY_VERSION_3 = 0x20080522


class Job(TypedDict):
    """What to run. `uid` and `gid` are None to stay who we are; `log` None to keep stdout and stderr."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    uid: int | None
    gid: int | None
    reach: list[str]
    log: str | None
    detach: bool


def main() -> None:
    job: Job = json.loads(sys.argv[1])
    os.umask(0o077)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    log = None if job["log"] is None else os.open(job["log"], flags, 0o600)
    if job["uid"] is not None and job["gid"] is not None:
        _become(job["uid"], job["gid"], job["argv"][0], job["reach"])
    if job["detach"]:
        _detach()
    os.chdir(job["cwd"])
    if log is not None:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
    os.execve(job["argv"][0], job["argv"], job["env"])  # noqa: S606  (replacing this process is the point)


def _detach() -> None:
    """Goes on in a child with a session of its own; the parent tells its process id and ends."""
    if (child := os.fork()) != 0:
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os._exit(0)
    os.setsid()


def _become(uid: int, gid: int, program: str, reach: list[str]) -> None:
    """Gives up root for good, but for one capability where `program` or `reach` are out of reach without."""
    anyone_may_execute = bool(os.stat(program).st_mode & 0o001)
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    # access(2) judges by the real uid and leaves capabilities out, so this asks about the bare account.
    if all(os.access(path, os.X_OK) for path in [program, *reach]):
        _keep(None)
    elif not (anyone_may_execute and _keep(CAP_DAC_READ_SEARCH)) and not _keep(CAP_DAC_OVERRIDE):
        sys.stderr.write(f"the account with uid {uid} cannot reach {program} and {' and '.join(reach)}\n")
        sys.exit(126)


def _keep(capability: int | None) -> bool:
    """Keeps one capability, now and after exec, and drops all others. False where it is not ours to keep."""
    if sys.platform != "linux":
        return capability is None
    # capset(2), version 3: two 32-bit words, each of effective, permitted and inheritable.
    bits = 0 if capability is None else 1 << capability
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)
    if _libc().capset(ctypes.byref(header), ctypes.byref(data)) != 0:
        return False
    return capability is None or _libc().prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.stderr.write(f"{error.strerror}: {error.filename or sys.argv[1][:200]}\n")
        sys.exit(126)
