"""What a client keeps of a conversation, kept right by events alone. Shares no code with the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.clients import Json, Person

PERSONAL = ("read_seq", "unread_count", "last_message", "role", "muted_until", "pinned")


@dataclass
class Replica:
    """One member's copy of a conversation: what REST gave once, and what every event since has changed.

    ``status`` is by REST only, and what differs by member is not in events, so neither is compared.
    """

    conversation: Json | None = None
    members: dict[str, Json] = field(default_factory=dict)
    messages: dict[int, Json] = field(default_factory=dict)
    receipts: dict[str, Json] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    @classmethod
    async def fetched(cls, person: Person, conversation: str) -> Replica:
        """A fresh copy from REST; empty where the conversation is not visible."""
        answer = await person.call("GET", f"/conversations/{conversation}")
        if answer.status == 404:
            return cls()
        shown = answer.json
        members = (await person.get(f"/conversations/{conversation}/members?limit=100"))["items"]
        messages = (await person.get(f"/conversations/{conversation}/messages?limit=100"))["items"]
        return cls(
            {name: value for name, value in shown.items() if name not in PERSONAL},
            {member["user"]["id"]: member for member in members},
            {message["seq"]: _public(message) for message in messages},
        )

    def state(self) -> Json:
        """What can be compared with another copy."""
        members = {
            user: {"role": member["role"], "username": member["user"]["username"]}
            for user, member in self.members.items()
        }
        conversation = self.conversation and {
            name: value for name, value in self.conversation.items() if name != "members"
        }
        return {"conversation": conversation, "members": members, "messages": self.messages}

    def apply(self, event: Json) -> None:
        """One event of any durable type; events of the user's own inbox repeat what the conversation's say."""
        kind, data = event["type"], event["data"]
        if kind == "session.revoked":
            self.ended.append(data["session_id"])
        elif event["topic"]["kind"] == "conversation":
            getattr(self, "_" + kind.replace(".", "_"))(data)

    def _message_created(self, data: Json) -> None:
        self.messages[data["seq"]] = data
        assert self.conversation is not None
        self.conversation["last_seq"] = max(self.conversation["last_seq"], data["seq"])

    def _message_updated(self, data: Json) -> None:
        self.messages[data["seq"]] = data

    def _message_deleted(self, data: Json) -> None:
        self.messages[data["seq"]] |= {
            "body": None,
            "attachments": [],
            "reactions": [],
            "deleted_at": data["deleted_at"],
        }

    def _reaction_added(self, data: Json) -> None:
        reactions: list[Json] = self.messages[data["seq"]]["reactions"]
        for reaction in reactions:
            if reaction["emoji"] == data["emoji"]:
                reaction["user_ids"].append(data["user_id"])
                reaction["count"] += 1
                return
        reactions.append({"emoji": data["emoji"], "count": 1, "user_ids": [data["user_id"]]})

    def _reaction_removed(self, data: Json) -> None:
        message = self.messages[data["seq"]]
        for reaction in message["reactions"]:
            if reaction["emoji"] == data["emoji"]:
                reaction["user_ids"].remove(data["user_id"])
                reaction["count"] -= 1
        message["reactions"] = [reaction for reaction in message["reactions"] if reaction["count"]]

    def _receipt(self, kind: str, data: Json) -> None:
        places = self.receipts.setdefault(data["user_id"], {"delivered": 0, "read": 0})
        places[kind] = max(places[kind], data["seq"])

    def _receipt_delivered(self, data: Json) -> None:
        self._receipt("delivered", data)

    def _receipt_read(self, data: Json) -> None:
        self._receipt("read", data)

    def _conversation_created(self, data: Json) -> None:
        self.conversation = data
        self.members = {member["user"]["id"]: member for member in data["members"]}

    def _conversation_updated(self, data: Json) -> None:
        self.conversation = data

    def _member_added(self, data: Json) -> None:
        self.members[data["user"]["id"]] = data
        self._count()

    def _member_updated(self, data: Json) -> None:
        self.members[data["user"]["id"]] = data

    def _member_removed(self, data: Json) -> None:
        del self.members[data["user"]["id"]]
        self._count()

    def _count(self) -> None:
        if self.conversation is not None:
            self.conversation["member_count"] = len(self.members)


def _public(message: dict[str, Any]) -> Json:
    return {name: value for name, value in message.items() if name != "status"}
