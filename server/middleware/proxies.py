"""Who is really asking, when requests come through proxies."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp import web

from handlers.keys import Client

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_HOPS = 16
"""Proxies in a row that are looked at; a longer X-Forwarded-For is somebody's game."""


class Proxies:
    """Believes ``X-Forwarded-For`` and ``X-Forwarded-Proto`` from the networks given, and from nobody else.

    The list is read from its right end, where the nearest proxy wrote: the first address that is not a trusted proxy's
    is the client. What stands further left, anyone may have written.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    def client(self, request: web.Request) -> Client:
        peer = _parse(request.remote or "")
        host = request.headers.get("Host", "").lower()
        if peer is None or not self._is_trusted(peer):
            return Client(_text(peer, request.remote), request.scheme, host)
        address, hop = self._first_untrusted(peer, _list(request, "X-Forwarded-For"))
        return Client(str(address), _scheme(request, hop), host)

    def _first_untrusted(self, peer: Address, hops: Sequence[str]) -> tuple[Address, int]:
        """The client's address, and how many entries from the right it stands (0: the peer itself)."""
        address, place = peer, 0
        for number, text in enumerate(reversed(hops[-MAX_HOPS:]), start=1):
            parsed = _parse(text)
            if parsed is None:
                break
            address, place = parsed, number
            if not self._is_trusted(parsed):
                break
        return address, place

    def _is_trusted(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._trusted)


def _scheme(request: web.Request, hop: int) -> str:
    """What the client spoke to the first proxy: a list as long as X-Forwarded-For is read at the same place."""
    schemes = _list(request, "X-Forwarded-Proto")
    if not schemes:
        return request.scheme
    same_length = len(schemes) == len(_list(request, "X-Forwarded-For"))
    scheme = schemes[-hop] if same_length and hop else schemes[-1]
    return scheme.lower() if scheme.lower() in ("http", "https") else request.scheme


def _list(request: web.Request, name: str) -> list[str]:
    return [part.strip() for line in request.headers.getall(name, ()) for part in line.split(",")]


def _parse(text: str) -> Address | None:
    """An address, without the port, brackets or zone it may come with; IPv4 inside IPv6 comes out as IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _text(address: Address | None, raw: str | None) -> str:
    return str(address) if address is not None else raw or ""
