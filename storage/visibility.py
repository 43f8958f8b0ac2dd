"""The rule of who may see whom, as one SQL condition that every statement takes from here (I6)."""

from __future__ import annotations


def user_visible(viewer: str, user: str = "u") -> str:
    """Whether ``viewer`` (an SQL expression for a user's id) may know of the row of ``users`` aliased ``user``.

    Not where the account is deleted, and not where either has blocked the other. Two probes of an index a row.
    """
    return f"""({user}.deleted_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM blocks vb WHERE vb.tenant_id = {user}.tenant_id
        AND vb.blocker_id = {viewer} AND vb.blocked_id = {user}.id)
    AND NOT EXISTS (SELECT 1 FROM blocks vb WHERE vb.tenant_id = {user}.tenant_id
        AND vb.blocker_id = {user}.id AND vb.blocked_id = {viewer}))"""


def hidden_users(tenant: str, viewer: str) -> str:
    """The blocks in :func:`user_visible` from their other side: a subquery of the ``id`` of everyone a block hides.

    For finding the few who are hidden among many. ``tenant`` and ``viewer`` are SQL expressions.
    """
    return f"""(SELECT vb.blocked_id AS id FROM blocks vb WHERE vb.tenant_id = {tenant} AND vb.blocker_id = {viewer}
    UNION SELECT vb.blocker_id FROM blocks vb WHERE vb.tenant_id = {tenant} AND vb.blocked_id = {viewer})"""
