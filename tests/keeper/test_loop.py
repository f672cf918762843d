"""The event loop with real sockets; the other side is driven by the test between turns."""

import errno
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keeper.loop import HIGH_WATER_BYTES, Loop, Stream

DEADLINE_S = 30.0


STREAMS: list[Stream] = []


class Recorder:
    """A protocol that notes what it is told."""

    def __init__(self, on_data: Callable[["Recorder", bytes], None] | None = None) -> None:
        self.on_data = on_data
        self.data = b""
        self.events: list[str] = []
        self.stream: Stream

    def connection_made(self, transport: Stream) -> None:
        self.stream = transport
        STREAMS.append(transport)
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.on_data is not None:
            self.on_data(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


def until(loop: Loop, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        loop.call_later(0.01, lambda: None)
        loop.turn()


@pytest.fixture(autouse=True)
def all_closed() -> Iterator[None]:
    yield
    for stream in STREAMS:
        stream._lose(None)
    STREAMS.clear()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def peer() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    yield ours, theirs
    ours.close()


def test_connections_are_accepted_and_answered(loop: Loop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made: list[Recorder] = []

        def make() -> Recorder:
            made.append(Recorder(lambda self, data: self.stream.write(data.upper())))
            return made[-1]

        loop.listen(listener, make)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        for client in clients:
            client.sendall(b"hello")
        until(loop, lambda: [m.data for m in made] == [b"hello"] * 3)
        assert [client.recv(5) for client in clients] == [b"HELLO"] * 3
        assert made[0].stream.get_extra_info("peername") == clients[0].getsockname()
        for client in clients:
            client.close()
        until(loop, lambda: all(m.events == ["made", "lost"] for m in made))


def test_what_is_written_in_a_turn_is_sent_at_its_end(loop: Loop, peer: Any) -> None:
    ours, theirs = peer
    recorder = Recorder()
    loop.adopt(theirs, recorder)
    recorder.stream.write(b"a")
    recorder.stream.write(b"b")
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(9)
    loop.turn()
    assert ours.recv(9) == b"ab"


def test_a_peer_that_does_not_read_pauses_the_protocol_and_loses_nothing(
    loop: Loop, peer: Any
) -> None:
    ours, theirs = peer
    recorder = Recorder()
    stream = loop.adopt(theirs, recorder)
    sent = bytes(range(256)) * 8192
    stream.write(sent)
    loop.turn()
    assert recorder.events == ["made", "pause"]
    assert stream.get_write_buffer_size() > HIGH_WATER_BYTES
    stream.close()
    received = bytearray()
    ours.setblocking(False)

    def read() -> bool:
        try:
            received.extend(ours.recv(1 << 20))
        except BlockingIOError:
            return False
        return len(received) == len(sent)

    until(loop, read)
    assert received == sent
    until(loop, lambda: recorder.events[-1] == "lost")
    assert "resume" in recorder.events


def test_an_aborted_connection_ends_with_unsent_bytes(loop: Loop, peer: Any) -> None:
    _, theirs = peer
    recorder = Recorder()
    stream = loop.adopt(theirs, recorder)
    stream.write(bytes(1 << 22))
    stream.abort()
    until(loop, lambda: recorder.events[-1] == "lost")
    assert stream.is_closing()
    stream.write(b"late")
    loop.turn()


def test_a_paused_reader_gets_nothing_until_it_resumes(loop: Loop, peer: Any) -> None:
    ours, theirs = peer
    recorder = Recorder()
    stream = loop.adopt(theirs, recorder)
    stream.pause_reading()
    ours.sendall(b"x")
    loop.call_soon(lambda: None)
    loop.turn()
    assert recorder.data == b""
    stream.resume_reading()
    until(loop, lambda: recorder.data == b"x")


def test_the_sending_side_closes_alone_when_all_is_sent(loop: Loop, peer: Any) -> None:
    ours, theirs = peer
    recorder = Recorder()
    stream = loop.adopt(theirs, recorder)
    stream.write(b"last")
    stream.write_eof()
    loop.turn()
    assert (ours.recv(9), ours.recv(9)) == (b"last", b"")
    ours.sendall(b"still read")
    until(loop, lambda: recorder.data == b"still read")


def test_timers_come_in_the_order_of_their_times(loop: Loop) -> None:
    came: list[int] = []
    for number in (3, 1, 2):
        loop.call_later(number / 100, came.append, number)
    until(loop, lambda: len(came) == 3)
    assert came == [1, 2, 3]


def test_a_protocol_that_fails_loses_its_connection_and_is_told_of(peer: Any) -> None:
    ours, theirs = peer
    defects: list[Exception] = []
    loop = Loop(defects.append)

    def fail(_: Recorder, __: bytes) -> None:
        raise RuntimeError("defect")

    recorder = Recorder(fail)
    loop.adopt(theirs, recorder)
    ours.sendall(b"x")
    until(loop, lambda: recorder.events[-1] == "lost")
    assert [str(d) for d in defects] == ["defect"]


def test_without_descriptors_it_accepts_again_later_and_does_not_spin(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listener:
        """A listener that once has no descriptor left."""

        def __init__(self, real: socket.socket) -> None:
            self.real = real
            self.refused = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def accept(self) -> Any:
            if not self.refused:
                self.refused += 1
                raise OSError(errno.EMFILE, "none left")
            return self.real.accept()

    with socket.create_server(("127.0.0.1", 0)) as real:
        monkeypatch.setattr("keeper.loop._ACCEPT_PAUSE_S", 0.05)
        recorder = Recorder()
        loop.listen(Listener(real), lambda: recorder)  # type: ignore[arg-type] # it is one as far as the loop knows
        with socket.create_connection(real.getsockname()):
            turns = 0
            while not recorder.events:
                loop.turn()
                turns += 1
            assert turns < 10
