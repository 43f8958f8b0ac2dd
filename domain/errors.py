"""Every error a client can be told, as one tree and one table.

::

    ParleyError
    ├── Invalid                      422  the request is understood and wrong
    │   ├── InvalidFields                 one entry for each wrong field
    │   ├── UserNotFound                  a user named in a body
    │   └── IdempotencyKeyReused
    ├── Malformed                    400  not JSON, not a frame
    ├── Unauthenticated              401  no credential, or none that is good
    │   └── RefreshReused
    ├── Forbidden                    403  a member without the right
    │   ├── AccountSuspended  Blocked  WrongPassword  OriginRefused
    ├── NotFound                     404  not there, not visible, not a member: never told apart
    │   └── MethodNotAllowed         405
    ├── Conflict                     409
    │   ├── ClientIdReused  IdempotencyInProgress  AlreadyTaken
    ├── TooLarge                     413
    ├── TooMany                      429
    │   └── TooManyConnections
    └── Unavailable                  503  a part is down, or too busy: nothing is known to be stored
        └── Overloaded

``code`` is stable and part of the contract. ``retry`` says whether the same request may succeed later.
``close_code`` is what a WebSocket is closed with when the error ends the connection (0: it never does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field: an RFC 6901 JSON pointer into the body (or the name of a query parameter) and what is wrong."""

    pointer: str
    detail: str


class ParleyError(Exception):
    """Base of all errors a client is told. ``detail`` is for people; ``code`` is for programs."""

    status = 500
    code = "internal"
    title = "Internal error"
    retry = False
    close_code = 0

    def __init__(
        self, detail: str = "", *, retry_after: float | None = None, code: str | None = None
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.retry_after = retry_after
        """Seconds after which a retry makes sense; None where it does not."""
        if code is not None:
            self.code = code

    @property
    def fields(self) -> Sequence[FieldError]:
        """The wrong fields, for a 422."""
        return ()


class Invalid(ParleyError):
    status, code, title = 422, "invalid", "The request is not valid"


class InvalidFields(Invalid):
    """One or more fields are wrong; each is named."""

    def __init__(self, fields: Sequence[FieldError], detail: str = "", *, code: str | None = None) -> None:
        super().__init__(detail or "; ".join(f"{f.pointer}: {f.detail}" for f in fields), code=code)
        self._fields = tuple(fields)

    @property
    def fields(self) -> Sequence[FieldError]:
        return self._fields


class UserNotFound(InvalidFields):
    """A user named in a body does not exist or is not visible."""

    code, title = "user_not_found", "There is no such user"

    def __init__(self, pointer: str) -> None:
        super().__init__([FieldError(pointer, "there is no such user")])


class IdempotencyKeyReused(Invalid):
    code, title = "idempotency_key_reused", "This Idempotency-Key was used for another request"


class Malformed(ParleyError):
    status, code, title = 400, "malformed", "The request cannot be read"


class Unauthenticated(ParleyError):
    status, code, title, close_code = 401, "unauthenticated", "A valid access token is needed", 4401


class RefreshReused(Unauthenticated):
    code, title = "refresh_reused", "This refresh token was used before; the session is revoked"


class Forbidden(ParleyError):
    status, code, title = 403, "forbidden", "You do not have the right to do this"


class AccountSuspended(Forbidden):
    code, title = "account_suspended", "This account is suspended"


class Blocked(Forbidden):
    code, title = "blocked", "This conversation is closed to new messages"


class WrongPassword(Forbidden):
    code, title = "wrong_password", "The password is wrong"


class OriginRefused(Forbidden):
    code, title = "origin_refused", "This origin is not allowed"


class NotFound(ParleyError):
    status, code, title = 404, "not_found", "Not found"


class MethodNotAllowed(NotFound):
    status, code, title = 405, "method_not_allowed", "This method is not allowed here"


class Conflict(ParleyError):
    status, code, title = 409, "conflict", "This conflicts with what is there"


class AlreadyTaken(Conflict):
    code, title = "already_taken", "This name or address is taken"


class ClientIdReused(Conflict):
    code, title = "client_id_reused", "This client_id was used for something else"


class IdempotencyInProgress(Conflict):
    code, title, retry = (
        "idempotency_in_progress",
        "The first request with this Idempotency-Key still runs",
        True,
    )


class TooLarge(ParleyError):
    status, code, title = 413, "too_large", "The request is too large"


class TooMany(ParleyError):
    status, code, title, retry = 429, "rate_limited", "Too many requests", True


class TooManyConnections(TooMany):
    code, title, close_code = "too_many_connections", "Too many connections", 4429


class Unavailable(ParleyError):
    """A part is away. Says nothing about whether the operation was stored: retry with the same id."""

    status, code, title, retry = 503, "unavailable", "The service is not available right now", True

    def __init__(self, detail: str = "", *, retry_after: float | None = 1.0, code: str | None = None) -> None:
        super().__init__(detail, retry_after=retry_after, code=code)


class Overloaded(Unavailable):
    code, title = "overloaded", "Too much work is waiting"
