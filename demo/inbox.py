"""What one receiver was given, exactly as it came: nothing is sorted, dropped or told apart here."""

from __future__ import annotations

from dataclasses import dataclass, field

from demo.frames import Frame


@dataclass(frozen=True, slots=True)
class Copy:
    """One message as it was received."""

    seq: int
    client_id: str


@dataclass(slots=True)
class Inbox:
    """`events` holds the cursor of every durable event, `copies` every message, both in order of arrival."""

    events: list[str] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    resyncs: int = 0
    last_seq: int = 0

    def take(self, frame: Frame) -> bool:
        """Notes a frame. True where it brought a message."""
        if frame.type == "resync":
            self.resyncs += 1
        if not frame.is_durable or frame.cursor is None:
            return False
        self.events.append(frame.cursor)
        if frame.type != "message.created":
            return False
        self.copies.append(Copy(frame.data["seq"], frame.data["client_id"]))
        self.last_seq = max(self.last_seq, frame.data["seq"])
        return True
