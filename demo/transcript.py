"""A conversation as one of its members sees it: a model that is only ever told events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from demo.frames import Frame, Json


@dataclass(slots=True)
class Line:
    """One message. `body` is None once it is deleted."""

    seq: int
    sender: str
    client_id: str
    body: str | None
    is_edited: bool = False
    reactions: list[str] = field(default_factory=list)
    readers: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Change:
    """What an event did, in words; `line` where it was to one message, `body` its text at that moment."""

    who: str
    verb: str
    line: Line | None
    body: str


class Transcript:
    """Built from a member's events alone, in the order in which they came.

    `names` gives the name to a user id; `changes` grows by what a reader would want to be told, and is never cut.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self.lines: dict[int, Line] = {}
        self.typing: list[str] = []
        self.changes: list[Change] = []
        self._read: dict[str, int] = {}

    def apply(self, frame: Frame) -> None:
        """Unknown kinds are passed over."""
        data = frame.data
        match frame.type:
            case "message.created":
                self._created(data)
            case "message.updated":
                self._updated(data)
            case "message.deleted":
                self._deleted(data)
            case "reaction.added":
                self._reacted(data)
            case "receipt.read":
                self._has_read(self._name(data["user_id"]), data["seq"])
            case "typing.started":
                name = self._name(data["user_id"])
                if name not in self.typing:
                    self.typing.append(name)
                    self._note(name, "is typing", None)
            case "typing.stopped":
                self._stopped_typing(self._name(data["user_id"]))

    def tail(self, count: int) -> list[Line]:
        """The newest lines, oldest first."""
        return [self.lines[seq] for seq in sorted(self.lines)[-count:]]

    def _created(self, data: Json) -> None:
        sender = self._name(data["sender_id"])
        self._stopped_typing(sender)
        line = Line(data["seq"], sender, data["client_id"], data["body"])
        line.readers = {name for name, seq in self._read.items() if seq >= line.seq and name != sender}
        self.lines[line.seq] = line
        self._note(sender, "says", line)

    def _deleted(self, data: Json) -> None:
        if (line := self.lines.get(data["seq"])) is not None:
            line.body, line.reactions = None, []
            self._note(line.sender, "deletes", line)

    def _reacted(self, data: Json) -> None:
        if (line := self.lines.get(data["seq"])) is not None:
            line.reactions.append(data["emoji"])
            self._note(self._name(data["user_id"]), f"reacts {data['emoji']} to", line)

    def _updated(self, data: Json) -> None:
        line = self.lines.get(data["seq"])
        if line is not None and data["body"] != line.body:
            line.body, line.is_edited = data["body"], True
            self._note(line.sender, "edits", line)

    def _has_read(self, reader: str, up_to: int) -> None:
        before = self._read.get(reader, 0)
        self._read[reader] = max(before, up_to)
        for seq in range(before + 1, up_to + 1):
            if (line := self.lines.get(seq)) is not None and line.sender != reader:
                line.readers.add(reader)

    def _stopped_typing(self, name: str) -> None:
        if name in self.typing:
            self.typing.remove(name)

    def _note(self, who: str, verb: str, line: Line | None) -> None:
        self.changes.append(Change(who, verb, line, line.body or "" if line else ""))

    def _name(self, user_id: str) -> str:
        return self._names.get(user_id, "somebody")
