"""People of made-up history use it like their own."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import pytest

from realtime.codec import decode_cursor, encode_cursor
from server.commands import SEED_PASSWORD
from server.settings import Settings
from services.security.passwords import PasswordHasher
from storage import log
from storage.database import Database
from tests.acceptance.conftest import Start
from tests.support.clients import Json, Person
from tests.support.replica import Replica
from tests.support.seeded import seed, wrongs


async def read_on(person: Person, cursor: str, seen: list[Json]) -> None:
    """Everything that person missed since the cursor."""
    more = True
    while more:
        answer = await person.poll(cursor, limit=100)
        seen += answer["events"]
        cursor, more = answer["cursor"], answer["more"]


@pytest.mark.allow_blocking
async def test_a_seeded_user_signs_in_reads_and_resumes_within_the_seeded_log(
    start: Start, settings: Settings
) -> None:
    async with Database(str(settings.database_url), pool_size=1) as database:
        async with PasswordHasher(rounds=4) as passwords:
            hashed = await passwords.hash(SEED_PASSWORD)
        await seed(database, users=10, messages=80, log_rows=700, password_hash=hashed, partition_events=300)
        async with database.connection() as connection:
            head = await log.read_head(connection)
    api = await start()
    person = await Person(api, "", "seed000003", "", "", SEED_PASSWORD).sign_in()
    listed = (await person.get("/conversations"))["items"]
    assert len(listed) == 2, "a direct conversation and a group"
    for shown in listed:
        assert shown["unread_count"] == shown["last_seq"] - shown["read_seq"]
        page = (await person.get(f"/conversations/{shown['id']}/messages?after_seq=0&limit=100"))["items"]
        assert [message["seq"] for message in page] == list(range(1, shown["last_seq"] + 1))
        assert shown["last_message"]["id"] == page[-1]["id"]
    fresh = {shown["id"]: await Replica.fetched(person, shown["id"]) for shown in listed}

    everything: list[Json] = []
    await read_on(person, encode_cursor(head.epoch, 0), everything)
    positions = [decode_cursor(event["cursor"]).position for event in everything]
    assert all(one < other for one, other in pairwise(positions))
    copies = {conversation: Replica() for conversation in fresh}
    for event in everything:
        copies[event["topic"]["id"]].apply(deepcopy(event))
    assert {name: copy.state() for name, copy in copies.items()} == {
        name: copy.state() for name, copy in fresh.items()
    }
    for place in (positions[0], positions[len(positions) // 2], positions[-1]):
        again: list[Json] = []
        await read_on(person, encode_cursor(head.epoch, place), again)
        # Reading marks as delivered, which is told behind the seeded log.
        old = [e for e in again if decode_cursor(e["cursor"]).position <= positions[-1]]
        assert old == [e for e, p in zip(everything, positions, strict=True) if p > place]

    said = await person.say(listed[0]["id"], "and on it goes")
    assert said["seq"] == listed[0]["last_seq"] + 1
    async with (
        Database(str(settings.database_url), pool_size=1) as database,
        database.connection() as connection,
    ):
        left = await wrongs(connection)
    assert left == {}
