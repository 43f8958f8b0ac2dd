"""Why a server ends a connection, and whether the client should come back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Closing:
    """``code``: WebSocket close code. ``reconnect_after_ms``: when to come back; None where the same credential
    will not do. ``name``: one of a short, fixed list, for metrics; ``reason`` is for people, and not fixed."""

    name: str
    code: int
    reason: str
    reconnect_after_ms: int | None = None


PROTOCOL_ABUSE = Closing("abuse", 4400, "too many invalid frames")
REVOKED = Closing("revoked", 4401, "session revoked")
EXPIRED = Closing("expired", 4401, "token expired")
SILENT = Closing("silent", 4408, "nothing heard for two heartbeats", 0)
STALLED = Closing("stalled", 4408, "nothing read for two heartbeats", 0)
TOO_MANY = Closing("too_many", 4429, "too many connections")
BINARY = Closing("binary", 1003, "text frames only")


def draining(reconnect_after_ms: int) -> Closing:
    """The instance goes away; come back after that many milliseconds, which differ so that not all come at once."""
    return Closing("drain", 1012, f'{{"reconnect_after_ms": {reconnect_after_ms}}}', reconnect_after_ms)
