"""Every durable event says all that changed: an old copy and the events since make a freshly fetched one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from realtime.events import CATALOGUE
from tests.support.clients import Json, Person
from tests.support.replica import Replica


@dataclass(frozen=True)
class Scene:
    """A group that ann leads, bob and carol are in and bob keeps a copy of, with three messages."""

    ann: Person
    bob: Person
    carol: Person
    dora: Person
    group: str

    @property
    def path(self) -> str:
        return f"/conversations/{self.group}"


async def create(s: Scene) -> None:
    await s.carol.group_with(s.bob, title="Another")


async def send(s: Scene) -> None:
    await s.ann.say(s.group, "four", reply_to_seq=1)
    await s.carol.say(s.group, "five \N{ROCKET}\u2028")


async def edit(s: Scene) -> None:
    await s.ann.call("PATCH", f"{s.path}/messages/1", json={"body": "one, better"}, expect=200)


async def delete(s: Scene) -> None:
    await s.bob.call("PUT", f"{s.path}/messages/1/reactions/%F0%9F%91%8D", expect=204)
    await s.ann.call("DELETE", f"{s.path}/messages/1", expect=204)


async def react(s: Scene) -> None:
    for person in (s.ann, s.carol, s.bob):
        await person.call("PUT", f"{s.path}/messages/2/reactions/%F0%9F%91%8D", expect=204)
    await s.ann.call("PUT", f"{s.path}/messages/2/reactions/%E2%9D%A4", expect=204)


async def unreact(s: Scene) -> None:
    await react(s)
    await s.carol.call("DELETE", f"{s.path}/messages/2/reactions/%F0%9F%91%8D", expect=204)
    await s.ann.call("DELETE", f"{s.path}/messages/2/reactions/%E2%9D%A4", expect=204)


async def rename(s: Scene) -> None:
    await s.ann.call("PATCH", s.path, json={"title": "Renamed", "history": "all"}, expect=200)


async def add(s: Scene) -> None:
    await s.ann.call("POST", f"{s.path}/members", json={"members": [s.dora.username]}, expect=200)


async def remove(s: Scene) -> None:
    await s.ann.call("DELETE", f"{s.path}/members/{s.carol.username}", expect=204)


async def be_removed(s: Scene) -> None:
    await s.ann.call("DELETE", f"{s.path}/members/{s.bob.username}", expect=204)


async def promote(s: Scene) -> None:
    await s.ann.call("PATCH", f"{s.path}/members/{s.carol.username}", json={"role": "admin"}, expect=200)


async def read(s: Scene) -> None:
    await s.ann.call("POST", f"{s.path}/read", json={"seq": 3}, expect=204)


async def receive(s: Scene) -> None:
    await s.carol.call("POST", f"{s.path}/delivered", json={"seq": 2}, expect=204)


async def end_another_sign_in(s: Scene) -> None:
    device = await s.bob.sign_in()
    await device.call("POST", "/auth/logout", expect=204)


Action = Callable[[Scene], Awaitable[None]]

ACTIONS: dict[str, Action] = {
    "message.created": send,
    "message.updated": edit,
    "message.deleted": delete,
    "reaction.added": react,
    "reaction.removed": unreact,
    "receipt.delivered": receive,
    "receipt.read": read,
    "conversation.created": create,
    "conversation.updated": rename,
    "member.added": add,
    "member.removed": remove,
    "member.updated": promote,
    "session.revoked": end_another_sign_in,
}


@pytest.fixture
async def scene(ann: Person, bob: Person, carol: Person) -> Scene:
    dora = await ann.api.register()
    group = await ann.group_with(bob, carol)
    for n, person in enumerate((ann, bob, carol), 1):
        await person.say(group, f"number {n}")
    return Scene(ann, bob, carol, dora, group)


async def told(person: Person, cursor: str, last: str) -> list[Json]:
    """The events after the cursor, up to and including one of the type ``last``."""
    events: list[Json] = []
    while not any(event["type"] == last for event in events):
        answer = await person.poll(cursor, wait=5)
        events += answer["events"]
        cursor = answer["cursor"]
    rest: list[Json] = (await person.poll(cursor))["events"]
    return events + rest


def test_every_type_of_the_catalogue_has_its_scene() -> None:
    assert ACTIONS.keys() == CATALOGUE.keys()


@pytest.mark.parametrize(
    "type_", [t for t in ACTIONS if not t.startswith(("receipt.", "session.", "conversation.created"))]
)
async def test_an_old_copy_and_the_events_since_make_a_fresh_one(scene: Scene, type_: str) -> None:
    replica = await Replica.fetched(scene.bob, scene.group)
    cursor = (await scene.bob.poll())["cursor"]
    await ACTIONS[type_](scene)
    for event in await told(scene.bob, cursor, type_):
        replica.apply(event)
    fresh = await Replica.fetched(scene.bob, scene.group)
    assert fresh.messages
    assert replica.state() == fresh.state()


async def test_a_new_conversation_is_told_whole(scene: Scene) -> None:
    cursor = (await scene.bob.poll())["cursor"]
    await create(scene)
    events = await told(scene.bob, cursor, "conversation.created")
    created = next(event for event in events if event["type"] == "conversation.created")
    replica = Replica()
    replica.apply(created)
    assert replica.conversation is not None
    fresh = await Replica.fetched(scene.bob, replica.conversation["id"])
    assert replica.state() == fresh.state()
    assert replica.conversation["members"] == list(fresh.members.values())


async def test_receipts_say_what_rest_says(scene: Scene) -> None:
    replica = await Replica.fetched(scene.bob, scene.group)
    cursor = (await scene.bob.poll())["cursor"]
    await receive(scene)
    await read(scene)
    for event in await told(scene.bob, cursor, "receipt.read"):
        replica.apply(event)
    places = replica.receipts
    own = await scene.bob.get(f"{scene.path}/messages/2")
    assert places[scene.ann.id]["read"] == 3
    assert own["status"] == "read", "carol has sent number 3, so she has read what came before"


async def test_who_is_removed_is_told_so_and_keeps_nothing(scene: Scene) -> None:
    replica = await Replica.fetched(scene.bob, scene.group)
    cursor = (await scene.bob.poll())["cursor"]
    await be_removed(scene)
    await scene.ann.say(scene.group, "behind his back")
    events = await told(scene.bob, cursor, "member.removed")
    for event in events:
        replica.apply(event)
    assert scene.bob.id not in replica.members
    assert not any(event["type"] == "message.created" for event in events)
    assert (await Replica.fetched(scene.bob, scene.group)).conversation is None


async def test_the_end_of_a_sign_in_is_told_to_the_others_of_its_user(scene: Scene) -> None:
    replica = Replica()
    cursor = (await scene.bob.poll())["cursor"]
    before = {session["id"] for session in (await scene.bob.get("/auth/sessions"))["items"]}
    await end_another_sign_in(scene)
    for event in await told(scene.bob, cursor, "session.revoked"):
        replica.apply(event)
    after = {session["id"] for session in (await scene.bob.get("/auth/sessions"))["items"]}
    assert len(replica.ended) == 1
    assert replica.ended[0] not in before | after
