"""Signed tokens (JWT, RFC 7519) and opaque ones, and the keys behind them.

Two kinds of JWT, told apart by their audience: the access token every request carries, and the cookie a browser's
``EventSource`` signs in with. Only HS256 is ever accepted, whatever a token's header says.

Opaque tokens (refresh tokens, tickets) are 32 random bytes; only their digest is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

import jwt

from domain.errors import Unauthenticated
from domain.ids import SessionId, TenantId, UserId, new_id, parse_id

ALGORITHM = "HS256"
MAX_TOKEN_CHARACTERS = 2048
MAX_OPAQUE_CHARACTERS = 128
REMEMBERED = 20_000
"""Tokens whose verification is remembered for sure; twice as many at most."""


class TokenExpired(Unauthenticated):
    """The token was good, and its time is over."""

    code, title = "token_expired", "The access token has expired"


class TokenInvalid(Unauthenticated):
    """Not a token of this deployment, or not one for this use."""

    code, title = "token_invalid", "This is not a valid token"


class Kind(Enum):
    """What a JWT is for. The value is the suffix of its audience."""

    ACCESS = ""
    REALTIME_COOKIE = "/realtime"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says. Nothing here is known to be true still: the sign-in may be revoked."""

    tenant: TenantId
    user: UserId
    session: SessionId
    expires_at: float | None
    """In seconds since the epoch; None: as long as the sign-in lives."""


def _derive(secret: str, purpose: str) -> bytes:
    """A key for one purpose, so that no two uses of the secret can be played against each other."""
    return hmac.digest(secret.encode(), f"parley/{purpose}/v1".encode(), "sha256")


def fingerprint_key(secret: str) -> str:
    """What tells two secret keys apart without giving either away: 128 bits of a keyed digest, in hex."""
    return _derive(secret, "fingerprint")[:16].hex()


def new_opaque_token() -> str:
    """256 random bits as text that needs no escaping anywhere."""
    return secrets.token_urlsafe(32)


def digest_opaque_token(token: str) -> bytes:
    """What is stored of an opaque token. Its 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(token[:MAX_OPAQUE_CHARACTERS].encode(errors="replace")).digest()


class Verified:
    """What tokens were found to say, by their digest: at least the newest ``capacity`` that were asked for, at most
    twice as many. Verifying one takes 130 microseconds and finding it here two (docs/adr/0009).

    Two generations: when the young one is full it becomes the old one, and the old one goes.
    """

    def __init__(self, capacity: int = REMEMBERED) -> None:
        self._capacity = capacity
        self._young: dict[bytes, Claims] = {}
        self._old: dict[bytes, Claims] = {}

    def find(self, digest: bytes) -> Claims | None:
        claims = self._young.get(digest)
        if claims is None:
            claims = self._old.get(digest)
            if claims is not None:
                self.add(digest, claims)
        return claims

    def add(self, digest: bytes, claims: Claims) -> None:
        if len(self._young) >= self._capacity:
            self._old, self._young = self._young, {}
        self._young[digest] = claims

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())


class TokenSigner:
    """Makes and reads the JWTs of one deployment. The time of ``clock`` is in seconds since the epoch.

    Signs with the key of ``secret``; accepts those of ``previous`` too, each found by the ``kid`` in the token's
    header, so that a secret can be changed without signing anyone out.

    Remembers what it has verified: a token never comes to say anything else, and its time is looked at each time.
    """

    def __init__(
        self,
        secret: str,
        previous: Sequence[str] = (),
        *,
        issuer: str = "parley",
        audience: str = "parley",
        access_seconds: int = 900,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys: dict[str, bytes] = {}
        for one in reversed([secret, *previous]):
            key = _derive(one, "tokens")
            self._keys[hashlib.sha256(key).hexdigest()[:12]] = self._key = key
        self._kid = next(reversed(self._keys))
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._verified = Verified()
        self.access_seconds = access_seconds

    @property
    def remembered(self) -> int:
        """How many verified tokens are known."""
        return len(self._verified)

    def access_token(self, tenant: TenantId, user: UserId, session: SessionId) -> str:
        """A token for ``Authorization: Bearer``, good for ``access_seconds``."""
        return self._sign(Kind.ACCESS, tenant, user, session, self.access_seconds)

    def realtime_cookie(self, tenant: TenantId, user: UserId, session: SessionId) -> str:
        """The value of the cookie that realtime connections may sign in with: good as long as the sign-in lives."""
        return self._sign(Kind.REALTIME_COOKIE, tenant, user, session, None)

    def read(self, token: str, kind: Kind = Kind.ACCESS) -> Claims:
        """Verifies a token. Raises TokenInvalid and TokenExpired."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenInvalid()
        digest = _digest(token, kind)
        claims = self._verified.find(digest)
        known = claims is not None
        if claims is None:
            claims = self._verify(token, kind)
        if claims.expires_at is not None and claims.expires_at <= self._clock():
            raise TokenExpired()
        if not known:
            self._verified.add(digest, claims)
        return claims

    def _verify(self, token: str, kind: Kind) -> Claims:
        """What a token says that is ours and for this use, be it expired. Raises TokenInvalid."""
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                raise TokenInvalid()
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._audience + kind.value,
                issuer=self._issuer,
                options={
                    "require": ["iss", "aud", "sub", "sid", "tid", "jti", "iat"],
                    "strict_aud": True,
                    # Compared below, with the fraction of the second; instances' clocks may differ a little on iat.
                    "verify_exp": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenInvalid() from error
        return Claims(
            TenantId(_id(claims["tid"])),
            UserId(_id(claims["sub"])),
            SessionId(_id(claims["sid"])),
            _time(claims.get("exp"), needed=kind is Kind.ACCESS),
        )

    def _sign(
        self, kind: Kind, tenant: TenantId, user: UserId, session: SessionId, seconds: float | None
    ) -> str:
        now = self._clock()
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience + kind.value,
            "sub": str(user),
            "sid": str(session),
            "tid": str(tenant),
            "jti": str(new_id()),
            "iat": int(now),
        }
        if seconds is not None:
            # A NumericDate may have a fraction (RFC 7519, 2): a token lives as long as `expires_in` says.
            claims["exp"] = round(now + seconds, 3)
        return jwt.encode(claims, self._key, ALGORITHM, headers={"kid": self._kid})


def _digest(token: str, kind: Kind) -> bytes:
    """What stands for a token while it is remembered: no credential is kept, and no two tokens share one."""
    return hashlib.blake2b(
        token.encode(errors="surrogatepass"), digest_size=16, person=kind.name.encode()
    ).digest()


def _id(value: object) -> UUID:
    known = parse_id(value) if isinstance(value, str) else None
    if known is None:
        raise TokenInvalid()
    return known


def _time(value: object, *, needed: bool) -> float | None:
    if value is None and not needed:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenInvalid()
    return float(value)
