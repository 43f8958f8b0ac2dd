"""What instances tell each other of typing and presence: read as written, and anything else refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.ids import ConversationId, UserId
from realtime.live import (
    PresenceHint,
    TypingHint,
    decode_presence,
    decode_typing,
    encode_presence,
    encode_typing,
)

users = st.uuids().map(UserId)
times = st.floats(min_value=0, max_value=2**40, allow_nan=False)
typing_hints = st.builds(
    TypingHint, st.uuids().map(ConversationId), users, st.booleans(), st.frozensets(users, max_size=4)
)
presence_hints = st.builds(
    PresenceHint,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(users, max_size=4),
    st.dictionaries(users, times, max_size=4),
    st.lists(users, max_size=4),
)
junk = st.binary(max_size=80) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
).map(lambda value: repr(value).replace("'", '"').encode())


@given(typing_hints)
def test_a_typing_hint_is_read_as_it_was_written(hint: TypingHint) -> None:
    assert decode_typing(encode_typing(hint)) == hint


@given(presence_hints)
def test_a_presence_hint_is_read_as_it_was_written(hint: PresenceHint) -> None:
    assert decode_presence(encode_presence(hint)) == hint


@given(junk)
def test_anything_else_is_a_value_error_and_nothing_worse(payload: bytes) -> None:
    """Junk may happen to be a hint, as `["", [], {}, []]` is."""
    for decode in (decode_typing, decode_presence):
        try:
            hint = decode(payload)
        except ValueError:
            continue
        assert isinstance(hint, TypingHint | PresenceHint)


@given(typing_hints, presence_hints)
def test_one_is_not_taken_for_the_other(typing: TypingHint, presence: PresenceHint) -> None:
    with pytest.raises(ValueError):
        decode_presence(encode_typing(typing))
    with pytest.raises(ValueError):
        decode_typing(encode_presence(presence))
