"""What people do: every kind of write and read there is, by WebSocket where they have one, else by REST."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from soak.person import Chat, Person

Command = Callable[[str, Mapping[str, Any]], Awaitable[None]]
"""Sends a WebSocket command: `op` and `data`."""

_EMOJI = ("👍", "🎉", "❤️", "😀")


async def do_something(person: Person, command: Command | None) -> None:
    """One deed, chosen by weight. With a `command`, half of those that have one go that way."""
    deeds = tuple(_DEEDS)
    (deed,) = person.rng.choices(deeds, [_DEEDS[deed] for deed in deeds])
    await deed(person, command if person.rng.random() < 0.5 else None)


async def _send(person: Person, command: Command | None) -> None:
    chat = person.some_chat()
    data: dict[str, object] = {
        "client_id": person.new_id(),
        "body": "x" * person.rng.choice((20, 200, 200, 2000)),
    }
    if command is not None:
        await command("message.send", {"conversation_id": chat.id, **data})
        return
    path = f"/conversations/{chat.id}/messages"
    await person.call("send", "POST", path, data)
    if person.rng.random() < 0.1:  # the answer got lost: once more
        await person.call("send again", "POST", path, data)


async def _edit(person: Person, command: Command | None) -> None:
    if not person.mine:
        return
    conversation, seq = person.rng.choice(person.mine)
    body = "edited " * person.rng.randint(1, 20)
    if command is not None:
        await command("message.edit", {"conversation_id": conversation, "seq": seq, "body": body})
    else:
        await person.call("edit", "PATCH", f"/conversations/{conversation}/messages/{seq}", {"body": body})


async def _delete(person: Person, command: Command | None) -> None:
    if not person.mine:
        return
    conversation, seq = person.mine.popleft()
    if command is not None:
        await command("message.delete", {"conversation_id": conversation, "seq": seq})
    else:
        await person.call("delete", "DELETE", f"/conversations/{conversation}/messages/{seq}")


async def _react(person: Person, command: Command | None) -> None:
    chat = person.some_chat()
    if not chat.last_seq:
        return
    seq = person.rng.randint(max(1, chat.last_seq - 5), chat.last_seq)
    emoji, add = person.rng.choice(_EMOJI), person.rng.random() < 0.6
    if command is not None:
        op = "reaction.add" if add else "reaction.remove"
        await command(op, {"conversation_id": chat.id, "seq": seq, "emoji": emoji})
    else:
        path = f"/conversations/{chat.id}/messages/{seq}/reactions/{emoji}"
        await person.call("react" if add else "unreact", "PUT" if add else "DELETE", path)


async def _receipt(person: Person, command: Command | None) -> None:
    chat, what = person.some_chat(), person.rng.choice(("read", "delivered"))
    if command is not None:
        await command(f"conversation.{what}", {"conversation_id": chat.id, "seq": chat.last_seq})
    else:
        await person.call(what, "POST", f"/conversations/{chat.id}/{what}", {"seq": chat.last_seq})


async def _type(person: Person, command: Command | None) -> None:
    chat = person.some_chat()
    if command is not None:
        await command(person.rng.choice(("typing.start", "typing.stop")), {"conversation_id": chat.id})
    else:
        await person.call("typing", "POST", f"/conversations/{chat.id}/typing")


async def _watch(person: Person, command: Command | None) -> None:
    if command is not None:
        op = person.rng.choice(("presence.subscribe", "presence.unsubscribe"))
        await command(op, {"user_ids": person.rng.sample(person.some_chat().others, 1)})


async def _acknowledge(person: Person, command: Command | None) -> None:
    if command is not None and person.cursor is not None:
        await command("ack", {"cursor": person.cursor})


async def _look(person: Person, command: Command | None) -> None:
    chat = person.some_chat()
    path = person.rng.choice(
        (
            "/conversations?limit=10",
            "/users/me",
            "/auth/sessions",
            f"/conversations/{chat.id}",
            f"/conversations/{chat.id}/members",
            f"/conversations/{chat.id}/messages?limit=30",
        )
    )
    await person.call("look", "GET", path)


async def _refresh(person: Person, command: Command | None) -> None:
    await person.renew()
    if command is not None:
        await command("auth.refresh", {"access_token": person.access})


async def _members(person: Person, command: Command | None) -> None:
    """An owner takes somebody out of a group, and next time in again."""
    owned = [chat for chat in person.chats if chat.owned]
    if not owned:
        return
    chat: Chat = person.rng.choice(owned)
    path = f"/conversations/{chat.id}/members"
    if chat.away is not None:
        await person.call("take in", "POST", path, {"members": [chat.away]})
        chat.away = None
    else:
        chat.away = person.rng.choice(chat.others)
        await person.call("take out", "DELETE", f"{path}/{chat.away}")


async def _profile(person: Person, command: Command | None) -> None:
    await person.call("profile", "PATCH", "/users/me", {"bio": "b" * person.rng.randint(1, 100)})


async def _ticket(person: Person, command: Command | None) -> None:
    key = person.new_id()
    await person.call(
        "ticket",
        "POST",
        "/realtime/tickets",
        {"cookie": person.rng.random() < 0.5},
        **{"Idempotency-Key": key},
    )


_DEEDS: Mapping[Callable[[Person, Command | None], Awaitable[None]], float] = {
    _send: 8,
    _edit: 2,
    _delete: 1,
    _react: 3,
    _receipt: 4,
    _type: 3,
    _watch: 2,
    _acknowledge: 2,
    _look: 3,
    _refresh: 0.5,
    _members: 4,
    _profile: 0.3,
    _ticket: 0.5,
}
