"""Which browser pages may talk to this server."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from handlers.keys import Client

DEFAULT_PORTS = {"http": 80, "https": 443}


class Origins:
    """The origins let in beside the server's own. ``*`` lets in every one."""

    def __init__(self, allowed: Iterable[str]) -> None:
        given = tuple(allowed)
        self._allowed = frozenset(_normal(origin) for origin in given if origin != "*")
        self.any = "*" in given

    def named(self, origin: str) -> bool:
        """Whether the settings name this origin itself, so that it may also send cookies."""
        return _split(origin)[1] != "" and _normal(origin) in self._allowed

    def allows(self, origin: str | None, client: Client) -> bool:
        """Whether a request with this Origin header is let in. Without one it does not come from a foreign page.

        The server's own origin is known by host and port. The scheme is left out: behind a proxy that ends TLS and
        is not among the trusted ones, the server cannot know what the browser spoke.
        """
        if origin is None or self.any or self.named(origin):
            return True
        scheme, netloc = _split(origin)
        if scheme not in DEFAULT_PORTS or not netloc:
            return False  # "null" among them: sandboxed frames and files
        return _host(netloc, scheme) == _host(client.host, scheme)


def _normal(origin: str) -> str:
    scheme, netloc = _split(origin)
    return f"{scheme}://{_host(netloc, scheme)}"


def _split(origin: str) -> tuple[str, str]:
    try:
        parts = urlsplit(origin)
    except ValueError:  # brackets that are no IPv6 address
        return "", ""
    return parts.scheme, parts.netloc


def _host(netloc: str, scheme: str) -> str:
    """Host and port in lower case, without the port that goes without saying."""
    return netloc.lower().removesuffix(f":{DEFAULT_PORTS.get(scheme, 0)}")
