"""What makes a fast but wrong server fail: every receiver must see every message, once and in order."""

from __future__ import annotations

from collections.abc import Sequence


class WrongError(Exception):
    """The server under load lost, doubled, reordered or refused something; the figures are void."""


class SequenceChecker:
    """Follows what one receiver sees of one conversation.

    `seq` numbers start anywhere and then have no holes: every number must be the one before plus one.
    """

    __slots__ = ("_name", "count", "first", "last")

    def __init__(self, name: str) -> None:
        self._name = name
        self.count = 0
        self.first: int | None = None
        self.last: int | None = None

    def see(self, seq: int) -> None:
        """Raises WrongError when `seq` does not directly follow the one before."""
        last = self.last
        if last is None:
            self.first = seq
        elif seq != last + 1:
            what = "doubled or reordered" if seq <= last else "lost"
            raise WrongError(f"{self._name}: seq {seq} came after {last} ({what})")
        self.last = seq
        self.count += 1

    def finish(self, expected: int) -> None:
        """Raises WrongError unless exactly `expected` messages came."""
        if self.count != expected:
            raise WrongError(f"{self._name}: {self.count} messages came, {expected} were expected")


def check_burst(name: str, seen: Sequence[tuple[int, int]], first_number: int, expected: int) -> None:
    """One receiver's view of one burst: `seen` holds (seq, number) of each message in order of arrival.

    Numbers are the publisher's own, in its message bodies; they and the server's seqs must both rise by one
    from message to message, the numbers from `first_number`. Raises WrongError.
    """
    if len(seen) != expected:
        raise WrongError(f"{name}: {len(seen)} messages came, {expected} were expected")
    seqs = SequenceChecker(f"{name} (server's seq)")
    for offset, (seq, number) in enumerate(seen):
        seqs.see(seq)
        if number != first_number + offset:
            raise WrongError(f"{name}: message {number} came where {first_number + offset} was expected")
