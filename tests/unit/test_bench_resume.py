"""S12's replays are only timed where they are right."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from bench.checker import WrongError
from bench.resume import ResumeSpec, run_resumes
from realtime.codec import encode_cursor, ws_frame

CURSORS = [encode_cursor(7, position) for position in range(1, 6)]
HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def hello(cursor: str) -> bytes:
    return ws_frame(b'{"type":"hello","cursor":"%b"}' % cursor.encode())


def event(cursor: str) -> bytes:
    return ws_frame(b'{"cursor":"%b","type":"message.created","data":{}}' % cursor.encode())


@contextmanager
def serving(answer: bytes) -> Iterator[int]:
    """A server that gives everybody these bytes; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(4096)
                    peer.sendall(answer)
                    peer.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def resumed(given: Sequence[str], *, greeted: str = CURSORS[0], make: Callable[[str], bytes] = event) -> int:
    """What a replay of events 2 to 4 to a client with cursor 1 is judged as, where ``given`` came: how many events."""
    answer = HEAD + hello(greeted) + b"".join(map(make, given))
    with serving(answer) as port:
        missed = tuple(cursor.encode() for cursor in CURSORS[1:4])
        return run_resumes(ResumeSpec(port, (), (), "token", CURSORS[0], missed, times=2)).events


def test_everything_missed_in_order_counts() -> None:
    assert resumed(CURSORS[1:4]) == 6
    assert resumed(CURSORS[1:5]) == 6, "what happens meanwhile may follow"


@pytest.mark.parametrize(
    "given",
    [
        [CURSORS[1], CURSORS[3]],
        [CURSORS[1], CURSORS[1], CURSORS[2], CURSORS[3]],
        [CURSORS[2], CURSORS[1], CURSORS[3]],
        [CURSORS[0], CURSORS[1], CURSORS[2], CURSORS[3]],
    ],
    ids=["lost", "doubled", "reordered", "repeated from before"],
)
def test_a_replay_that_is_wrong_is_no_figure(given: list[str]) -> None:
    with pytest.raises(WrongError, match="were missed"):
        resumed(given)


def test_another_greeting_than_the_cursor_is_no_figure() -> None:
    with pytest.raises(WrongError, match="greeted"):
        resumed(CURSORS[1:4], greeted=CURSORS[4])
