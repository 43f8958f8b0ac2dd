"""What a client may say over a WebSocket: a command is a validated model and a function that calls one service.

Commands of one connection take effect in the order sent. Sends are handed to the committer without waiting for each
other; any other command first waits until the sends before it are stored.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson
import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError

from domain.errors import Malformed, ParleyError, Unavailable
from domain.identity import Identity
from domain.ids import ClientId, ConversationId
from handlers import keys
from handlers.pacing import Pace
from handlers.problems import problem_of
from handlers.reading import invalid
from handlers.schemas.commands import SendMessage
from realtime.places import NotFresh
from realtime.session import Session, State
from services.message_commit import Known, Result, SendDraft, Stored

logger = structlog.get_logger(__name__)

MAX_IN_FLIGHT = 256  # sends of one connection that may wait for their commit at once
MAX_ABUSE = 10
FRESH_SECONDS = 1.0  # a command waits for the log to be read
ABUSE_SECONDS = 10.0

DataT = TypeVar("DataT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Command(Generic[DataT]):
    """``run`` is given validated data, and returns the reply's ``data``: a model, JSON bytes, or None for ``{}``."""

    data: type[DataT]
    run: Callable[[Connection, DataT], Awaitable[BaseModel | bytes | None]]


class Connection:
    """One peer: takes its frames, answers each, in order of effect."""

    __slots__ = (
        "_abuse",
        "_committer",
        "_hub",
        "_idle",
        "_in_flight",
        "_metrics",
        "_pace",
        "_typing",
        "app",
        "identity",
        "session",
    )

    def __init__(self, app: web.Application, session: Session, identity: Identity) -> None:
        self.app = app
        self.session = session
        self.identity = identity
        # Looked up for every message.
        self._committer = app[keys.COMMITTER]
        self._typing = app[keys.TYPING]
        self._metrics = app[keys.REALTIME].metrics
        self._hub = app[keys.REALTIME].hub
        self._in_flight = 0
        self._idle: asyncio.Future[None] | None = None
        self._abuse: deque[float] | None = None
        self._pace: Pace | None = None

    async def take(self, frame: bytes | str) -> bool:
        """Carries out one frame. False where the peer has sent too many that are none."""
        request: str | None = None
        try:
            value = _parse(frame)
            request = _id_of(value)
            op, data = _command_of(value)
        except Malformed as error:
            self._reply_error(request, error)
            return not self._abused()
        try:
            self._spend()
            if op != "ping":  # which asks whether both ends are alive, and changes nothing
                await self._be_fresh()
            if self.session.state is State.CLOSED:
                return True
            if op == "message.send":
                await self._send(request, data)
                return True
            command = self.app[keys.COMMANDS].get(op)
            if command is None:
                self._reply_error(request, Malformed(f"{op[:40]!r} is not a command", code="unknown_op"))
                return not self._abused()
            validated = _validate(command.data, data)
            await self._quiet(0)
            result = await command.run(self, validated)
        except ParleyError as error:
            self._reply_error(request, error, op)
        except Exception:
            logger.exception("command.failed", op=op)
            self._reply_error(request, ParleyError(), op)
        else:
            self._reply(request, result, op)
        return True

    async def _be_fresh(self) -> None:
        """Does nothing for a sign-in that may have ended while this instance was frozen or cut off (I9).

        Raises Unavailable where the log cannot be read now.
        """
        hub = self._hub
        if hub.fresh:
            return
        try:
            await hub.be_fresh()
            async with asyncio.timeout(FRESH_SECONDS):
                await hub.until_fresh()
        except (NotFresh, TimeoutError) as error:
            raise Unavailable("the log cannot be read right now") from error

    # Sends.

    async def _send(self, id: str, data: object) -> None:
        message = _validate(SendMessage, data)
        message.check_attachments()
        await self._quiet(MAX_IN_FLIGHT)
        draft = SendDraft(
            self.identity.tenant,
            ConversationId(message.conversation_id),
            self.identity.user,
            ClientId(message.client_id),
            message.body,
            message.reply_to_seq,
        )
        self._committer.submit(draft, lambda result: self._sent(id, draft, result))
        self._in_flight += 1

    def _sent(self, id: str, draft: SendDraft, result: Result) -> None:
        if isinstance(result, Known):
            self.app[keys.REALTIME].spawn(self._answer_known(id, draft, result))
            return
        if isinstance(result, Stored):
            self._typing.sent(draft.conversation, draft.sender)
            self._reply(id, result.data, "message.send")
        else:
            self._reply_error(id, result, "message.send")
        self._landed()

    async def _answer_known(self, id: str, draft: SendDraft, known: Known) -> None:
        """A retry: the first message, as it is now."""
        client_id = draft.client_id
        assert client_id is not None
        try:
            message = await self.app[keys.MESSAGES].find_sent(self.identity, client_id, known.digest)
        except ParleyError as error:
            self._reply_error(id, error, "message.send")
        else:
            self._reply(id, message.model_dump_json(exclude={"status"}).encode(), "message.send")
        finally:
            self._landed()

    def _landed(self) -> None:
        self._in_flight -= 1
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _quiet(self, most: int) -> None:
        """Waits until at most ``most`` sends are under way."""
        while self._in_flight > most:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    # Replies.

    def _reply(self, id: str, result: BaseModel | bytes | None, op: str) -> None:
        body = result.model_dump_json().encode() if isinstance(result, BaseModel) else result or b"{}"
        self.session.send_control(
            b'{"type":"reply","id":%b,"ok":true,"data":%b}' % (orjson.dumps(id), body), "reply"
        )
        self._metrics.command(op, "ok")

    def _reply_error(self, id: str | None, error: ParleyError, op: str = "unknown") -> None:
        problem = problem_of(error).model_dump(exclude_none=True, mode="json")
        if error.retry_after is not None:
            problem["retry_after_ms"] = math.ceil(error.retry_after * 1000)
        reply = {"type": "reply", "id": id, "ok": False, "error": problem}
        self.session.send_control(orjson.dumps(reply), "reply")
        # What is no command is the client's own text.
        known = op == "message.send" or op in self.app[keys.COMMANDS]
        self._metrics.command(op if known else "unknown", error.code)

    # Limits.

    def _abused(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._abuse is None:
            self._abuse = deque(maxlen=MAX_ABUSE)
        self._abuse.append(now)
        return len(self._abuse) == MAX_ABUSE and now - self._abuse[0] < ABUSE_SECONDS

    def _spend(self) -> None:
        """Takes one command from what the user may send. Raises TooMany."""
        if self._pace is None:
            paces = self.app[keys.REALTIME].paces
            if paces is None:
                return
            self._pace = paces.of(self.identity.user)
        self._pace.spend(asyncio.get_running_loop().time())


def _parse(frame: bytes | str) -> dict[str, Any]:
    """The object a frame holds. Raises Malformed."""
    try:
        value: Any = orjson.loads(frame)
    except orjson.JSONDecodeError:
        raise Malformed("a frame is one JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise Malformed("a frame is one JSON object")
    return value


def _id_of(value: dict[str, Any]) -> str:
    """The id of a command: any string. Raises Malformed."""
    request = value.get("id")
    if not isinstance(request, str):
        raise Malformed("id must be a string")
    return request


def _command_of(value: dict[str, Any]) -> tuple[str, object]:
    """``(op, data)`` of a command. Raises Malformed."""
    op = value.get("op")
    if not isinstance(op, str):
        raise Malformed("op must be a string")
    if unknown := value.keys() - {"id", "op", "data"}:
        raise Malformed(f"unknown field {min(unknown)[:40]!r}")
    return op, value.get("data", {})


def _validate(model: type[DataT], data: object) -> DataT:
    """The data of a command. Raises InvalidFields."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid(error) from None
