"""A crowd that is cut off, misses the same number of messages each, and comes back all at once (S7).

Bytes are kept while the clock runs, and read after it stopped. What everybody is given last is the same message, so a
session has caught up when that one has come.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.accounting import rss_bytes
from bench.checker import WrongError
from bench.dialects import body, client_id, is_reply, upgrade
from bench.frames import client_text, data_payloads
from bench.load import Cost, Meter, settle_memory
from bench.resumed import Judge, Missed, greeting

_PER_ADDRESS = 8000  # connections from one loopback source address, far below the ports it has
_BIND_ADDRESS_NO_PORT = 24  # Linux: choose the port at connect(), where the destination counts too
_SILENCE = 30.0
_READ = 256 * 1024
_TAIL = 1024  # more than follows the body in a message
_AT_ONCE = (
    3000  # who wait to be let in: past a full listen queue the kernel decides when they come, not the server
)
_SENDERS_AT_ONCE = 10
_QUIET_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class StormSpec:
    """Users by their `tokens`, who are in the conversations `conversations` (one entry a user).

    `senders` are users by index, and where each says something; the last of them, alone, what everybody gets last.
    """

    port: int
    pids: tuple[int, ...]
    helpers: tuple[int, ...]
    tokens: tuple[str, ...] = field(repr=False)
    conversations: tuple[tuple[bytes, ...], ...] = field(repr=False)
    senders: tuple[tuple[int, tuple[bytes, ...]], ...] = field(repr=False)
    missed: Missed


@dataclass(frozen=True, slots=True)
class Return:
    """A storm: `cursors` are where each user comes back from."""

    spec: StormSpec
    cursors: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StormResult:
    """`caught_up` holds, for each session, the seconds from the first connect to its last missed message."""

    seconds: float
    caught_up: list[float]
    events: int
    rss: int
    cost: Cost


class _Peer:
    __slots__ = ("done_at", "index", "received", "request", "sock", "tail", "unanswered")

    def __init__(self, index: int, sock: socket.socket, request: bytes) -> None:
        self.index = index
        self.sock = sock
        self.request = request
        self.received: list[bytes] = []
        self.tail = b""
        self.done_at = 0.0
        self.unanswered = 0


class Storm:
    """Connections of a spec's users. Close it after use. Everything raises WrongError."""

    def __init__(self, spec: StormSpec) -> None:
        self._spec = spec
        self._epoll = select.epoll()
        self.peers: list[_Peer] = []

    def close(self) -> None:
        """Cuts every connection, without a closing handshake."""
        for peer in self.peers:
            peer.sock.close()
        self._epoll.close()

    def open(
        self, users: Sequence[tuple[int, str | None]], ends: Callable[[bytes], bool], at_once: int
    ) -> float:
        """Connects these users, each with their cursor, and reads until `ends(the newest bytes)` for each.

        At most `at_once` at a time have not come to their end. Returns the seconds from the first to the last.
        """
        waiting: Iterator[tuple[int, str | None]] = iter(users)
        open_peers: dict[int, _Peer] = {}
        more, began = True, time.perf_counter()
        while more or open_peers:
            while more and len(open_peers) < at_once:
                user = next(waiting, None)
                if user is None:
                    more = False
                    break
                peer = self._dial(*user)
                open_peers[peer.sock.fileno()] = peer
                if len(open_peers) % 50 == 0:
                    break  # read what has come meanwhile
            room = more and len(open_peers) < at_once
            ready = self._epoll.poll(0 if room else _SILENCE)
            if not ready and not room:
                raise WrongError(
                    f"{len(open_peers)} sessions wait for {_SILENCE:.0f} s: {self._state(open_peers)}"
                )
            for fd, _ in ready:
                peer = open_peers[fd]
                if peer.request:
                    self._ask(peer)
                elif self._read(peer) and ends(peer.tail):
                    peer.done_at = time.perf_counter() - began
                    del open_peers[fd]
                    self._epoll.unregister(fd)
        return time.perf_counter() - began

    def _dial(self, user: int, cursor: str | None) -> _Peer:
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{2 + len(self.peers) // _PER_ADDRESS}", 0))
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # the server's queue is full: the kernel tries again
            sock.connect(("127.0.0.1", self._spec.port))
        path = "/api/v1/realtime/ws" + (f"?cursor={cursor}" if cursor else "")
        peer = _Peer(user, sock, upgrade(path, f"Authorization: Bearer {self._spec.tokens[user]}"))
        self.peers.append(peer)
        self._epoll.register(sock, select.EPOLLOUT)
        return peer

    def _ask(self, peer: _Peer) -> None:
        """The connection is there: sends the request, which fits into the kernel's empty buffer."""
        if error := peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise WrongError(f"user {peer.index}: {errno.errorcode.get(error)} on connecting")
        peer.sock.sendall(peer.request)
        peer.request = b""
        self._epoll.modify(peer.sock, select.EPOLLIN)

    def _read(self, peer: _Peer) -> bool:
        try:
            data = peer.sock.recv(_READ)
        except BlockingIOError:
            return False
        except OSError as error:
            raise WrongError(f"user {peer.index}: {errno.errorcode.get(error.errno or 0)}") from error
        if not data:
            raise WrongError(f"user {peer.index}: cut off after {b''.join(peer.received)[-300:]!r}")
        peer.received.append(data)
        peer.tail = data[-_TAIL:] if len(data) >= _TAIL else (peer.tail + data)[-_TAIL:]
        return True

    @staticmethod
    def _state(late: dict[int, _Peer]) -> str:
        one = next(iter(late.values()))
        got = b"".join(one.received)
        return f"user {one.index} has {len(got)} bytes, the last of them {got[-200:]!r}"

    def nothing_more(self, quiet: float = _QUIET_SECONDS) -> None:
        """Raises WrongError where anything else comes within `quiet` seconds."""
        watch = select.epoll()
        try:
            names = {peer.sock.fileno(): peer for peer in self.peers}
            for fd in names:
                watch.register(fd, select.EPOLLIN)
            for fd, _ in watch.poll(quiet):
                self._read(names[fd])
                raise WrongError(f"user {names[fd].index}: something came twice, or late: {names[fd].tail!r}")
        finally:
            watch.close()


def run_missing(spec: StormSpec) -> tuple[str, ...]:
    """Everybody connects and is cut off; then the messages are said. Returns everybody's cursors."""
    storm = Storm(spec)
    try:
        storm.open([(user, None) for user in range(len(spec.tokens))], _greeted, _AT_ONCE)
        cursors = tuple(greeting(f"user {p.index}", b"".join(p.received))[0] for p in sorted_peers(storm))
    finally:
        storm.close()
    _await_nobody(spec.port)
    *many, last = spec.senders
    _say(spec, many)
    _say(spec, [last])
    _await_nobody(spec.port)
    return cursors


def sorted_peers(storm: Storm) -> list[_Peer]:
    """By user."""
    return sorted(storm.peers, key=lambda peer: peer.index)


def _greeted(tail: bytes) -> bool:
    return b'"type":"hello"' in tail


def _say(spec: StormSpec, senders: Sequence[tuple[int, tuple[bytes, ...]]]) -> None:
    """Each sender says what is missing in each of their conversations, and waits for the answers."""
    storm, missed = Storm(spec), spec.missed
    run = time.time_ns() & 0xFFFFFFFF
    try:
        storm.open([(user, None) for user, _ in senders], _greeted, _AT_ONCE)
        pairs = list(zip(sorted_peers(storm), sorted(senders), strict=True))
        for start in range(0, len(pairs), _SENDERS_AT_ONCE):
            some = pairs[start : start + _SENDERS_AT_ONCE]
            for peer, (_, conversations) in some:
                _send(peer, run, conversations, missed)
            for peer, _ in some:
                _await_answers(peer)
    finally:
        storm.close()


def _send(peer: _Peer, run: int, conversations: Sequence[bytes], missed: Missed) -> None:
    commands = [
        client_text(_command(run, conversation, missed.number(conversation, seq)))
        for seq in range(missed.first_seq, missed.last_seq + 1)
        for conversation in conversations
    ]
    peer.sock.setblocking(True)
    peer.sock.settimeout(_SILENCE)
    peer.sock.sendall(b"".join(commands))
    peer.unanswered = len(commands)


def _command(run: int, conversation: bytes, number: int) -> bytes:
    return (
        b'{"id":"%d","op":"message.send","data":{"conversation_id":"%b","client_id":"%b","body":"%b"}}'
    ) % (number, conversation, client_id(run, number), body(number))


def _await_answers(peer: _Peer) -> None:
    buffer = bytearray()
    while peer.unanswered:
        data = peer.sock.recv(_READ)
        if not data:
            raise WrongError(f"user {peer.index}: cut off while sending")
        buffer += data
        payloads, consumed = data_payloads(buffer, len(buffer))
        del buffer[:consumed]
        for payload in payloads:
            if is_reply(payload):
                if b'"ok":true' not in payload:
                    raise WrongError(f"a send was refused: {payload!r}")
                peer.unanswered -= 1


def _await_nobody(port: int) -> None:
    """Waits until the server has seen every connection go."""
    deadline = time.monotonic() + _SILENCE
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        if 'parley_connections{transport="websocket"} 0.0' in lines:
            return
        time.sleep(0.2)
    raise WrongError("the server still holds connections that were cut")


def run_return(spec: Return) -> StormResult:
    """Everybody comes back at once, with the cursor they had."""
    load, missed = spec.spec, spec.spec.missed
    storm = Storm(load)
    common = load.senders[-1][1][0]
    marker = body(missed.number(common, missed.last_seq))
    settle_memory()
    try:
        meter = Meter(load.pids, load.helpers)
        seconds = storm.open(list(enumerate(spec.cursors)), lambda tail: marker in tail, _AT_ONCE)
        cost = meter.stop()
        rss = rss_bytes(load.pids)
        storm.nothing_more()
        judge = Judge(missed)
        events = sum(
            judge.resumed(
                f"user {peer.index}",
                b"".join(peer.received),
                spec.cursors[peer.index],
                load.conversations[peer.index],
            )
            for peer in storm.peers
        )
        return StormResult(seconds, [peer.done_at for peer in storm.peers], events, rss, cost)
    finally:
        storm.close()
