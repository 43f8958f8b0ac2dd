"""A crowd of receivers on plain sockets and one epoll: the generator of every fan-out and memory figure.

It must cost less than a server that joins a hundred messages into one write, so it does no work per message: what
arrives is read into each receiver's own buffer until as many bytes came as the first receiver needed for the whole
burst. The check comes after the clock stopped: the first receiver's bytes are read frame by frame, all others are
compared with them in one memcmp, and one that differs (a control frame in between) is read frame by frame too.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence

from bench.checker import WrongError, check_burst
from bench.dialects import Opening, Publishing, Receiving

_OPENING_AT_ONCE = 64  # below the smallest listen backlog among the peers (aiohttp: 128)
_PER_ADDRESS = 8000  # receivers to one loopback source address, far below the ports it has
_BIND_ADDRESS_NO_PORT = 24  # Linux: choose the port at connect(), where the destination counts too
_SILENCE = 30.0


class Receiver:
    """One receiving connection and the bytes it has not accounted for yet."""

    __slots__ = ("buffer", "filled", "greeted", "index", "name", "sock", "view")

    def __init__(self, index: int, name: str, sock: socket.socket, capacity: int) -> None:
        self.index = index
        self.name = name
        self.sock = sock
        self.buffer = bytearray(capacity)
        self.view = memoryview(self.buffer)
        self.filled = 0
        self.greeted = False

    def read(self) -> int:
        """Read once. Raises WrongError at the end of the stream or when the buffer is full, OSError when it was cut."""
        room = self.view[self.filled :]
        if not room:
            raise WrongError(f"{self.name}: more than {len(self.buffer)} bytes came for one burst")
        count = self.sock.recv_into(room)
        if not count:
            raise WrongError(f"{self.name}: the server closed the connection")
        self.filled += count
        return count

    def drop(self, count: int) -> None:
        """Forget the first `count` bytes."""
        rest = self.filled - count
        self.buffer[:rest] = self.buffer[count : self.filled]
        self.filled = rest


class Crowd:
    """Receivers and one publisher on the server at 127.0.0.1:`port`. Close it after use.

    With `other_ports` the receivers take turns over all of them; the publisher is at the first.

    A receiver that has to ask again for each message does so as soon as a burst was checked.

    `capacity` bounds the bytes of one burst for one receiver, `timeout` each wait. `cpu_seconds` is what this
    generator itself spent while the clock ran.
    """

    def __init__(
        self,
        receiving: Receiving,
        publishing: Publishing,
        port: int,
        capacity: int,
        timeout: float = _SILENCE,
        other_ports: Sequence[int] = (),
    ) -> None:
        self._receiving = receiving
        self._publishing = publishing
        self._ports = (port, *other_ports)
        self._capacity = capacity
        self._timeout = timeout
        self._epoll = select.epoll()
        self._receivers: list[Receiver] = []
        self._by_fd: dict[int, Receiver] = {}
        self._publisher: socket.socket | None = None
        self._answers = bytearray()
        self._acknowledged = 0
        self.cpu_seconds = 0.0

    def __len__(self) -> int:
        return len(self._receivers)

    def close(self) -> None:
        """Close every connection at once, without a closing handshake."""
        for receiver in self._receivers:
            receiver.sock.close()
        if self._publisher is not None:
            self._publisher.close()
        self._epoll.close()

    # Opening

    def grow(self, size: int) -> None:
        """Open receivers until there are `size`, each one ready to get every message. Raises WrongError."""
        opening: dict[int, Receiver] = {}
        started = len(self._receivers)
        while started < size or opening:
            while started < size and len(opening) < _OPENING_AT_ONCE:
                receiver = self._dial(started)
                opening[receiver.sock.fileno()] = receiver
                started += 1
            ready = self._epoll.poll(self._timeout)
            if not ready:
                raise WrongError(f"{len(opening)} connections were not accepted within {self._timeout:.0f} s")
            for fd, _ in ready:
                late = opening.get(fd)
                if late is None:  # one already open, which is told something meanwhile
                    self._by_fd[fd].read()
                    self._settle(self._by_fd[fd])
                    continue
                late.read()
                payloads = self._greet(late, self._receiving)
                if payloads is not None:
                    del opening[fd]
                    self._receivers.append(late)
                    self._by_fd[fd] = late
                    self._follow_up(late, payloads)

    def _dial(self, index: int) -> Receiver:
        sock = self._connect(self._ports[index % len(self._ports)], index // _PER_ADDRESS)
        sock.sendall(self._receiving.open_request(index))
        sock.setblocking(False)
        self._epoll.register(sock, select.EPOLLIN)
        return Receiver(index, f"receiver {index}", sock, self._capacity)

    def _connect(self, port: int, group: int) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(self._timeout)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((f"127.0.0.{2 + group}", 0))
        sock.connect(("127.0.0.1", port))
        return sock

    def _greet(self, receiver: Receiver, how: Opening) -> list[bytes] | None:
        """Go on with a connection that is being opened; once it is ready, what it got so far."""
        if not receiver.greeted:
            if how.status is not None:
                end = receiver.buffer.find(b"\r\n\r\n", 0, receiver.filled)
                if end < 0:
                    return None
                head = bytes(receiver.buffer[: end + 4])
                if head.split(b" ", 2)[1] != how.status:
                    raise WrongError(f"the server refused a connection: {head!r}")
                receiver.drop(end + 4)
            receiver.greeted = True
            if how.greeting:
                receiver.sock.sendall(how.greeting)
        payloads, consumed = how.payloads(receiver.buffer, receiver.filled)
        if not how.is_ready(payloads):
            return None
        receiver.drop(consumed)
        return payloads

    def _settle(self, receiver: Receiver) -> None:
        """Take what is whole out of a receiver's buffer, uncounted."""
        payloads, consumed = self._receiving.payloads(receiver.buffer, receiver.filled)
        receiver.drop(consumed)
        self._follow_up(receiver, payloads)

    def _follow_up(self, receiver: Receiver, payloads: list[bytes]) -> None:
        if payloads and (request := self._receiving.follow_up(receiver.index, payloads[-1])):
            receiver.sock.sendall(request)

    def open_publisher(self) -> None:
        """Open the connection that publishes. Raises WrongError."""
        sock = self._connect(self._ports[0], 0)
        request = self._publishing.publisher_request()
        if request:
            receiver = Receiver(-1, "publisher", sock, 65536)
            sock.sendall(request)
            while True:
                receiver.read()
                if self._greet(receiver, self._publishing) is not None:
                    break
            self._answers += receiver.buffer[: receiver.filled]
        self._publisher = sock
        self._epoll.register(sock, select.EPOLLIN)

    def drain(self, quiet: float = 0.5) -> None:
        """Read and forget what still comes, until nothing came for `quiet` seconds."""
        while ready := self._epoll.poll(quiet):
            for fd, _ in ready:
                receiver = self._by_fd.get(fd)
                if receiver is None:
                    self._read_answers()
                else:
                    receiver.read()
                    self._settle(receiver)

    # Publishing

    def burst(self, first: int, count: int) -> float:
        """Publish `count` messages at once and wait until every receiver got them all.

        Returns the seconds from the first byte written to the last one read and the last acknowledgement.
        Raises WrongError when a receiver lacks a message, has it twice, or out of order.
        """
        published = self._publishing.publish(first, count)
        self._acknowledged = 0
        began, began_cpu = time.perf_counter(), time.process_time()
        goal = self._spread(published, count)
        seconds = time.perf_counter() - began
        self.cpu_seconds += time.process_time() - began_cpu
        self._verify(goal, first, count)
        return seconds

    def finish(self, quiet: float = 0.3) -> None:
        """Wait until nothing came for `quiet` seconds. Raises WrongError when a message still came."""
        while ready := self._epoll.poll(quiet):
            for fd, _ in ready:
                receiver = self._by_fd.get(fd)
                if receiver is None:
                    self._read_answers()
                    continue
                receiver.read()
                payloads, consumed = self._receiving.payloads(receiver.buffer, receiver.filled)
                if any(self._receiving.event(payload) for payload in payloads):
                    raise WrongError(f"{receiver.name}: a message came that nobody had just sent")
                receiver.drop(consumed)

    def _spread(self, published: bytes, count: int) -> int:
        """Publish and read; returns how many bytes the first receiver needed for all."""
        assert self._publisher is not None
        self._publisher.sendall(published)
        reference, by_fd, poll = self._receivers[0], self._by_fd, self._epoll.poll
        asks = self._receiving.status is None
        seen = parsed = goal = 0
        behind = len(self._receivers)
        while behind or self._acknowledged < count:
            ready = poll(self._timeout)
            if not ready:
                raise WrongError(
                    f"{behind} of {len(by_fd)} receivers still waited after {self._timeout:.0f} s of silence"
                    f" ({self._acknowledged} of {count} messages acknowledged); {self._straggler(goal)}"
                )
            for fd, _ in ready:
                receiver = by_fd.get(fd)
                if receiver is None:
                    self._read_answers()
                    continue
                before = receiver.filled
                now = before + receiver.read()
                if asks:  # a refusal has any length: look at each answer, so that it is told at once
                    self._receiving.payloads(receiver.buffer, now)
                if goal:
                    if before < goal <= now:
                        behind -= 1
                elif receiver is reference:
                    payloads, consumed = self._receiving.payloads(
                        reference.view[parsed:now].tobytes(), now - parsed
                    )
                    parsed += consumed
                    seen += sum(self._receiving.event(payload) is not None for payload in payloads)
                    if seen >= count:
                        goal = parsed
                        behind = sum(each.filled < goal for each in self._receivers)
        return goal

    def _straggler(self, goal: int) -> str:
        """What one of those that lack something has got, for the error message."""
        late = [each for each in self._receivers if not goal or each.filled < goal]
        if not late:
            return "all have it"
        got = bytes(late[0].buffer[: late[0].filled])[-600:]
        return f"{late[0].name} has {got!r}, the first one needed {goal} bytes"

    def _read_answers(self) -> None:
        assert self._publisher is not None
        received = self._publisher.recv(1 << 18)
        if not received:
            raise WrongError("the server closed the publisher's connection")
        self._answers += received
        self._acknowledged += self._publishing.take_acknowledged(self._answers)

    def _verify(self, goal: int, first: int, count: int) -> None:
        reference = self._receivers[0]
        expected = bytes(reference.buffer[:goal])
        last = self._check(reference, first, count)
        for receiver in self._receivers[1:]:
            if receiver.filled == goal and receiver.buffer.startswith(expected):
                receiver.filled = 0
                self._follow_up(receiver, last)
            else:
                self._check(receiver, first, count)

    def _check(self, receiver: Receiver, first: int, count: int) -> list[bytes]:
        """Read one receiver frame by frame, waiting for what a control frame in between has hidden.

        Returns the payloads read last.
        """
        seen: list[tuple[int, int]] = []
        deadline = time.monotonic() + self._timeout
        while True:
            payloads, consumed = self._receiving.payloads(receiver.buffer, receiver.filled)
            receiver.drop(consumed)
            events = (self._receiving.event(payload) for payload in payloads)
            seen += [event for event in events if event is not None]
            if len(seen) >= count or time.monotonic() > deadline:
                break
            more = select.poll()
            more.register(receiver.sock, select.POLLIN)
            if more.poll(1000):
                receiver.read()
        check_burst(receiver.name, seen, first, count)
        self._follow_up(receiver, payloads)
        return payloads
