"""What people do, said once and sent two ways: as a command on a WebSocket, or as a REST request."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from demo.frames import Json


@dataclass(frozen=True, slots=True)
class Command:
    """Safe to repeat: a send carries its own id, and everything else ends in the same state."""

    op: str
    conversation: str
    seq: int = 0
    body: str = ""
    client_id: str = ""
    emoji: str = ""

    def frame(self, name: str) -> Json:
        """As a WebSocket command."""
        data: Json = {"conversation_id": self.conversation}
        for field in ("seq", "body", "client_id", "emoji"):
            if value := getattr(self, field):
                data[field] = value
        return {"id": name, "op": self.op, "data": data}

    def request(self) -> tuple[str, str, Json | None]:
        """As a REST request: method, path below `/api/v1`, body."""
        base = f"/conversations/{self.conversation}"
        message = f"{base}/messages/{self.seq}"
        match self.op:
            case "message.send":
                return "POST", f"{base}/messages", {"body": self.body, "client_id": self.client_id}
            case "message.edit":
                return "PATCH", message, {"body": self.body}
            case "message.delete":
                return "DELETE", message, None
            case "reaction.add":
                return "PUT", f"{message}/reactions/{quote(self.emoji)}", None
            case "conversation.read":
                return "POST", f"{base}/read", {"seq": self.seq}
            case "typing.start":
                return "POST", f"{base}/typing", None
        raise ValueError(self.op)
