import socket

from keeper.watch import MAX_PENDING_BYTES, Watcher
from schemas.control import WatchTick


def test_a_reader_gets_every_line() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        watcher = Watcher(ours)
        assert watcher.push(WatchTick(1))
        assert watcher.push(WatchTick(2))
        head, _, body = theirs.recv(4096).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b'{"line":"tick","loaded":1}\n{"line":"tick","loaded":2}\n'


def test_who_does_not_read_is_dropped_before_it_costs_memory() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        watcher = Watcher(ours)
        pushed = 0
        while watcher.push(WatchTick(1)):
            pushed += 1
        assert pushed * 20 < 4 * MAX_PENDING_BYTES


def test_who_has_gone_is_dropped() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        theirs.close()
        assert not Watcher(ours).push(WatchTick(1))
