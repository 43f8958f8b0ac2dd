"""Signed tokens: what is accepted, what is not, and that keys can be changed."""

from __future__ import annotations

import base64
import json
import string

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.ids import DEFAULT_TENANT, SessionId, UserId, new_id
from services.security.tokens import (
    Kind,
    TokenExpired,
    TokenInvalid,
    TokenSigner,
    Verified,
    digest_opaque_token,
    fingerprint_key,
    new_opaque_token,
)

SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
OTHER = "ffeeddccbbaa99887766554433221100"
USER, SESSION = UserId(new_id()), SessionId(new_id())


class Clock:
    def __init__(self, now: float = 1_800_000_000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def access(signer: TokenSigner) -> str:
    return signer.access_token(DEFAULT_TENANT, USER, SESSION)


def resigned(token: str, key: bytes, **changes: object) -> str:
    """The token with other claims (None takes one out), signed with ``key``."""
    claims = jwt.decode(token, options={"verify_signature": False})
    for name, value in changes.items():
        claims[name] = value
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, "HS256", headers={"kid": jwt.get_unverified_header(token)["kid"]})


def key_of(signer: TokenSigner) -> bytes:
    return signer._key


def test_a_token_says_who_and_for_how_long() -> None:
    clock = Clock()
    signer = TokenSigner(SECRET, access_seconds=900, clock=clock)
    claims = signer.read(access(signer))
    assert (claims.tenant, claims.user, claims.session) == (DEFAULT_TENANT, USER, SESSION)
    assert claims.expires_at == pytest.approx(clock.now + 900, abs=0.001)


def test_a_token_carries_every_claim_and_names_its_key() -> None:
    token = access(TokenSigner(SECRET, issuer="https://chat.example", audience="chat"))
    claims = jwt.decode(token, options={"verify_signature": False})
    assert set(claims) == {"iss", "aud", "sub", "sid", "tid", "jti", "exp", "iat"}
    assert (claims["iss"], claims["aud"], claims["sub"]) == ("https://chat.example", "chat", str(USER))
    header = jwt.get_unverified_header(token)
    assert header["alg"] == "HS256"
    assert len(header["kid"]) == 12


def test_two_tokens_of_one_moment_differ() -> None:
    signer = TokenSigner(SECRET, clock=Clock())
    assert access(signer) != access(signer)


def test_a_token_ends_at_its_time_to_the_fraction_of_a_second() -> None:
    clock = Clock()
    signer = TokenSigner(SECRET, access_seconds=1, clock=clock)
    token = access(signer)
    clock.now += 0.99
    signer.read(token)
    clock.now += 0.02
    with pytest.raises(TokenExpired) as raised:
        signer.read(token)
    assert (raised.value.status, raised.value.code) == (401, "token_expired")


def test_a_token_seen_before_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = TokenSigner(SECRET)
    token, cookie = access(signer), signer.realtime_cookie(DEFAULT_TENANT, USER, SESSION)
    first = signer.read(token), signer.read(cookie, Kind.REALTIME_COOKIE)
    monkeypatch.setattr(jwt, "decode", None)
    assert (signer.read(token), signer.read(cookie, Kind.REALTIME_COOKIE)) == first


def test_only_the_newest_verified_tokens_are_remembered() -> None:
    claims = TokenSigner(SECRET).read(access(TokenSigner(SECRET)))
    verified = Verified(capacity=10)
    for n in range(100):
        verified.add(b"%d" % n, claims)
        assert verified.find(b"0") is claims  # asked for all the time
        assert len(verified) <= 20
    assert all(verified.find(b"%d" % n) for n in range(91, 100))
    assert verified.find(b"50") is None


def test_a_token_of_another_secret_is_refused() -> None:
    with pytest.raises(TokenInvalid) as raised:
        TokenSigner(SECRET).read(access(TokenSigner(OTHER)))
    assert (raised.value.status, raised.value.code) == (401, "token_invalid")


def test_a_former_secret_still_verifies_and_never_signs() -> None:
    old, new = TokenSigner(OTHER), TokenSigner(SECRET, [OTHER])
    assert new.read(access(old)).session == SESSION
    with pytest.raises(TokenInvalid):
        old.read(access(new))


def test_the_current_secret_signs_even_if_listed_as_a_former_one_too() -> None:
    signer = TokenSigner(SECRET, [SECRET, OTHER])
    assert TokenSigner(SECRET).read(access(signer)).session == SESSION


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iss", "somebody"),
        ("aud", "something"),
        ("aud", ["parley"]),
        ("aud", "parley/realtime"),
        ("sub", "ada"),
        ("sub", None),
        ("sid", None),
        ("sid", 7),
        ("tid", None),
        ("tid", "{" + str(DEFAULT_TENANT) + "}"),
        ("jti", None),
        ("iat", None),
        ("exp", None),
        ("exp", "soon"),
        ("exp", True),
    ],
)
def test_a_well_signed_token_with_a_wrong_claim_is_refused(name: str, value: object) -> None:
    signer = TokenSigner(SECRET)
    token = resigned(access(signer), key_of(signer), **{name: value})
    with pytest.raises(TokenInvalid):
        signer.read(token)


def test_resigning_alone_changes_nothing() -> None:
    """The cases above are refused for their claim, not for how the test signs."""
    signer = TokenSigner(SECRET)
    assert signer.read(resigned(access(signer), key_of(signer))).user == USER


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize("algorithm", ["none", "None", "HS384", "HS512", "RS256"])
def test_the_algorithm_is_ours_to_choose(algorithm: str) -> None:
    signer = TokenSigner(SECRET)
    _, claims, signature = access(signer).split(".")
    header = part({"alg": algorithm, "typ": "JWT", "kid": signer._kid})
    for forged in (f"{header}.{claims}.{signature}", f"{header}.{claims}."):
        with pytest.raises(TokenInvalid):
            signer.read(forged)


def test_another_hmac_of_the_right_key_is_refused() -> None:
    signer = TokenSigner(SECRET)
    claims = jwt.decode(access(signer), options={"verify_signature": False})
    token = jwt.encode(claims, key_of(signer) * 2, "HS512", headers={"kid": signer._kid})
    with pytest.raises(TokenInvalid):
        signer.read(token)


@pytest.mark.parametrize("kid", [None, "", "unknown", 5, ["a"], {"a": 1}])
def test_a_token_that_names_no_key_of_ours_is_refused(kid: object) -> None:
    signer = TokenSigner(SECRET)
    _, claims, signature = access(signer).split(".")
    header = {"alg": "HS256", "typ": "JWT"} | ({} if kid is None else {"kid": kid})
    with pytest.raises(TokenInvalid):
        signer.read(f"{part(header)}.{claims}.{signature}")


def test_the_two_kinds_of_token_do_not_stand_in_for_each_other() -> None:
    signer = TokenSigner(SECRET)
    cookie = signer.realtime_cookie(DEFAULT_TENANT, USER, SESSION)
    assert signer.read(cookie, Kind.REALTIME_COOKIE).expires_at is None
    with pytest.raises(TokenInvalid):
        signer.read(cookie)
    with pytest.raises(TokenInvalid):
        signer.read(access(signer), Kind.REALTIME_COOKIE)


@given(st.text(max_size=300) | st.text(string.ascii_letters + "._-", max_size=300))
def test_no_text_does_anything_but_be_refused(text: str) -> None:
    with pytest.raises(TokenInvalid):
        TokenSigner(SECRET).read(text)


SIGNER = TokenSigner(SECRET)
GOOD = access(SIGNER)


@given(st.integers(0, len(GOOD) - 1), st.sampled_from(string.ascii_letters + string.digits + "-_.="))
def test_no_change_of_a_token_is_accepted(at: int, character: str) -> None:
    try:
        claims = SIGNER.read(GOOD[:at] + character + GOOD[at + 1 :])
    except TokenInvalid:
        return
    # Base64 has spare bits at an end: such a spelling holds the same bytes, so it is the same token.
    assert claims == SIGNER.read(GOOD)


def test_a_token_as_long_as_a_book_is_refused_unread() -> None:
    signer = TokenSigner(SECRET)
    with pytest.raises(TokenInvalid):
        signer.read(access(signer) + "A" * 100_000)


def test_opaque_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_opaque_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert {len(base64.urlsafe_b64decode(t + "=")) for t in tokens} == {32}
    assert len({digest_opaque_token(t) for t in tokens}) == 1000


@given(st.text(max_size=400))
def test_any_text_has_a_digest(text: str) -> None:
    assert len(digest_opaque_token(text)) == 32
    digest_opaque_token(text + "\ud800")


def test_fingerprints_tell_keys_apart_and_hold_none_of_them() -> None:
    assert fingerprint_key(SECRET) == fingerprint_key(SECRET) != fingerprint_key(OTHER)
    assert SECRET[:8] not in fingerprint_key(SECRET)
    assert len(fingerprint_key(SECRET)) == 32
