"""What a start that cannot go on looks like: one line that says what is wrong and what to do."""

from __future__ import annotations


class StartupError(Exception):
    """Parley cannot start, and the operator can do something about it.

    `str(error)` is one plain line: what is wrong, then what to do. The command line prints it on
    stderr without a traceback and exits with `exit_status`.
    """

    exit_status = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(" ".join(f"{problem} {remedy}".split()))
        self.problem = problem
        self.remedy = remedy


class SettingsError(StartupError):
    """A setting is missing or wrong. Exit status 2, as for any wrong use of a command."""

    exit_status = 2
