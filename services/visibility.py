"""Who may see whom: the one predicate that every surface asks (I6).

A list of users filters inside its own statement with :func:`storage.visibility.user_visible`, which is this same rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from domain.errors import NotFound, UserNotFound
from domain.ids import TenantId, UserId, parse_id
from storage import users
from storage.database import Connection
from storage.users import Name, UserRow


def user_name(text: str) -> Name:
    """What a client named a user by: an id, or else a username, without case. Never fails: it may name nobody."""
    known = parse_id(text)
    if known is not None:
        return UserId(known)
    # Letters outside ASCII can fold into it ("K", the Kelvin sign), and NUL cannot be sent to PostgreSQL.
    return text.lower() if text.isascii() and "\x00" not in text else ""


async def can_see(
    connection: Connection, tenant: TenantId, viewer: UserId, others: Sequence[UserId]
) -> frozenset[UserId]:
    """Those of ``others`` whose existence ``viewer`` may know of: not deleted, no block either way. One statement."""
    return await users.check_visible(connection, tenant, viewer, others)


async def visible_user(connection: Connection, tenant: TenantId, viewer: UserId, name: str) -> UserRow:
    """The user a path names. Raises NotFound where there is none that ``viewer`` may see."""
    (found,) = await users.find_visible(connection, tenant, viewer, [user_name(name)])
    if found is None:
        raise NotFound()
    return found


async def visible_users(
    connection: Connection, tenant: TenantId, viewer: UserId, names: Sequence[str], pointer: str
) -> list[UserRow]:
    """The users that the array at ``pointer`` in a body names, in that order, in one statement.

    Raises UserNotFound with the pointer of the first that ``viewer`` may not see.
    """
    found = await users.find_visible(connection, tenant, viewer, [user_name(name) for name in names])
    rows = []
    for index, row in enumerate(found):
        if row is None:
            raise UserNotFound(f"{pointer}/{index}")
        rows.append(row)
    return rows


async def named_user(connection: Connection, tenant: TenantId, name: str) -> UserRow:
    """The user a path names, blocks aside: for what works on hidden users too. Raises NotFound."""
    found = await users.find_user(connection, tenant, user_name(name))
    if found is None:
        raise NotFound()
    return found
