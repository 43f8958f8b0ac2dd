"""The load generator must notice every kind of wrong answer, or its figures mean nothing."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.chat_dialects import ACKNOWLEDGED, DELIVERED, OTHER, ParleyChat, SocketIOChat
from bench.checker import SequenceChecker, WrongError, check_burst
from bench.crowd import Crowd
from bench.dialects import BODY_BYTES, HttpPublished, Parley, SocketIO, body, client_id, number_of
from bench.fanout import Address
from bench.frames import FrameError, client_text, data_payloads, server_frames
from bench.transports import LongPolling, ServerSentEvents


def server_text(payload: bytes) -> bytes:
    """What a server sends: the same frame, unmasked."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return bytes((0x81, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x81, 127)) + size.to_bytes(8, "big") + payload


# Frames


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_frames_cut_anywhere_are_read_whole_and_once(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(server_text(payload) for payload in payloads)
    cut = data.draw(st.integers(0, len(stream)))
    first, consumed = data_payloads(stream, cut)
    rest, end = data_payloads(stream[consumed:], len(stream) - consumed)
    assert first + rest == payloads
    assert consumed + end == len(stream)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_client_frames_are_masked_whole_text_frames_of_every_length(size: int) -> None:
    frame = client_text(b"a" * size)
    assert frame[0] == 0x81
    assert frame[1] & 0x80
    assert frame.endswith(b"\0\0\0\0" + b"a" * size)
    unmasked = bytes((frame[0], frame[1] & 0x7F)) + frame[2 : len(frame) - size - 4] + b"a" * size
    assert data_payloads(unmasked, len(unmasked)) == ([b"a" * size], len(unmasked))


def test_a_control_frame_is_no_data() -> None:
    stream = server_text(b"one") + b"\x89\x00" + server_text(b"two")
    assert data_payloads(stream, len(stream)) == ([b"one", b"two"], len(stream))


def test_a_close_a_fragment_and_a_masked_frame_are_errors() -> None:
    for stream in (b"\x88\x02\x03\xe8", b"\x01\x01a", client_text(b"a")):
        with pytest.raises(FrameError):
            data_payloads(stream, len(stream))
    assert list(server_frames(b"\x81", 1)) == []


# Order


def test_checker_takes_a_run_without_holes() -> None:
    checker = SequenceChecker("receiver")
    for seq in (7, 8, 9):
        checker.see(seq)
    checker.finish(3)


@pytest.mark.parametrize(("next_seq", "what"), [(2, "doubled"), (1, "reordered"), (4, "lost")])
def test_checker_refuses_a_doubled_an_earlier_and_a_missing_seq(next_seq: int, what: str) -> None:
    checker = SequenceChecker("receiver")
    checker.see(1)
    checker.see(2)
    with pytest.raises(WrongError, match=what):
        checker.see(next_seq)


def test_checker_counts_at_the_end() -> None:
    checker = SequenceChecker("receiver")
    checker.see(1)
    with pytest.raises(WrongError, match="1 messages came, 2 were expected"):
        checker.finish(2)


@pytest.mark.parametrize(
    "seen",
    [
        [(11, 1), (12, 2)],  # one is lost
        [(11, 1), (12, 2), (13, 3), (14, 4)],  # one too many
        [(11, 1), (13, 2), (14, 3)],  # a hole in the server's seqs
        [(11, 1), (12, 3), (13, 2)],  # the publisher's messages in another order
        [(12, 1), (11, 2), (13, 3)],  # the server's seqs in another order
        [(11, 1), (12, 1), (13, 2)],  # a message twice under two seqs
    ],
)
def test_a_burst_with_anything_wrong_is_refused(seen: list[tuple[int, int]]) -> None:
    check_burst("receiver", [(11, 1), (12, 2), (13, 3)], 1, 3)
    with pytest.raises(WrongError):
        check_burst("receiver", seen, 1, 3)


# Dialects

EVENT = (
    b'{"cursor":"c","type":"message.created","topic":{"kind":"conversation","id":"k"},"at":"t",'
    b'"data":{"seq":42,"client_id":"%b","body":"%b"}}'
)


def test_bodies_are_200_bytes_and_carry_their_number() -> None:
    assert len(body(123)) == BODY_BYTES == 200
    assert number_of(b'["said","' + body(123) + b'"]') == 123


def test_client_ids_are_uuids_that_carry_their_number() -> None:
    from uuid import UUID

    assert UUID(client_id(0xDEADBEEF, 77).decode()).version == 4


def test_parley_receivers_find_the_seq_and_the_number_and_nothing_else() -> None:
    dialect = Parley("p", ["r"], "k", 1)
    assert dialect.event(EVENT % (client_id(1, 9), body(9))) == (42, 9)
    assert dialect.event(b'{"type":"heartbeat","cursor":"c"}') is None
    assert b"Bearer r\r\n" in dialect.open_request(0)


def test_parley_publisher_counts_replies_and_refuses_a_refusal() -> None:
    dialect = Parley("p", ["r"], "k", 1)
    good = server_text(b'{"type":"reply","id":"1","ok":true,"data":{}}')
    received = bytearray(good + server_text(EVENT % (client_id(1, 9), body(9))) + good + good[:5])
    assert dialect.take_acknowledged(received) == 2
    assert received == good[:5]
    with pytest.raises(WrongError, match="refused"):
        dialect.take_acknowledged(bytearray(server_text(b'{"type":"reply","id":"1","ok":false,"error":{}}')))


def test_http_publisher_counts_answers_cut_anywhere_once() -> None:
    answers = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n" * 3
    for cut in range(len(answers)):
        buffer, taken = bytearray(), 0
        for part in (answers[:cut], answers[cut:]):
            buffer += part
            taken += HttpPublished().take_acknowledged(buffer)
        assert taken == 3, cut
    with pytest.raises(WrongError, match="refused"):
        HttpPublished().take_acknowledged(bytearray(b"HTTP/1.1 503 Busy\r\n"))


def test_socketio_tells_messages_from_acknowledgements() -> None:
    dialect = SocketIO()
    assert dialect.event(b'42["said","' + body(5) + b'"]') == (5, 5)
    assert dialect.event(b'437["ok"]') is None
    assert dialect.take_acknowledged(bytearray(server_text(b'437["ok"]') + server_text(b"42[]"))) == 1


def test_chat_dialects_tell_replies_from_deliveries() -> None:
    parley = ParleyChat([1], ["a", "b"], ["k"], 1)
    reply = b'{"type":"reply","id":"9","ok":true,"data":{"id":"x","client_id":"%b","seq":3}}' % client_id(
        1, 9
    )
    assert parley.read(reply) == (ACKNOWLEDGED, 9, 0)
    assert parley.read(EVENT % (client_id(1, 9), b"x")) == (DELIVERED, 9, 42)
    assert parley.read(b'{"cursor":"c","type":"receipt.read","data":{}}')[0] == OTHER
    with pytest.raises(WrongError, match="refused"):
        parley.read(b'{"type":"reply","id":"9","ok":false,"error":{}}')
    socketio = SocketIOChat(1, ["k"], 1)
    assert socketio.read(b'42["chat",{"client_id":"%b"}]' % client_id(1, 8)) == (DELIVERED, 8, 0)
    assert socketio.read(b'438[{"client_id":"%b"}]' % client_id(1, 8)) == (ACKNOWLEDGED, 8, 0)


def test_sse_blocks_are_read_through_chunks_and_never_before_they_are_whole() -> None:
    block = b"id: c\nevent: message.created\ndata: " + EVENT % (client_id(1, 9), body(9)) + b"\n\n"
    stream = (b"%x\r\n" % len(block) + block + b"\r\n") * 2
    for cut in range(len(stream)):
        first, consumed = ServerSentEvents(["t"]).payloads(stream, cut)
        rest = stream[consumed:]
        second, end = ServerSentEvents(["t"]).payloads(rest, len(rest))
        assert [ServerSentEvents(["t"]).event(line) for line in first + second] == [(42, 9)] * 2, cut
        assert stream[consumed + end :] in (b"", b"\r\n")


def test_poll_answers_are_read_whole_and_asked_on_from_their_cursor() -> None:
    polling = LongPolling(["t"])
    answer = b'{"events":[' + EVENT % (client_id(1, 9), body(9)) + b'],"cursor":"next","more":false}'
    stream = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer
    assert polling.payloads(stream, len(stream) - 1) == ([], 0)
    assert polling.payloads(stream, len(stream)) == ([answer], len(stream))
    assert polling.event(answer) == (42, 9)
    assert b"cursor=next " in polling.follow_up(0, answer)
    with pytest.raises(WrongError, match="a poll was answered"):
        polling.payloads(b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n", 45)


# The crowd, against a server that does as it is told

Answer = Callable[[int, list[bytes]], bytes]


class FakeServer:
    """Speaks the HTTP-published dialect; `answer(receiver, bodies)` is what each receiver gets of one burst,
    `later` the same for what comes after the publisher has its answers."""

    def __init__(self, receivers: int, burst: int, answer: Answer, later: Answer) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._receivers, self._burst = receivers, burst
        self._answer, self._later = answer, later
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._listener)
            opened = []
            for _ in range(self._receivers + 1):
                peer = stack.enter_context(self._listener.accept()[0])
                peer.settimeout(10)
                opened.append(peer)
                if len(opened) <= self._receivers:
                    peer.recv(4096)
                    peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            *receivers, publisher = opened
            received = b""
            size = len(HttpPublished().publish(1, self._burst))
            while len(received) < size:
                received += publisher.recv(65536)
            bodies = [part.partition(b"\r\n\r\n")[2] for part in received.split(b"POST ")[1:]]
            for index, receiver in enumerate(receivers):
                receiver.sendall(self._answer(index, bodies))
            publisher.sendall(b"HTTP/1.1 202 Accepted\r\n\r\n" * len(bodies))
            for index, receiver in enumerate(receivers):
                receiver.sendall(self._later(index, bodies))
            publisher.recv(1)

    def join(self) -> None:
        self._thread.join(10)


def nothing(receiver: int, bodies: list[bytes]) -> bytes:
    return b""


@contextlib.contextmanager
def crowd_of(receivers: int, burst: int, answer: Answer, later: Answer = nothing) -> Iterator[Crowd]:
    server = FakeServer(receivers, burst, answer, later)
    crowd = Crowd(HttpPublished(), HttpPublished(), server.port, 65536, timeout=0.5)
    try:
        crowd.grow(receivers)
        crowd.open_publisher()
        yield crowd
    finally:
        crowd.close()
        server.join()


def frames(bodies: list[bytes]) -> bytes:
    return b"".join(server_text(each) for each in bodies)


@pytest.mark.allow_blocking
def test_crowd_accepts_a_burst_that_reached_everybody() -> None:
    with crowd_of(3, 5, lambda _, bodies: frames(bodies)) as crowd:
        assert crowd.burst(1, 5) > 0


@pytest.mark.allow_blocking
def test_receivers_take_turns_over_the_instances_and_each_token_is_used_at_every_one() -> None:
    with (
        contextlib.closing(socket.create_server(("127.0.0.1", 0))) as first,
        contextlib.closing(socket.create_server(("127.0.0.1", 0))) as second,
    ):
        ports = [listener.getsockname()[1] for listener in (first, second)]
        address = Address("parley", ports[0], (), tokens=("ann", "bob"), other_ports=(ports[1],))
        with contextlib.closing(address.crowd(1000)) as crowd:
            receivers = [crowd._dial(index) for index in range(4)]
            assert [receiver.sock.getpeername()[1] for receiver in receivers] == [*ports, *ports]
            asked = []
            for listener in (first, second, first, second):
                peer, _ = listener.accept()
                with peer:
                    peer.settimeout(10)
                    asked.append(re.findall(rb"Bearer (\w+)", peer.recv(4096)))
            for receiver in receivers:
                receiver.sock.close()
    assert asked == [[b"ann"], [b"ann"], [b"bob"], [b"bob"]]


def test_the_two_of_a_pair_are_at_different_instances() -> None:
    parley = ParleyChat([1, 2], ["a", "b"], ["k"], 1)
    assert [parley.url(user).split("/")[2] for user in range(4)] == ["127.0.0.1:1", "127.0.0.1:2"] * 2


@pytest.mark.allow_blocking
def test_crowd_reads_past_a_control_frame_to_one_receiver() -> None:
    def ping_in_between(receiver: int, bodies: list[bytes]) -> bytes:
        return frames(bodies[:2]) + (b"\x89\x00" if receiver == 1 else b"") + frames(bodies[2:])

    with crowd_of(3, 5, ping_in_between) as crowd:
        assert crowd.burst(1, 5) > 0


@pytest.mark.allow_blocking
@pytest.mark.parametrize(
    "wrong",
    [
        lambda bodies: frames(bodies[:-1]),
        lambda bodies: frames([*bodies, bodies[-1]]),
        lambda bodies: frames([bodies[0], bodies[0], *bodies[2:]]),
        lambda bodies: frames([bodies[1], bodies[0], *bodies[2:]]),
        lambda bodies: frames(bodies[1:]) + b"\x89\x00" * 110,
    ],
    ids=["lost", "one too many", "doubled", "reordered", "lost and padded"],
)
@pytest.mark.parametrize("victim", [0, 2])
def test_crowd_refuses_a_server_that_wrongs_one_receiver(
    wrong: Callable[[list[bytes]], bytes], victim: int
) -> None:
    def answer(receiver: int, bodies: list[bytes]) -> bytes:
        return wrong(bodies) if receiver == victim else frames(bodies)

    with crowd_of(3, 5, answer) as crowd, pytest.raises(WrongError):
        crowd.burst(1, 5)


@pytest.mark.allow_blocking
@pytest.mark.parametrize("victim", [0, 2])
def test_crowd_refuses_a_message_that_comes_again_after_the_last_burst(victim: int) -> None:
    def again(receiver: int, bodies: list[bytes]) -> bytes:
        assert accepted.wait(10)
        return frames(bodies[-1:]) if receiver == victim else b""

    accepted = threading.Event()
    with crowd_of(3, 2, lambda _, bodies: frames(bodies), again) as crowd:
        crowd.burst(1, 2)
        accepted.set()
        with pytest.raises(WrongError, match="nobody had just sent"):
            crowd.finish(quiet=2)
