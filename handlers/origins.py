"""Which browser pages may talk to this server."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from handlers.keys import Client

DEFAULT_PORTS = {"http": 80, "https": 443}


class Origins:
    """The origins let in beside the server's own. ``*`` lets in every one."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(_normal(origin) for origin in allowed if origin != "*")
        self.any = "*" in allowed

    def named(self, origin: str) -> bool:
        """Whether the settings name this origin itself, so that it may also send cookies."""
        return _normal(origin) in self._allowed

    def allows(self, origin: str | None, client: Client) -> bool:
        """Whether a request with this Origin header is let in. Without one it does not come from a foreign page.

        The server's own origin is known by host and port. The scheme is left out: behind a proxy that ends TLS and
        is not among the trusted ones, the server cannot know what the browser spoke.
        """
        if origin is None or self.any or self.named(origin):
            return True
        parts = urlsplit(origin)
        if parts.scheme not in DEFAULT_PORTS or not parts.netloc:
            return False  # "null" among them: sandboxed frames and files
        return _host(parts.netloc, parts.scheme) == _host(client.host, parts.scheme)


def _normal(origin: str) -> str:
    parts = urlsplit(origin)
    return f"{parts.scheme}://{_host(parts.netloc, parts.scheme)}".lower()


def _host(netloc: str, scheme: str) -> str:
    """Host and port in lower case, without the port that goes without saying."""
    return netloc.lower().removesuffix(f":{DEFAULT_PORTS.get(scheme, 0)}")
