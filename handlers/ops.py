"""Every WebSocket command in one table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from domain.errors import FieldError, InvalidFields, Unauthenticated, Unavailable
from domain.ids import ConversationId, UserId
from handlers import keys
from handlers.commands import Command, Connection
from handlers.schemas import commands as data
from realtime.places import NotFresh


async def edit_message(peer: Connection, command: data.EditMessage) -> bytes:
    message = await peer.app[keys.MESSAGES].edit(
        peer.identity, ConversationId(command.conversation_id), command.seq, command.body
    )
    return message.model_dump_json(exclude={"status"}).encode()


async def delete_message(peer: Connection, command: data.OneMessage) -> None:
    await peer.app[keys.MESSAGES].delete(peer.identity, ConversationId(command.conversation_id), command.seq)


async def add_reaction(peer: Connection, command: data.React) -> None:
    await peer.app[keys.REACTIONS].add(
        peer.identity, ConversationId(command.conversation_id), command.seq, command.emoji
    )


async def remove_reaction(peer: Connection, command: data.React) -> None:
    await peer.app[keys.REACTIONS].remove(
        peer.identity, ConversationId(command.conversation_id), command.seq, command.emoji
    )


async def mark_read(peer: Connection, command: data.ReadUpTo) -> None:
    await peer.app[keys.RECEIPTS].read(peer.identity, ConversationId(command.conversation_id), command.seq)


async def mark_delivered(peer: Connection, command: data.ReadUpTo) -> None:
    await peer.app[keys.RECEIPTS].delivered(
        peer.identity, ConversationId(command.conversation_id), command.seq
    )


async def start_typing(peer: Connection, command: data.InConversation) -> None:
    await peer.app[keys.TYPING].start(peer.identity, ConversationId(command.conversation_id))


async def stop_typing(peer: Connection, command: data.InConversation) -> None:
    await peer.app[keys.TYPING].stop(peer.identity, ConversationId(command.conversation_id))


async def watch_presence(peer: Connection, command: data.WatchUsers) -> BaseModel:
    users = [UserId(user) for user in command.user_ids]
    return await peer.app[keys.PRESENCE].subscribe(peer.session, peer.identity, users)


async def unwatch_presence(peer: Connection, command: data.WatchUsers) -> None:
    users = [UserId(user) for user in command.user_ids]
    peer.app[keys.PRESENCE].unsubscribe(peer.session, users)


async def acknowledge(peer: Connection, command: data.Acknowledge) -> None:
    """Everything up to the cursor has arrived. A cursor the log does not reach is an error: it proves nothing."""
    realtime = peer.app[keys.REALTIME]
    try:
        place = await realtime.hub.places.find(command.cursor)
    except NotFresh as error:
        raise Unavailable("the log cannot be read right now") from error
    if place.resync is not None:
        raise InvalidFields([FieldError("/cursor", "is not a cursor of this log")], code=place.resync)
    await realtime.marks.mark_now(peer.identity.tenant, peer.identity.user, place.position)


async def refresh_token(peer: Connection, command: data.RefreshToken) -> BaseModel:
    """Goes on with a newer token of the same user; the connection then ends with that one."""
    realtime = peer.app[keys.REALTIME]
    identity = await realtime.directory.authenticate(peer.identity.tenant, command.access_token)
    if identity.user != peer.identity.user:
        raise Unauthenticated("the token is another user's", code="token_invalid")
    peer.identity = identity
    peer.session.renew(identity.session, identity.expires_at)
    return data.ExpiresIn(expires_in=max(0, int(identity.expires_at - time.time())))


async def ping(peer: Connection, command: data.Nothing) -> None:
    """Says that both ends are alive."""


COMMANDS: Mapping[str, Command[Any]] = {
    "message.edit": Command(data.EditMessage, edit_message),
    "message.delete": Command(data.OneMessage, delete_message),
    "reaction.add": Command(data.React, add_reaction),
    "reaction.remove": Command(data.React, remove_reaction),
    "conversation.read": Command(data.ReadUpTo, mark_read),
    "conversation.delivered": Command(data.ReadUpTo, mark_delivered),
    "typing.start": Command(data.InConversation, start_typing),
    "typing.stop": Command(data.InConversation, stop_typing),
    "presence.subscribe": Command(data.WatchUsers, watch_presence),
    "presence.unsubscribe": Command(data.WatchUsers, unwatch_presence),
    "ack": Command(data.Acknowledge, acknowledge),
    "auth.refresh": Command(data.RefreshToken, refresh_token),
    "ping": Command(data.Nothing, ping),
}
"""By ``op``. ``message.send`` is not among them: it is not waited for (:meth:`Connection.take`)."""
