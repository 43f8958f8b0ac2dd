"""Requests with something wrong in them: which wrong is told first, and by what name."""

from __future__ import annotations

import pytest

from tests.support.house import House

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.allow_blocking]


async def test_a_page_in_two_directions_tells_a_stranger_nothing(house: House) -> None:
    ann, bob, eve = await house.people(3)
    path = f"/conversations/{await ann.group_with(bob)}/messages?after_seq=1&before_seq=3"
    refused = await ann.get(path, expect=422)
    assert [error["pointer"] for error in refused["errors"]] == ["after_seq"]
    assert (await eve.get(path, expect=404))["code"] == "not_found"


async def test_a_page_cursor_that_no_list_gave_out_tells_a_stranger_nothing(house: House) -> None:
    ann, bob, eve = await house.people(3)
    group = await ann.group_with(bob)
    await ann.get(f"/conversations/{group}/members?cursor=zz", expect=422)
    told = await eve.get(f"/conversations/{group}/members?cursor=zz", expect=404)
    assert told["code"] == "not_found"


@pytest.mark.parametrize("cursor", ["%00", "a%00b", "%F0%9F%98%80", "A" * 3000])
async def test_no_realtime_cursor_is_an_http_error(house: House, cursor: str) -> None:
    [ann] = await house.people(1)
    answer = await ann.get(f"/realtime/poll?wait=0&cursor={cursor}")
    assert [event["reason"] for event in answer["events"]] == ["cursor_invalid"]


async def test_a_ticket_that_is_no_text_is_no_credential(house: House) -> None:
    assert (await house.api.call("GET", "/realtime/poll?ticket=%00")).status == 401


async def test_typing_needs_no_body_takes_a_seq_and_names_what_it_does_not_know(house: House) -> None:
    ann, bob, eve = await house.people(3)
    path = f"/conversations/{await ann.group_with(bob)}/typing"
    for fine in (None, {}, {"seq": 1}):
        assert (await ann.call("POST", path, json=fine)).status == 204
    refused = await ann.post(path, {"typing": True}, expect=422)
    assert [error["pointer"] for error in refused["errors"]] == ["/typing"]
    assert (
        await ann.call("POST", path, data=b"{", headers={"Content-Type": "application/json"})
    ).status == 400
    assert (await eve.call("POST", path, data=b"{")).status == 404


async def test_a_direct_conversation_with_nobody_names_the_field(house: House) -> None:
    [ann] = await house.people(1)
    refused = await ann.post("/conversations", {"kind": "direct", "members": []}, expect=422)
    assert [error["pointer"] for error in refused["errors"]] == ["/members"]
