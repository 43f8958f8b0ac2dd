"""The little of RFC 6455 that a load generator needs: client frames out, server frames in.

Client frames are masked with the key 0, which the protocol allows and which leaves the payload as it is: the
generator's masking then costs nothing, while the server still has to unmask.
"""

from __future__ import annotations

from collections.abc import Iterator

_TEXT = 0x81
_MASKED = 0x80
_KEY = b"\0\0\0\0"
_DATA_OPCODES = (0x1, 0x2)


class FrameError(Exception):
    """The server wrote something this reader does not understand (a fragment, a masked frame)."""


def client_text(payload: bytes) -> bytes:
    """One final masked text frame."""
    size = len(payload)
    if size < 126:
        return bytes((_TEXT, _MASKED | size)) + _KEY + payload
    if size < 65536:
        return bytes((_TEXT, _MASKED | 126)) + size.to_bytes(2, "big") + _KEY + payload
    return bytes((_TEXT, _MASKED | 127)) + size.to_bytes(8, "big") + _KEY + payload


def server_frames(buffer: bytes | bytearray, end: int) -> Iterator[tuple[int, int, int]]:
    """The whole frames in `buffer[:end]` as (opcode, payload start, payload end), in order.

    A frame cut off by `end` is left out: reading goes on at the last payload end given. Raises FrameError.
    """
    position = 0
    while position + 2 <= end:
        first, size = buffer[position], buffer[position + 1]
        if size & _MASKED or not first & 0x80:
            raise FrameError(f"unexpected frame header {first:#04x} {size:#04x}")
        start = position + 2
        if size == 126:
            start += 2
            size = int.from_bytes(buffer[position + 2 : start], "big")
        elif size == 127:
            start += 8
            size = int.from_bytes(buffer[position + 2 : start], "big")
        if start + size > end:
            return
        position = start + size
        yield first & 0x0F, start, position


def data_payloads(buffer: bytes | bytearray, end: int) -> tuple[list[bytes], int]:
    """The payloads of the whole text and binary frames in `buffer[:end]`, and where reading goes on.

    Raises FrameError when the server closes.
    """
    payloads: list[bytes] = []
    consumed = 0
    for opcode, start, stop in server_frames(buffer, end):
        if opcode in _DATA_OPCODES:
            payloads.append(bytes(buffer[start:stop]))
        elif opcode == 0x8:
            raise FrameError(f"the server closed: {bytes(buffer[start:stop])!r}")
        consumed = stop
    return payloads, consumed
