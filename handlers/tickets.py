"""Tickets and the cookie that browsers open realtime connections with."""

from __future__ import annotations

from domain.resources import RealtimeTicket
from handlers import keys
from handlers.endpoint import API, Call, Reply, Route
from handlers.realtime import COOKIE
from handlers.schemas.accounts import TicketRequest
from handlers.schemas.common import NoQuery

COOKIE_PATH = f"{API}/realtime"


async def post_ticket(call: Call[TicketRequest, NoQuery]) -> Reply:
    tickets = call.app[keys.TICKETS]
    headers = {"Cache-Control": "no-store"}
    if call.body.cookie:
        secure = "; Secure" if call.client.scheme == "https" else ""
        value = tickets.cookie(call.identity)
        # No Max-Age: it goes with the browser's session, and is good for as long as the sign-in.
        headers["Set-Cookie"] = f"{COOKIE}={value}; Path={COOKIE_PATH}; HttpOnly; SameSite=Strict{secure}"
    if call.keep is not None:
        reply = Reply.of(await tickets.issue_kept(call.identity, call.keep))
        return Reply(reply.status, reply.content, {**reply.headers, **headers})
    return Reply(201, await tickets.issue(call.identity), headers)


ROUTES = (
    Route(
        "POST",
        f"{API}/realtime/tickets",
        post_ticket,
        "Get a ticket for one realtime connection",
        "Realtime",
        body=TicketRequest,
        answers={201: RealtimeTicket},
        description="For where headers cannot be set: `?ticket=…`, once, within 30 seconds.",
        limit="realtime",
        idempotent=True,
    ),
)
