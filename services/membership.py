"""The one rule of who may see what of a conversation (I6): its members, from where their history begins.

Everyone else, and everyone before that, gets the same NotFound as for what was never there.
"""

from __future__ import annotations

from domain.errors import Forbidden, NotFound
from domain.ids import ConversationId, TenantId, UserId
from services.unit_of_work import Transaction
from storage import conversations
from storage.conversations import Standing
from storage.database import Connection


async def standing_of(
    connection: Connection, tenant: TenantId, user: UserId, conversation: ConversationId
) -> Standing:
    """How a member stands in a conversation. Raises NotFound for anyone else."""
    standing = await conversations.read_standing(connection, tenant, conversation, user)
    if standing is None:
        raise NotFound()
    return standing


async def locked_standing(
    tx: Transaction, tenant: TenantId, user: UserId, conversation: ConversationId
) -> Standing:
    """The same with the conversation locked: nothing in it changes before this transaction ends."""
    await conversations.lock(tx.connection, tenant, conversation)
    return await standing_of(tx.connection, tenant, user, conversation)


def sees(standing: Standing, seq: int) -> bool:
    """Whether a member may see message ``seq`` by REST: it is there, and not from before their history begins."""
    first = 1 if standing.history == "all" else standing.joined_seq + 1
    return first <= seq <= standing.last_seq


def require_seen(standing: Standing, seq: int) -> None:
    """Raises NotFound where a member may not see message ``seq``."""
    if not sees(standing, seq):
        raise NotFound()


def leads(standing: Standing) -> bool:
    """Whether a member may change the group and its people. Nobody leads a direct conversation."""
    return standing.kind == "group" and standing.role in ("owner", "admin")


def require_leader(standing: Standing, doing: str) -> None:
    """Raises Forbidden for a member who may not do this. ``doing`` ends the sentence "Only owners and admins may"."""
    if standing.kind == "direct":
        raise Forbidden("a direct conversation is between two people and cannot be changed")
    if not leads(standing):
        raise Forbidden(f"only owners and admins may {doing}")
