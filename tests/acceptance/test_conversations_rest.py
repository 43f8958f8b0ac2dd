"""Conversations over REST, as a client meets them. Every answer is held against the OpenAPI document."""

from __future__ import annotations

import json
import uuid
from typing import Any
from urllib.parse import quote

from tests.support.clients import Person

NOWHERE = "0192f0c0-0000-7000-8000-000000000001"


async def problem(person: Person, method: str, path: str, status: int, **more: Any) -> dict[str, Any]:
    return (await person.call(method, path, expect=status, **more)).json


def pointers(told: dict[str, Any]) -> list[str]:
    return [error["pointer"] for error in told["errors"]]


async def test_a_conversation_from_start_to_end(ann: Person, bob: Person, carol: Person) -> None:
    first = await ann.call("POST", "/conversations", json={"kind": "direct", "members": [bob.username]})
    again = await bob.call("POST", "/conversations/", json={"kind": "direct", "members": [ann.id]})
    assert (first.status, again.status) == (201, 200)
    assert first.json["id"] == again.json["id"]
    group = await ann.post("/conversations", {"kind": "group", "title": "Us", "members": [bob.username]})
    path = f"/conversations/{group['id']}"
    assert (await ann.post(f"{path}/members", {"members": [carol.id]}, expect=200))["member_count"] == 3
    sent = await ann.post(f"{path}/messages", {"body": "hi"})
    assert (sent["seq"], sent["status"], sent["client_id"], sent["attachments"]) == (1, "sent", None, [])
    thumb = quote("👍🏽")
    await bob.call("PUT", f"{path}/messages/1/reactions/{thumb}", expect=204)
    await bob.call("PUT", f"{path}/messages/1/reactions/{thumb}/", expect=204)
    shown = await carol.get(f"{path}/messages/1")
    assert shown["reactions"] == [{"emoji": "👍🏽", "count": 1, "user_ids": [bob.id]}]
    await bob.call("DELETE", f"{path}/messages/1/reactions/{thumb}", expect=204)
    for person in (bob, carol):
        await person.call("POST", f"{path}/delivered", json={"seq": 1}, expect=204)
    assert (await ann.get(f"{path}/messages/1"))["status"] == "delivered"
    for person in (bob, carol):
        await person.call("POST", f"{path}/read", json={"seq": 99}, expect=204)
    assert (await ann.get(path))["last_message"]["status"] == "read"
    edited = await ann.call("PATCH", f"{path}/messages/1", json={"body": "hello"}, expect=200)
    assert edited.json["edited_at"] is not None
    assert [t["body"] for t in (await bob.get(f"{path}/messages/1/history"))["items"]] == ["hi"]
    member = await ann.call("PATCH", f"{path}/members/{bob.username}", json={"role": "admin"}, expect=200)
    assert (member.json["role"], member.json["user"]["id"]) == ("admin", bob.id)
    await bob.call("DELETE", f"{path}/messages/1", expect=204)
    await bob.call("DELETE", f"{path}/messages/1", expect=204)
    (stone,) = (await carol.get(f"{path}/messages"))["items"]
    assert (stone["body"], stone["seq"]) == (None, 1)
    assert (await ann.get(f"{path}/messages/1/history"))["items"] == []
    changed = await bob.call("PATCH", path, json={"title": "We", "pinned": True}, expect=200)
    assert (changed.json["title"], changed.json["pinned"]) == ("We", True)
    await bob.call("DELETE", f"{path}/members/{carol.username}", expect=204)
    await problem(carol, "GET", path, 404)
    page = await ann.get(f"{path}/members")
    assert [(m["user"]["id"], m["role"]) for m in page["items"]] == [(ann.id, "owner"), (bob.id, "admin")]


async def test_what_nobody_may_know_of_is_404_before_anything_else(ann: Person, bob: Person) -> None:
    group = await ann.group_with()
    await ann.say(group)
    bad: dict[str, Any] = {"json": {"no": "such field"}}
    for place in (group, NOWHERE, "not-an-id", group.upper() + "0"):
        path = f"/conversations/{place}"
        for method, rest, more in (
            ("GET", "", {}),
            ("PATCH", "", bad),
            ("GET", "/members?limit=0", {}),
            ("POST", "/members", bad),
            ("PATCH", f"/members/{ann.username}", bad),
            ("DELETE", f"/members/{ann.username}", {}),
            ("GET", "/messages?limit=x&before_seq=y", {}),
            ("POST", "/messages", bad),
            ("POST", "/messages", {"data": b"{"}),
            ("POST", "/messages", {"json": {"body": "hi", "attachments": [{"media_id": NOWHERE}]}}),
            ("GET", "/messages/1", {}),
            ("PATCH", "/messages/1", bad),
            ("DELETE", "/messages/1", {}),
            ("GET", "/messages/1/history", {}),
            ("PUT", "/messages/1/reactions/%20", {}),
            ("DELETE", "/messages/1/reactions/%20", {}),
            ("POST", "/read", bad),
            ("POST", "/delivered", bad),
        ):
            told = await problem(bob, method, path + rest, 404, **more)
            assert (told["code"], told["detail"]) == ("not_found", "Not found"), (method, rest)
    path = f"/conversations/{group}"
    for method, rest, more in (
        ("PATCH", "/messages/2", bad),
        ("PATCH", f"/members/{bob.username}", bad),
        ("GET", "/messages/0", {}),
        ("GET", "/messages/-1", {}),
        ("GET", "/messages/01x", {}),
        ("GET", f"/messages/{2**63}", {}),
        ("PUT", f"/messages/2/reactions/{quote('👍')}", {}),
    ):
        await problem(ann, method, path + rest, 404, **more)


async def test_wrong_bodies_are_422_and_name_the_field(ann: Person, bob: Person) -> None:
    group = await ann.group_with(bob)
    path = f"/conversations/{group}"
    name = bob.username
    cases: list[tuple[str, str, object, list[str]]] = [
        ("POST", "/conversations", {"kind": "club", "members": [name]}, ["/kind"]),
        ("POST", "/conversations", {"members": [name]}, ["/kind"]),
        ("POST", "/conversations", {"kind": "direct", "members": [name], "x": 1}, ["/x"]),
        ("POST", "/conversations", {"kind": "direct", "members": name}, ["/members"]),
        ("POST", "/conversations", {"kind": "direct", "members": [7]}, ["/members/0"]),
        ("POST", "/conversations", {"kind": "direct", "members": [ann.username]}, ["/members/0"]),
        ("POST", "/conversations", {"kind": "group", "members": [name]}, ["/title"]),
        ("POST", "/conversations", {"kind": "group", "title": " ", "members": []}, ["/title"]),
        ("POST", "/conversations", {"kind": "group", "title": "x" * 201, "members": []}, ["/title"]),
        ("POST", "/conversations", {"kind": "group", "title": "a\x00b", "members": []}, ["/title"]),
        ("POST", "/conversations", {"kind": "group", "title": "x", "members": ["no.one"]}, ["/members/0"]),
        (
            "POST",
            "/conversations",
            {"kind": "group", "title": "x", "members": [], "history": "none"},
            ["/history"],
        ),
        ("POST", "/conversations", {"kind": "group", "title": "x", "members": [name] * 1001}, ["/members"]),
        ("PATCH", path, {"title": None}, ["/title"]),
        ("PATCH", path, {"history": None, "pinned": None}, ["/history", "/pinned"]),
        ("PATCH", path, {"pinned": 1}, ["/pinned"]),
        ("PATCH", path, {"muted_until": "tomorrow"}, ["/muted_until"]),
        ("PATCH", path, {"muted_until": "2030-01-01T00:00:00"}, ["/muted_until"]),
        ("PATCH", path, {"muted_until": 1893456000}, ["/muted_until"]),
        ("PATCH", path, {"muted_until": "9999-12-31T23:59:59-23:00"}, ["/muted_until"]),
        ("PATCH", path, {"muted_until": "0001-01-01T00:00:00+23:00"}, ["/muted_until"]),
        ("PATCH", path, {"last_seq": 7}, ["/last_seq"]),
        ("POST", f"{path}/members", {"members": []}, ["/members"]),
        ("POST", f"{path}/members", {"members": [name, NOWHERE]}, ["/members/1"]),
        ("PATCH", f"{path}/members/{name}", {"role": "king"}, ["/role"]),
        ("POST", f"{path}/messages", {}, ["/body"]),
        ("POST", f"{path}/messages", {"body": ""}, ["/body"]),
        ("POST", f"{path}/messages", {"body": None}, ["/body"]),
        ("POST", f"{path}/messages", {"body": 7}, ["/body"]),
        ("POST", f"{path}/messages", {"body": "x" * 4001}, ["/body"]),
        ("POST", f"{path}/messages", {"body": "a\x00b"}, ["/body"]),
        ("POST", f"{path}/messages", {"body": "x", "client_id": "7"}, ["/client_id"]),
        ("POST", f"{path}/messages", {"body": "x", "reply_to_seq": 0}, ["/reply_to_seq"]),
        ("POST", f"{path}/messages", {"body": "x", "reply_to_seq": 1}, ["/reply_to_seq"]),
        ("POST", f"{path}/messages", {"body": "x", "reply_to_seq": 2**63}, ["/reply_to_seq"]),
        ("POST", f"{path}/messages", {"body": "x", "reply_to_seq": "1"}, ["/reply_to_seq"]),
        (
            "POST",
            f"{path}/messages",
            {"body": "x", "attachments": [{"media_id": NOWHERE}]},
            ["/attachments/0/media_id"],
        ),
        ("POST", f"{path}/messages", {"body": "x", "attachments": [{}]}, ["/attachments/0/media_id"]),
        ("POST", f"{path}/messages", {"body": "x", "seq": 4}, ["/seq"]),
        ("POST", f"{path}/read", {}, ["/seq"]),
        ("POST", f"{path}/read", {"seq": -1}, ["/seq"]),
        ("POST", f"{path}/read", {"seq": 1.5}, ["/seq"]),
        ("POST", f"{path}/read", {"seq": True}, ["/seq"]),
        ("POST", f"{path}/read", {"seq": 2**63}, ["/seq"]),
        ("POST", f"{path}/delivered", {"seq": "1"}, ["/seq"]),
    ]
    for method, where, body, expected in cases:
        told = await problem(ann, method, where, 422, json=body)
        assert pointers(told) == expected, (method, where, body)
    assert (await ann.get(f"{path}/messages"))["items"] == []
    assert len((await ann.get("/conversations"))["items"]) == 1


async def test_queries_out_of_range_are_422_and_never_clamped(ann: Person) -> None:
    path = f"/conversations/{await ann.group_with()}"
    for where, name in (
        ("/conversations?limit=0", "limit"),
        ("/conversations?limit=101", "limit"),
        ("/conversations?cursor=zzz", "cursor"),
        (f"{path}/members?limit=-1", "limit"),
        (f"{path}/members?cursor=WzEsMl0", "cursor"),
        (f"{path}/messages?limit=101", "limit"),
        (f"{path}/messages?before_seq=-1", "before_seq"),
        (f"{path}/messages?after_seq={2**63}", "after_seq"),
        (f"{path}/messages?after_seq=1_0", "after_seq"),
        (f"{path}/messages?before_seq=1&after_seq=1", "after_seq"),
    ):
        assert pointers(await problem(ann, "GET", where, 422)) == [name], where


async def test_bodies_are_kept_as_given_up_to_4000_code_points(ann: Person, bob: Person) -> None:
    path = f"/conversations/{await ann.direct_with(bob)}/messages"
    for body in ("🙂" * 4000, " \n\t leading", "e\u0301\u200d\u202e", "\ufeff", "\x01\x7f", '{"a": 1}'):
        sent = await ann.post(path, {"body": body})
        assert sent["body"] == body
        assert (await bob.get(f"{path}/{sent['seq']}"))["body"] == body
    lone = await ann.call(
        "POST", path, data=b'{"body": "\\ud83d"}', headers={"Content-Type": "application/json"}
    )
    assert lone.status in (400, 422)


async def test_members_without_the_right_get_403(ann: Person, bob: Person, carol: Person) -> None:
    group, direct = await ann.group_with(bob), await ann.direct_with(bob)
    await ann.say(group)
    for method, where, body in (
        ("PATCH", f"/conversations/{group}", {"title": "Mine"}),
        ("POST", f"/conversations/{group}/members", {"members": [carol.username]}),
        ("PATCH", f"/conversations/{group}/members/{ann.username}", {"role": "member"}),
        ("DELETE", f"/conversations/{group}/members/{ann.username}", None),
        ("PATCH", f"/conversations/{group}/messages/1", {"body": "mine"}),
        ("DELETE", f"/conversations/{group}/messages/1", None),
        ("POST", f"/conversations/{direct}/members", {"members": [carol.username]}),
        ("DELETE", f"/conversations/{direct}/members/{bob.username}", None),
        ("PATCH", f"/conversations/{direct}", {"title": "Mine"}),
    ):
        told = await problem(bob, method, where, 403, json=body)
        assert told["code"] == "forbidden", where
    told = await problem(
        ann, "PATCH", f"/conversations/{group}/members/{ann.id}", 409, json={"role": "admin"}
    )
    assert told["code"] == "last_owner"
    await ann.call("DELETE", f"/conversations/{group}/messages/1", expect=204)
    told = await problem(ann, "PATCH", f"/conversations/{group}/messages/1", 409, json={"body": "back"})
    assert told["code"] == "message_deleted"


async def test_a_block_closes_the_direct_conversation(ann: Person, bob: Person) -> None:
    direct, group = await ann.direct_with(bob), await ann.group_with(bob)
    await ann.say(direct, "before")
    await bob.call("PUT", f"/users/{ann.username}/block", expect=204)
    for person in (ann, bob):
        told = await problem(person, "POST", f"/conversations/{direct}/messages", 403, json={"body": "after"})
        assert told["code"] == "blocked"
        assert (await person.get(f"/conversations/{direct}"))["last_message"]["body"] == "before"
        await person.say(group, "still here")
    told = await problem(ann, "POST", "/conversations", 422, json={"kind": "direct", "members": [bob.id]})
    assert (told["code"], pointers(told)) == ("user_not_found", ["/members/0"])
    await bob.call("DELETE", f"/users/{ann.username}/block", expect=204)
    await ann.say(direct, "after")


async def test_a_client_id_is_good_for_one_message_for_ever(ann: Person, bob: Person, carol: Person) -> None:
    group = await ann.group_with(bob)
    path = f"/conversations/{group}/messages"
    body = {"body": "once", "client_id": str(uuid.uuid4())}
    first = await bob.call("POST", path, json=body, expect=201)
    again = await bob.call("POST", path, json=body, expect=200)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert first.json == again.json
    told = await problem(bob, "POST", path, 409, json={**body, "body": "other"})
    assert told["code"] == "client_id_reused"
    await bob.call("DELETE", f"/conversations/{group}/members/{bob.id}", expect=204)
    gone = await bob.call("POST", path, json=body, expect=200)
    assert gone.json["id"] == first.json["id"]
    await problem(bob, "POST", path, 404, json={"body": "new"})
    assert (await carol.call("POST", path, json=body)).status == 404


async def test_an_idempotency_key_gives_the_first_answer_again(
    ann: Person, bob: Person, carol: Person
) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    body = {"kind": "group", "title": "Once", "members": [bob.username]}
    made = [await ann.call("POST", "/conversations", json=body, headers=key) for _ in range(2)]
    assert [a.status for a in made] == [201, 201]
    assert [a.headers.get("Idempotent-Replayed") for a in made] == [None, "true"]
    assert made[0].json == made[1].json
    told = await problem(ann, "POST", "/conversations", 422, json={**body, "title": "Twice"}, headers=key)
    assert told["code"] == "idempotency_key_reused"
    path = f"/conversations/{made[0].json['id']}"
    key = {"Idempotency-Key": str(uuid.uuid4())}
    sent = [await bob.call("POST", f"{path}/messages", json={"body": "hi"}, headers=key) for _ in range(2)]
    assert [a.status for a in sent] == [201, 201]
    assert sent[0].json == sent[1].json
    assert len((await ann.get(f"{path}/messages"))["items"]) == 1
    await ann.call("DELETE", f"{path}/members/{bob.id}", expect=204)
    kept = await bob.call("POST", f"{path}/messages", json={"body": "hi"}, headers=key)
    assert (kept.status, kept.headers["Idempotent-Replayed"]) == (201, "true")
    key = {"Idempotency-Key": "adding"}
    added = [
        await ann.call("POST", f"{path}/members", json={"members": [carol.id]}, headers=key) for _ in range(2)
    ]
    assert [a.status for a in added] == [200, 200]
    assert added[0].json == added[1].json
    assert added[1].headers["Idempotent-Replayed"] == "true"


async def test_pages_follow_their_cursors(ann: Person, bob: Person) -> None:
    made = [await ann.group_with(bob) for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await ann.get(f"/conversations?limit=2{cursor and f'&cursor={cursor}'}")
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == made[::-1]
    members: list[str] = []
    cursor = ""
    while cursor is not None:
        page = await bob.get(f"/conversations/{made[0]}/members?limit=1{cursor and f'&cursor={cursor}'}")
        members += [item["user"]["username"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert sorted(members) == sorted([ann.username, bob.username])


async def test_emoji_in_paths_are_text(ann: Person, bob: Person) -> None:
    path = f"/conversations/{await ann.direct_with(bob)}/messages/1/reactions"
    await ann.say(path.split("/")[2])
    for emoji in ("👍", "❤️", "👩🏽\u200d❤️\u200d💋\u200d👨🏿", ":+1:", "1️⃣", "%", "a/b", "?#"):
        await bob.call("PUT", f"{path}/{quote(emoji, safe='')}", expect=204)
    shown = await ann.get(path.removesuffix("/reactions"))
    assert [r["emoji"] for r in shown["reactions"]][-3:] == ["%", "a/b", "?#"]
    for bad in ("%20", "%0A", "x" * 65, quote("👍" * 17)):
        told = await ann.call("PUT", f"{path}/{bad}")
        assert told.status == 422, bad
        assert json.loads(told.text)["errors"][0]["pointer"] == "emoji"


async def test_a_time_of_ones_own_is_given_back_as_it_was_set_in_utc(ann: Person) -> None:
    path = f"/conversations/{await ann.group_with()}"
    for given, shown in (
        ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00Z"),
        ("2030-01-01T02:00:00+02:00", "2030-01-01T00:00:00Z"),
        ("2030-01-01T00:00:00.25Z", "2030-01-01T00:00:00.250000Z"),
    ):
        changed = await ann.call("PATCH", path, json={"muted_until": given}, expect=200)
        assert changed.json["muted_until"] == shown
        assert (await ann.get(path))["muted_until"] == shown
