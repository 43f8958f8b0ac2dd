"""What handlers find on the application and on the request. ``server/app.py`` puts the services there.

Each service's owner adds one line here: ``ACCOUNTS: web.AppKey[Accounts] = web.AppKey("accounts")``, its type
imported under ``TYPE_CHECKING``. Handlers reach it as ``call.app[keys.ACCOUNTS]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from domain.identity import Identity
from domain.ids import TenantId

if TYPE_CHECKING:
    from handlers.commands import Command
    from handlers.endpoint import Route
    from handlers.longpoll import Polled
    from handlers.realtime import Realtime
    from handlers.service import Documents, Readiness, Scrape
    from services.accounts import Accounts
    from services.admin import Admin
    from services.blocks import Blocks
    from services.conversations import Conversations
    from services.members import Members
    from services.message_commit import MessageCommitter
    from services.messages import Messages
    from services.presence import PresenceService
    from services.profiles import Profiles
    from services.reactions import Reactions
    from services.receipts import Receipts
    from services.sign_ins import SignIns
    from services.tickets import Tickets
    from services.typing import TypingService


@dataclass(frozen=True, slots=True)
class Client:
    """Who is at the other end, as far as the trusted proxies can tell."""

    address: str
    """IP address without port or zone, never a proxy's that is trusted."""
    scheme: str
    """``http`` or ``https``: what the client itself spoke."""
    host: str
    """Host and port it asked for, in lower case."""

    @property
    def origin(self) -> str:
        """This server's own origin as a browser at the other end would write it."""
        return f"{self.scheme}://{self.host}"


# On the application
ACCOUNTS: web.AppKey[Accounts] = web.AppKey("accounts")
ADMIN: web.AppKey[Admin] = web.AppKey("admin")
BLOCKS: web.AppKey[Blocks] = web.AppKey("blocks")
PROFILES: web.AppKey[Profiles] = web.AppKey("profiles")
SIGN_INS: web.AppKey[SignIns] = web.AppKey("sign_ins")
TICKETS: web.AppKey[Tickets] = web.AppKey("tickets")
COMMANDS: web.AppKey[Mapping[str, Command[Any]]] = web.AppKey("commands")
COMMITTER: web.AppKey[MessageCommitter] = web.AppKey("committer")
CONVERSATIONS: web.AppKey[Conversations] = web.AppKey("conversations")
MEMBERS: web.AppKey[Members] = web.AppKey("members")
MESSAGES: web.AppKey[Messages] = web.AppKey("messages")
PRESENCE: web.AppKey[PresenceService] = web.AppKey("presence")
REACTIONS: web.AppKey[Reactions] = web.AppKey("reactions")
REALTIME: web.AppKey[Realtime] = web.AppKey("realtime")
RECEIPTS: web.AppKey[Receipts] = web.AppKey("receipts")
TYPING: web.AppKey[TypingService] = web.AppKey("typing")
DOCUMENTS: web.AppKey[Documents] = web.AppKey("documents")
READINESS: web.AppKey[Readiness] = web.AppKey("readiness")
SCRAPE: web.AppKey[Scrape] = web.AppKey("scrape")

# On the request
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id")
CLIENT: web.RequestKey[Client] = web.RequestKey("client")
TENANT: web.RequestKey[TenantId] = web.RequestKey("tenant")
IDENTITY: web.RequestKey[Identity] = web.RequestKey("identity")
"""Set once the caller is known; for the access log."""
ROUTE: web.RequestKey[Route] = web.RequestKey("route")
"""What answers, for metrics and the access log; not there where no route fits."""
POLLED: web.RequestKey[Polled] = web.RequestKey("polled")
"""What a poll asked for; there where it went the usual way, so that one like it may be answered by less work."""
ANSWER_HEADERS: web.RequestKey[dict[str, str]] = web.RequestKey("answer_headers")
"""Headers to put on whatever answer this request gets, a streamed one or an error included."""


def client_of(request: web.Request) -> Client:
    """Who asks. Without the middleware that knows proxies: the peer itself."""
    known: Client | None = request.get(CLIENT)
    if known is not None:
        return known
    return Client(request.remote or "", request.scheme, request.headers.get("Host", "").lower())
