"""The way out of the process for bytes that are shared by many receivers."""

from __future__ import annotations

import asyncio
import os

from realtime.closing import Closing


class Outlet:
    """Writes to a connection, ahead of the event loop where that can be done.

    Where nothing waits on the transport the bytes go straight to the kernel, which saves what handing them to the
    transport costs (docs/adr/0003). What the kernel does not take, and everything while something waits, goes through
    the transport, so the order is that of the calls, also with what others write to it. Only for a connection without
    TLS of its own.
    """

    __slots__ = ("_fd", "_transport", "closing")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        plain = transport.get_extra_info("sslcontext") is None
        socket = transport.get_extra_info("socket") if plain else None
        self._fd: int = -1 if socket is None else socket.fileno()
        self.closing: Closing | None = None
        """Why the connection is being ended; nothing more is written once it is set."""

    def write(self, data: bytes) -> int:
        """Sends ``data``; returns the bytes that the kernel has not taken. Drops it on a connection that is gone."""
        transport = self._transport
        if self.closing is not None or transport.is_closing():
            return 0
        if self._fd >= 0 and not transport.get_write_buffer_size():
            try:
                sent = os.write(self._fd, data)
            except OSError:  # full, or gone: the transport finds out which
                sent = 0
            if sent == len(data):
                return 0
            data = data[sent:]
        transport.write(data)
        return transport.get_write_buffer_size()

    def buffered(self) -> int:
        """Bytes that the kernel has not taken."""
        return self._transport.get_write_buffer_size()

    def finish(self) -> None:
        """Ends the connection once what was written has gone out."""
        if not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        """Cuts the connection and drops what waits, also where it is closing and waits for the peer to read."""
        self._transport.abort()
