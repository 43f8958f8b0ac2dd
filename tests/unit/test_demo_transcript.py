"""What a viewer of the demo sees follows from the events that one member was sent."""

from __future__ import annotations

from demo.frames import Frame, Json
from demo.transcript import Transcript

NAMES = {"1": "ada", "2": "ben", "3": "cleo"}


def event(type_: str, **data: object) -> Frame:
    return Frame(type_, "cursor", dict(data))


def said(seq: int, sender: str, body: str) -> Frame:
    return event("message.created", seq=seq, sender_id=sender, client_id=f"id-{seq}", body=body)


def played(*frames: Frame) -> Transcript:
    transcript = Transcript(NAMES)
    for frame in frames:
        transcript.apply(frame)
    return transcript


def test_messages_stand_in_the_order_of_their_numbers() -> None:
    transcript = played(said(1, "1", "one"), said(2, "2", "two"), said(3, "1", "three"))
    assert [(line.sender, line.body) for line in transcript.tail(2)] == [("ben", "two"), ("ada", "three")]


def test_an_edit_shows_the_new_text_and_that_it_was_edited() -> None:
    line = played(said(1, "1", "ten"), event("message.updated", seq=1, body="nine")).lines[1]
    assert (line.body, line.is_edited) == ("nine", True)


def test_an_update_without_a_new_text_is_no_edit() -> None:
    assert not played(said(1, "1", "ten"), event("message.updated", seq=1, body="ten")).lines[1].is_edited


def test_a_deleted_message_shows_neither_text_nor_reactions() -> None:
    transcript = played(
        said(1, "1", "secret"),
        event("reaction.added", seq=1, user_id="2", emoji="👍"),
        event("message.deleted", seq=1),
    )
    assert (transcript.lines[1].body, transcript.lines[1].reactions) == (None, [])


def test_a_read_receipt_covers_everything_up_to_its_number_but_ones_own() -> None:
    transcript = played(said(1, "1", "a"), said(2, "2", "b"), event("receipt.read", user_id="2", seq=2))
    assert transcript.lines[1].readers == {"ben"}
    assert transcript.lines[2].readers == set()


def test_a_read_receipt_may_come_before_the_message() -> None:
    transcript = played(event("receipt.read", user_id="2", seq=3), said(1, "1", "a"))
    assert transcript.lines[1].readers == {"ben"}


def test_typing_ends_with_the_message_or_when_it_is_said_to() -> None:
    typing = event("typing.started", user_id="2")
    assert played(typing, typing).typing == ["ben"]
    assert played(typing, said(1, "2", "done")).typing == []
    assert played(typing, event("typing.stopped", user_id="2")).typing == []


def test_changes_keep_the_text_as_it_was() -> None:
    transcript = played(said(1, "1", "ten"), event("message.updated", seq=1, body="nine"))
    assert [(change.verb, change.body) for change in transcript.changes] == [
        ("says", "ten"),
        ("edits", "nine"),
    ]


def test_events_about_what_was_never_seen_are_passed_over() -> None:
    unseen: list[tuple[str, Json]] = [
        ("message.updated", {"seq": 9, "body": "x"}),
        ("message.deleted", {"seq": 9}),
        ("reaction.added", {"seq": 9, "user_id": "1", "emoji": "👍"}),
        ("conversation.updated", {}),
    ]
    assert played(*(event(type_, **data) for type_, data in unseen)).lines == {}
