"""What is played: who sits where, and what they say before they start to count."""

from __future__ import annotations

from dataclasses import dataclass

from demo.transports import Transport

INSTANCES = ("west", "east")
"""`west` is the one that is killed."""

CAST = (
    ("ada", Transport.WS, "west"),
    ("ben", Transport.SSE, "west"),
    ("cleo", Transport.POLL, "west"),
    ("dev", Transport.WS, "east"),
    ("eva", Transport.SSE, "east"),
    ("finn", Transport.POLL, "east"),
)
VIEWER = "ada"
"""Whose screen is shown. On the instance that is killed, so that it shows what that does."""

TITLE = "Perseids"


@dataclass(frozen=True, slots=True)
class Say:
    """A message; `label` names it for what is done to it later."""

    who: str
    text: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Edit:
    who: str
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class React:
    who: str
    label: str
    emoji: str


@dataclass(frozen=True, slots=True)
class Delete:
    who: str
    label: str


Step = Say | Edit | React | Delete

DIALOGUE: tuple[Step, ...] = (
    Say("ada", "Shooting stars on Saturday! Who is in?", "call"),
    Say("dev", "Me. Where do we meet?"),
    React("cleo", "call", "🌠"),
    Say("finn", "At the station, half past nine?", "plan"),
    Say("ben", "Make it nine, the hill takes an hour."),
    Edit("finn", "plan", "At the station, nine o'clock?"),
    React("eva", "plan", "👍"),
    Say("cleo", "I bring soup. Gate code is 4711.", "code"),
    Say("eva", "Cleo! Should everybody know that?"),
    Delete("cleo", "code"),
    Say("cleo", "What code? 😇"),
    Say("ben", "And if the line drops, up there?"),
    Say("ada", "Then we read on where we were. Let's test it."),
    Say("dev", "All count! And somebody pull a plug."),
)
