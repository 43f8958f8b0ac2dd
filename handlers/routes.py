"""Every URL in one table. Each resource's file lists its own routes; this is all of them."""

from __future__ import annotations

from handlers import (
    accounts,
    admin,
    blocks,
    conversations,
    longpoll,
    members,
    messages,
    reactions,
    receipts,
    service,
    sse,
    tickets,
    typing,
    users,
    websocket,
)
from handlers.endpoint import Route

ROUTES: tuple[Route, ...] = (
    *accounts.ROUTES,
    *users.ROUTES,
    *admin.ROUTES,
    *blocks.ROUTES,
    *conversations.ROUTES,
    *members.ROUTES,
    *messages.ROUTES,
    *reactions.ROUTES,
    *receipts.ROUTES,
    *typing.ROUTES,
    *tickets.ROUTES,
    *websocket.ROUTES,
    *sse.ROUTES,
    *longpoll.ROUTES,
    *service.ROUTES,
)
