"""Ways for a browser to sign in to realtime, where it cannot set a header: a ticket for once, a cookie for longer."""

from __future__ import annotations

from collections.abc import Sequence

import aiojobs

from domain.errors import Unauthenticated
from domain.identity import Identity
from domain.ids import TenantId
from domain.resources import RealtimeTicket
from services.batching import Batcher
from services.idempotency import Answer, KeptAnswer, answer_of, run_kept
from services.security.tokens import TokenSigner, digest_opaque_token, new_opaque_token
from services.sessions import SessionDirectory
from services.unit_of_work import Transaction, UnitOfWork
from storage import tickets
from storage.database import Database
from storage.tickets import TicketRow

TICKET_SECONDS = 30


class TicketInvalid(Unauthenticated):
    """Never told why: a ticket is asked for and used at once, so the next step is the same, to ask for another."""

    code, title = "ticket_invalid", "This ticket is not good, or not any more"


class Tickets:
    """Gives out tickets and the realtime cookie, and says who comes with a ticket.

    A ticket is good for 30 s and for one use, on any instance: its row is deleted by that use. It and the cookie are
    good only while their sign-in is. Tickets are stored and spent many at a time.
    """

    def __init__(
        self,
        database: Database,
        uow: UnitOfWork,
        tokens: TokenSigner,
        directory: SessionDirectory,
        jobs: aiojobs.Scheduler,
    ) -> None:
        self._database = database
        self._uow = uow
        self._tokens = tokens
        self._directory = directory
        self._issuing: Batcher[TicketRow, bool] = Batcher(self._insert, jobs)
        self._spending: Batcher[bytes, TicketRow] = Batcher(self._take, jobs)
        self._under_way: set[bytes] = set()

    async def issue(self, identity: Identity) -> RealtimeTicket:
        """A new ticket for the caller. Stored when this returns. Raises Unavailable."""
        ticket, row = _new_ticket(identity)
        await self._issuing.get(row)
        return ticket

    async def issue_kept(self, identity: Identity, keep: KeptAnswer) -> Answer:
        """The same under an Idempotency-Key, as the finished answer: asked again, the same ticket, spent or not."""
        ticket, row = _new_ticket(identity)

        async def work(tx: Transaction) -> RealtimeTicket:
            await tickets.insert_tickets(tx.connection, [row], TICKET_SECONDS)
            return ticket

        return await run_kept(self._uow, keep, work, lambda made: answer_of(201, made))

    def cookie(self, identity: Identity) -> str:
        """The value of the realtime cookie for the caller's sign-in."""
        return self._tokens.realtime_cookie(identity.tenant, identity.user, identity.session)

    async def redeem(self, tenant: TenantId, ticket: str) -> Identity:
        """Spends a ticket and says whose it was; it ends when the access token that asked for it does.

        Raises Unauthenticated for one that is unknown, spent, out of time, another tenant's, or of a sign-in that is
        over; Unavailable, and then the ticket may be spent.
        """
        digest = digest_opaque_token(ticket)
        if digest in self._under_way:  # the batch would give both what only the first may have
            raise TicketInvalid()
        self._under_way.add(digest)
        try:
            row = await self._spending.get(digest)
        finally:
            self._under_way.discard(digest)
        if row is None or row.tenant != tenant:
            raise TicketInvalid()
        return await self._directory.identify(tenant, row.session, row.user, row.access_expires_at)

    async def _insert(self, rows: Sequence[TicketRow]) -> dict[TicketRow, bool]:
        async with self._database.connection() as connection:
            await tickets.insert_tickets(connection, rows, TICKET_SECONDS)
        return dict.fromkeys(rows, True)

    async def _take(self, digests: Sequence[bytes]) -> dict[bytes, TicketRow]:
        async with self._database.connection() as connection:
            return await tickets.take_tickets(connection, digests)


def _new_ticket(identity: Identity) -> tuple[RealtimeTicket, TicketRow]:
    ticket = new_opaque_token()
    row = TicketRow(
        digest_opaque_token(ticket), identity.tenant, identity.user, identity.session, identity.expires_at
    )
    return RealtimeTicket(ticket=ticket, expires_in=TICKET_SECONDS), row
