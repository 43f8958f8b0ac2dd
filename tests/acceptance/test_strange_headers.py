"""Header values that are not text, on the places that read them: never a 5xx, never a hang."""

from __future__ import annotations

import asyncio
import itertools

from tests.support.clients import Api, Person

STRANGE = [
    b"\xff\xfe", b"\xed\xb0\x80", b"caf\xc3\xa9", b"a" * 4000, b"{}", b"a.b.c", b"a.\xff.c", b";=,", b"%00", b"-1", b"",
]  # fmt: skip
PLACES = [
    "Authorization: Bearer {}", "Authorization: {}", "Cookie: parley_realtime={}", "Cookie: {}", "Host: {}",
    "Origin: {}", "X-Forwarded-For: {}", "X-Request-ID: {}", "User-Agent: {}", "Idempotency-Key: {}",
    "Content-Type: {}", "Last-Event-ID: {}", "Accept-Encoding: {}", "Sec-WebSocket-Protocol: {}", "Expect: {}",
    "Content-Encoding: {}",
]  # fmt: skip
TARGETS = [
    b"GET /api/v1/users/me", b"POST /api/v1/auth/token", b"POST /api/v1/conversations", b"GET /api/v1/realtime/poll",
    b"GET /api/v1/realtime/ws", b"GET /readyz",
]  # fmt: skip


async def test_a_strange_header_is_an_error_of_the_clients_or_none(ann: Person) -> None:
    for place, target, value in itertools.product(PLACES, TARGETS, STRANGE):
        headers = {
            "Host": b"Host: 127.0.0.1",
            "Authorization": b"Authorization: Bearer " + ann.token.encode(),
            "Content-Type": b"Content-Type: application/json",
        }
        line = headers[place.partition(":")[0]] = place.encode().replace(b"{}", value)
        lines = [
            target + b" HTTP/1.1",
            *headers.values(),
            b"Content-Length: 2",
            b"Connection: close",
            b"",
            b"{}",
        ]
        status = await status_of(ann.api, b"\r\n".join(lines))
        assert 100 <= status < 500, (target, line, status)


async def status_of(api: Api, request: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            line = await reader.readline()
    finally:
        writer.close()
    return int(line.split()[1])
