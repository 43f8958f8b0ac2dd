"""Where a connection begins, and what its cursor says has arrived."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from domain.identity import Identity, Permission
from domain.ids import DEFAULT_TENANT, SessionId, TenantId, UserId, new_id
from domain.log import inbox
from handlers.realtime import begin
from realtime.codec import encode_cursor
from tests.support.fakes import user
from tests.support.instances import instance
from tests.support.simulated import simulated


class Noted:
    """Takes the place of the marks."""

    def __init__(self) -> None:
        self.positions: list[int] = []

    def mark(self, tenant: TenantId, who: UserId, position: int) -> None:
        self.positions.append(position)


@simulated
async def test_what_a_cursor_says_has_arrived_is_noted_once_however_often_its_client_comes_back() -> None:
    async with instance() as it:
        ann, marks = user(), Noted()
        for _ in range(4):
            it.log.append(inbox(ann))
        realtime: Any = SimpleNamespace(hub=it.hub, marks=marks)
        identity = Identity(DEFAULT_TENANT, ann, SessionId(new_id()), Permission(0), 1e12)
        for position in (2, 2, 1, 3, 3):
            await begin(realtime, identity, encode_cursor(it.log.epoch, position))
        await begin(realtime, identity, None)
        await begin(realtime, identity, "no cursor")
        assert marks.positions == [2, 3]


@simulated
async def test_a_place_found_a_moment_ago_is_found_anew_where_the_log_was_replaced_meanwhile() -> None:
    async with instance() as it:
        ann, marks = user(), Noted()
        for _ in range(4):
            it.log.append(inbox(ann))
        realtime: Any = SimpleNamespace(hub=it.hub, marks=marks)
        identity = Identity(DEFAULT_TENANT, ann, SessionId(new_id()), Permission(0), 1e12)
        cursor = encode_cursor(it.log.epoch, 2)
        _, place = await begin(realtime, identity, cursor)
        assert (await begin(realtime, identity, cursor, place))[1] is place
        it.log.restore(3)
        await it.reader.read_head()
        _, anew = await begin(realtime, identity, cursor, place)
        assert (anew.epoch, anew.resync) == (it.log.epoch, "epoch_changed")
