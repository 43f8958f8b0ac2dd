"""What may be a username, an email address, a password, a tenant's host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.accounts import USERNAME, check_email, check_password, check_username
from services.tenants import subdomain_of
from services.visibility import user_name


@pytest.mark.parametrize(
    "name", ["ab", "a" * 31, "has space", "käse", "a-b-c", "", "ab\x00c", "kelvin\u212a", "name\n", "me"]
)
def test_a_username_is_3_to_30_plain_characters(name: str) -> None:
    with pytest.raises(ValueError, match="3 to 30"):
        check_username(name)


@pytest.mark.parametrize("name", ["abc", "a" * 30, "a.b_c", "...", "123"])
def test_a_username_is_folded_to_lower_case(name: str) -> None:
    assert check_username(name) == check_username(name.upper()) == name


@given(st.text(max_size=40))
def test_what_names_a_user_is_never_more_than_plain_lower_case(text: str) -> None:
    name = user_name(text)
    assert isinstance(name, str)
    assert name == "" or (name.isascii() and name == name.lower() and "\x00" not in name)
    if USERNAME.fullmatch(text):
        assert name == text


@pytest.mark.parametrize(
    "email", ["", "ada", "ada@", "@example.com", "a b@example.com", "ada@localhost", "a@b@c.de", "a@b.c\n"]
)
def test_an_email_address_must_look_like_one(email: str) -> None:
    with pytest.raises(ValueError, match="email"):
        check_email(email)


@pytest.mark.parametrize(
    ("email", "stored"),
    [
        ("Ada@EXAMPLE.com", "Ada@example.com"),
        ("a@intranet.local", "a@intranet.local"),
        ("a@service.test", "a@service.test"),
        ("a.b+c@sub.example.org", "a.b+c@sub.example.org"),
        ("a@shop.example", "a@shop.example"),
        ("ü@bücher.de", "ü@bücher.de"),
    ],
)
def test_an_email_address_need_not_be_of_the_public_internet(email: str, stored: str) -> None:
    assert check_email(email) == stored


@pytest.mark.parametrize("password", ["", "1234567", "ä" * 3, "x" * 1025, "ä" * 513, "\ud800" * 342])
def test_a_password_is_8_to_1024_bytes(password: str) -> None:
    with pytest.raises(ValueError, match="8 to"):
        check_password(password)


@pytest.mark.parametrize("password", ["12345678", "ä" * 4, "x" * 1024, "\x00" * 8, " " * 8])
def test_a_password_at_the_limits_is_taken_as_it_is(password: str) -> None:
    assert check_password(password) == password


@pytest.mark.parametrize(
    ("host", "subdomain"),
    [
        ("acme.chat.example.com", "acme"),
        ("ACME.Chat.Example.COM:8443", "acme"),
        ("acme.chat.example.com.", "acme"),
        ("chat.example.com", ""),
        ("chat.example.com:80", ""),
        ("127.0.0.1:8080", ""),
        ("[::1]:8080", ""),
        ("[::1]", ""),
        ("", ""),
        ("evilchat.example.com", ""),
        ("chat.example.com.evil.org", ""),
        ("a.b.chat.example.com", "a.b"),
        (".chat.example.com", ""),
    ],
)
def test_the_subdomain_names_the_tenant(host: str, subdomain: str) -> None:
    assert subdomain_of(host, "chat.example.com") == subdomain
    assert subdomain_of(host, None) == ""
