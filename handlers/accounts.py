"""Registering, signing in, staying signed in, signing out, and the list of sign-ins."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any
from uuid import UUID

from domain.ids import SessionId
from domain.resources import AuthSession, SignedIn, TokenPair
from handlers import keys
from handlers.endpoint import API, Call, Reply, Route
from handlers.paging import decode_cursor, encode_cursor, page
from handlers.schemas.accounts import Registration, SignIn, TokenRefresh
from handlers.schemas.common import NoBody, NoQuery, Page, PageQuery
from services.sign_ins import Device

TAG = "Accounts"
SECRET = MappingProxyType({"Cache-Control": "no-store"})
"""Tokens are not for caches (RFC 6749, 5.1)."""


def device_of(call: Call[Any, Any]) -> Device:
    """Where a sign-in comes from. Bytes of the header that are not UTF-8 become question marks."""
    agent = call.request.headers.get("User-Agent", "")
    return Device(agent.encode(errors="replace").decode().replace("\x00", ""), call.client.address)


async def post_register(call: Call[Registration, NoQuery]) -> Reply:
    body = call.body
    signed_in = await call.app[keys.ACCOUNTS].register(
        call.tenant,
        username=body.username,
        email=body.email,
        password=body.password.get_secret_value(),
        display_name=body.display_name,
        device=device_of(call),
    )
    return Reply(201, signed_in, SECRET)


async def post_token(call: Call[SignIn, NoQuery]) -> Reply:
    signed_in = await call.app[keys.SIGN_INS].sign_in(
        call.tenant, call.body.username, call.body.password.get_secret_value(), device_of(call)
    )
    return Reply(200, signed_in, SECRET)


async def post_refresh(call: Call[TokenRefresh, NoQuery]) -> Reply:
    pair = await call.app[keys.SIGN_INS].refresh(
        call.tenant, call.body.refresh_token.get_secret_value(), device_of(call)
    )
    return Reply(200, pair, SECRET)


async def post_logout(call: Call[NoBody, NoQuery]) -> Reply:
    await call.app[keys.SIGN_INS].sign_out(call.identity)
    return Reply(204)


async def get_sessions(call: Call[NoBody, PageQuery]) -> Reply:
    after = decode_cursor(call.query.cursor, UUID)
    sessions, more = await call.app[keys.SIGN_INS].list(
        call.identity, before=after[0] if after else None, limit=call.query.limit
    )
    return Reply(200, page(sessions, encode_cursor(more) if more else None))


async def delete_session(call: Call[NoBody, NoQuery]) -> Reply:
    await call.app[keys.SIGN_INS].delete(call.identity, SessionId(call.id("session_id")))
    return Reply(204)


ROUTES = (
    Route(
        "POST",
        f"{API}/auth/register",
        post_register,
        "Make an account and sign in",
        TAG,
        body=Registration,
        answers={201: SignedIn},
        errors=(409,),
        auth=False,
        limit="auth",
    ),
    Route(
        "POST",
        f"{API}/auth/token",
        post_token,
        "Sign in by username or email",
        TAG,
        body=SignIn,
        answers={200: SignedIn},
        errors=(401, 403),
        description="An unknown account and a wrong password get the same answer after the same work.",
        auth=False,
        limit="auth",
        account=lambda body: str(body.username).strip().casefold(),  # as signing in looks it up
        form=True,
    ),
    Route(
        "POST",
        f"{API}/auth/token/refresh",
        post_refresh,
        "Get a new pair of tokens",
        TAG,
        body=TokenRefresh,
        answers={200: TokenPair},
        errors=(401,),
        description=(
            "The token before it stays good for a moment, as an answer can be lost. Later use of it is taken for theft:"
            " `refresh_reused`, and the whole session is revoked."
        ),
        auth=False,
        limit="write",
    ),
    Route(
        "POST",
        f"{API}/auth/logout",
        post_logout,
        "Sign out, on every connection",
        TAG,
        answers={204: None},
        limit="write",
    ),
    Route(
        "GET",
        f"{API}/auth/sessions",
        get_sessions,
        "List one's own sign-ins",
        TAG,
        query=PageQuery,
        answers={200: Page[AuthSession]},
    ),
    Route(
        "DELETE",
        f"{API}/auth/sessions/{{session_id}}",
        delete_session,
        "Revoke one of one's own sign-ins",
        TAG,
        answers={204: None},
        errors=(404,),
        limit="write",
    ),
)
