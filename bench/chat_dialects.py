"""How each server is spoken to when users chat in pairs. No JSON is parsed: ids are found in the bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bench.checker import WrongError
from bench.dialects import BODY_BYTES, client_id, is_reply

OTHER, ACKNOWLEDGED, DELIVERED = 0, 1, 2

_BODY = b"x" * BODY_BYTES
_ID_MARK = b'"client_id":"'
_ID_NUMBER = len(_ID_MARK) + 24  # from the mark to the last twelve digits of the UUID
_SEQ_MARK = b'"seq":'


class ChatDialect(Protocol):
    """Users come in pairs: 2k and 2k + 1. `numbered` tells that the server gives each conversation dense seqs."""

    numbered: bool

    def url(self, user: int) -> str:
        """Where the user connects to."""

    def headers(self, user: int) -> dict[str, str]:
        """HTTP headers of the user's upgrade request."""

    def opening(self, user: int) -> Sequence[bytes]:
        """What the user sends once connected, before `is_ready`."""

    def is_ready(self, payload: bytes) -> bool:
        """Whether this frame tells that the user may chat."""

    def command(self, user: int, number: int) -> bytes:
        """The frame that sends message `number` to the other of the pair."""

    def read(self, payload: bytes) -> tuple[int, int, int]:
        """(what, message number, seq or 0) of a frame. Raises WrongError for a refusal."""


def _number(payload: bytes) -> int:
    at = payload.index(_ID_MARK) + _ID_NUMBER
    return int(payload[at : at + 12])


class ParleyChat:
    """Direct conversations over Parley's WebSocket. With two ports, the two of each pair are at different instances."""

    numbered = True

    def __init__(
        self, ports: Sequence[int], tokens: Sequence[str], conversations: Sequence[str], run: int
    ) -> None:
        self._ports = ports
        self._tokens = tokens
        self._conversations = [conversation.encode() for conversation in conversations]
        self._run = run

    def url(self, user: int) -> str:
        return f"ws://127.0.0.1:{self._ports[user % len(self._ports)]}/api/v1/realtime/ws"

    def headers(self, user: int) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._tokens[user]}"}

    def opening(self, user: int) -> Sequence[bytes]:
        return ()

    def is_ready(self, payload: bytes) -> bool:
        return b'"hello"' in payload

    def command(self, user: int, number: int) -> bytes:
        return (
            b'{"id":"%d","op":"message.send","data":{"conversation_id":"%b","client_id":"%b","body":"%b"}}'
        ) % (number, self._conversations[user // 2], client_id(self._run, number), _BODY)

    def read(self, payload: bytes) -> tuple[int, int, int]:
        if is_reply(payload):
            if b'"ok":true' not in payload:
                raise WrongError(f"a send was refused: {payload!r}")
            return ACKNOWLEDGED, _number(payload), 0
        if b'"message.created"' not in payload:
            return OTHER, 0, 0
        at = payload.index(_SEQ_MARK) + len(_SEQ_MARK)
        return DELIVERED, _number(payload), int(payload[at : payload.index(b",", at)])


class SocketIOChat:
    """Rooms of two on python-socketio, each message acknowledged by Socket.IO's own means."""

    numbered = False

    def __init__(self, port: int, conversations: Sequence[str], run: int) -> None:
        self._url = f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket"
        self._conversations = conversations
        self._run = run

    def url(self, user: int) -> str:
        return self._url

    def headers(self, user: int) -> dict[str, str]:
        return {}

    def opening(self, user: int) -> Sequence[bytes]:
        return b"40", b'420["join","%b"]' % self._conversations[user // 2].encode()

    def is_ready(self, payload: bytes) -> bool:
        return payload.startswith(b"430")

    def command(self, user: int, number: int) -> bytes:
        return b'42%d["chat",{"room":"%b","client_id":"%b","body":"%b"}]' % (
            number,
            self._conversations[user // 2].encode(),
            client_id(self._run, number),
            _BODY,
        )

    def read(self, payload: bytes) -> tuple[int, int, int]:
        if payload.startswith(b'42["chat"'):
            return DELIVERED, _number(payload), 0
        if payload.startswith(b"43") and _ID_MARK in payload:
            return ACKNOWLEDGED, _number(payload), 0
        return OTHER, 0, 0
