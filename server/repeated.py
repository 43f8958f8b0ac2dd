"""What the polls of one connection have in common, learnt from one that was served the usual way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, web

from handlers import keys
from handlers.longpoll import Polled
from realtime.codec import CURSOR_CHARS
from server.middleware.requests import given_id

if TYPE_CHECKING:
    from yarl import URL

_CURSOR = re.compile(rb"[?&]cursor=([A-Za-z0-9_-]{%d})(?=[& ])" % CURSOR_CHARS)
_LIMITS = frozenset({"RateLimit", "RateLimit-Policy"})
_MORE_THAN_A_QUESTION = ("Upgrade", "Expect", "Content-Length", "Transfer-Encoding")
_SLOTS = {
    "x-request-id": "%(id)b",
    "date": "%(date)b",
    "content-length": "%(length)d",
    "ratelimit": "%(RateLimit)b",
    "ratelimit-policy": "%(RateLimit-Policy)b",
}
"""Headers of an answer that differ from the one before."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """What the polls of one connection have in common."""

    before: bytes
    """The request up to its cursor."""
    after: bytes
    length: int
    polled: Polled
    client: keys.Client
    url: URL
    request_id: str | None
    """Where the request brings one itself."""
    head: bytes
    """Of the answer, to be formatted with ``id``, ``date``, ``length``, ``close`` and the rate limits' headers."""
    limits: frozenset[str]
    """Headers of rate limits in the answer."""


def learn(asked: bytes, request: web.BaseRequest, response: web.StreamResponse) -> Repeated | None:
    """What can be told of requests like this one, which came in ``asked`` and has been answered. None where it was not
    an ordinary poll, or not all of ``asked``."""
    polled = request.get(keys.POLLED)
    if polled is None or response.status != 200 or not response.keep_alive:
        return None
    head = _head_of(response)
    if head is None or not _is_all_of(asked, request):
        return None
    cut = _CURSOR.search(asked, 0, asked.index(b"\r\n"))
    if cut is None or cut[1].decode() != polled.cursor or asked.count(b"cursor=") != 1:
        return None
    return Repeated(
        before=asked[: cut.start(1)],
        after=asked[cut.end(1) :],
        length=len(asked),
        polled=polled,
        client=request[keys.CLIENT],
        url=request.rel_url,
        request_id=given_id(request),
        head=head,
        limits=_LIMITS & request.get(keys.ANSWER_HEADERS, {}).keys(),
    )


def _is_all_of(asked: bytes, request: web.BaseRequest) -> bool:
    """Whether these bytes are this request, from its first to its last, and it has no body.

    They are where they hold one empty line, at their end, and the request line and as many headers as were parsed: had
    the parser been in the middle of something when they came, it would have found another request in them.
    """
    line = f"GET {request.raw_path} HTTP/1.1\r\n".encode(errors="surrogateescape")
    return (
        request.version == HttpVersion11
        and asked.startswith(line)
        and asked.find(b"\r\n\r\n") == len(asked) - 4
        and asked.count(b"\r\n") == len(request.raw_headers) + 2
        and b"#" not in line
        and not any(name in request.headers for name in _MORE_THAN_A_QUESTION)
    )


def _head_of(response: web.StreamResponse) -> bytes | None:
    """The head of an answer with slots for what differs the next time, as :meth:`Lane._answer` fills them.
    None where it repeats something of the request that is not text."""
    lines = [f"HTTP/1.1 {response.status} {response.reason}\r\n"]
    for name, value in response.headers.items():
        lines.append(f"{name}: {_SLOTS.get(name.lower()) or value.replace('%', '%%')}\r\n")
    lines.append("%(close)b\r\n")  # where it stands while the server drains
    try:
        return "".join(lines).encode()
    except UnicodeEncodeError:
        return None
