"""Bodies of accounts, signing in and profiles."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, SecretStr

from handlers.schemas.common import Body, Patch
from services.accounts import check_email, check_password, check_username


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _settable(password: SecretStr) -> SecretStr:
    check_password(password.get_secret_value())
    return password


Username = Annotated[
    str,
    AfterValidator(check_username),
    Field(max_length=30, description="3 to 30 of `a-z 0-9 _ .`; capitals are folded.", examples=["ada"]),
]
Email = Annotated[str, AfterValidator(check_email), Field(max_length=254, examples=["ada@example.com"])]
NewPassword = Annotated[
    SecretStr, AfterValidator(_settable), Field(description="8 to 1,024 bytes of UTF-8; all of them count.")
]
DisplayName = Annotated[str, AfterValidator(_not_blank), Field(min_length=1, max_length=100)]
Interest = Annotated[str, AfterValidator(_not_blank), Field(min_length=1, max_length=50)]


class Registration(Body):
    """A new account."""

    username: Username
    email: Email
    password: NewPassword
    display_name: DisplayName | None = Field(None, description="The username where it is not given.")


class SignIn(Body):
    """A sign-in by password, as JSON or as the form of OAuth 2.0 (RFC 6749, 4.3.2)."""

    username: str = Field(min_length=1, max_length=254, description="A username or an email address.")
    password: SecretStr
    grant_type: Literal["password"] = "password"  # RFC 6749
    scope: str | None = Field(None, description="OAuth 2.0 clients may send it; it changes nothing.")
    client_id: str | None = Field(None, description="OAuth 2.0 clients may send it; it changes nothing.")
    client_secret: SecretStr | None = Field(
        None, description="OAuth 2.0 clients may send it; it changes nothing."
    )


class TokenRefresh(Body):
    """The refresh token of the newest pair."""

    refresh_token: SecretStr


class AccountDeletion(Body):
    """The caller's password, so that a borrowed device cannot delete an account."""

    password: SecretStr


class SettingsUpdate(Body):
    """The settings to change; the others stay."""

    private: Patch[bool] = None
    presence: Patch[bool] = None


class ProfileUpdate(Body):
    """The parts of the profile to change; the others stay."""

    display_name: Patch[DisplayName] = None
    bio: Patch[Annotated[str, Field(max_length=1000)]] = None
    avatar_media_id: UUID | None = Field(None, description="Null takes the avatar away.")
    interests: Patch[Annotated[list[Interest], Field(max_length=20)]] = None
    settings: Patch[SettingsUpdate] = None


class TicketRequest(Body):
    """What to give beside the ticket."""

    cookie: bool = Field(
        False,
        description="Also set a cookie, so that an `EventSource` can reconnect by itself while the session lives.",
    )
