"""What code that has broken out of a sandbox meets: its process is the next wall.

What it would try is tried by a process of the test's own, locked in as a child
is, against a real keeper with functions loaded. What real children are is looked
at from outside.
"""

import _thread
import contextlib
import ctypes
import mmap
import os
import re
import resource
import select
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from keeper import confine
from schemas.names import new_instance_id
from tests.conftest import NatsServer
from tests.keeper.captive import (
    check,
    confined,
    in_fork,
    libc,
    lock_in,
    outcome,
    read_memory,
    system_call,
    trace,
)
from tests.keeper.conftest import Keeper, Loaded
from tests.keeper.memory import in_memory

NOBODY = 65534
_by_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can look into a process that is not dumpable"
)
T = TypeVar("T")

MIB = 1 << 20
DESCRIPTORS = 128
DATA = 64 * MIB
MOST = 8 * DATA
"""More than a limit of `DATA` can ever leave."""
SECRET = "the neighbour's " + new_instance_id()


@pytest.fixture(scope="module")
def neighbour(keeper: Keeper) -> Loaded:
    return keeper.load("env", variables={"PASSWORD": SECRET})


@pytest.fixture(scope="module")
def other(keeper: Keeper, neighbour: Loaded) -> Loaded:
    """A function of the same keeper, loaded after its neighbour."""
    return keeper.load("sort")


# What one could try.


def raise_limit(descriptors: int) -> None:
    limit = (ctypes.c_uint64 * 2)(descriptors, descriptors)
    check(libc.setrlimit(resource.RLIMIT_NOFILE, limit))


def take_port(spare: socket.socket, loaded: Loaded) -> None:
    spare.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    spare.bind((loaded.reply.ip, loaded.reply.port))


def send_to(listener: socket.socket, port: int) -> None:
    """Connect a listener, which every child has, by sending: TCP Fast Open needs no `connect`."""
    with contextlib.suppress(OSError):  # it was shut down by the attack before
        listener.shutdown(socket.SHUT_RDWR)
    listener.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", port))


def send_message_to(listener: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.sendmsg([b"x"], [], socket.MSG_FASTOPEN, ("127.0.0.1", port))


def attacks(
    keeper: Keeper, loaded: Loaded, spare: socket.socket, listener: socket.socket, nats: int
) -> dict[str, Callable[[], object]]:
    """Return them by name. `spare` is a socket, which no child has; `nats` is a port."""
    pid, zygote, supervisor = loaded.reply.pid, keeper.zygote, keeper.process.pid
    artifact = next(path for path in keeper.cache.rglob("*") if path.is_file())
    return {
        "read its memory": lambda: read_memory(pid),
        "read its memory as a file": lambda: Path(f"/proc/{pid}/mem").read_bytes(),
        "read the zygote's memory": lambda: read_memory(zygote),
        "read its environment": lambda: Path(f"/proc/{pid}/environ").read_bytes(),
        "trace it": lambda: trace(pid),
        "take its descriptors": lambda: system_call(438, os.pidfd_open(pid), 3, 0),
        "signal it": lambda: os.kill(pid, 9),
        "signal the zygote": lambda: os.kill(zygote, 9),
        "read the supervisor's memory": lambda: read_memory(supervisor),
        "signal the supervisor": lambda: os.kill(supervisor, 9),
        "change its limits": lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0)),
        "slow it": lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
        "take its port": lambda: take_port(spare, loaded),
        "call it": lambda: spare.connect((loaded.reply.ip, loaded.reply.port)),
        "call the control port": lambda: spare.connect(("127.0.0.1", keeper.port)),
        "call by another socket": lambda: socket.create_connection(("127.0.0.1", keeper.port)),
        "call the control port by sending": lambda: send_to(listener, keeper.port),
        "call the control port by a message": lambda: send_message_to(listener, keeper.port),
        "call NATS": lambda: spare.connect(("127.0.0.1", nats)),
        "call NATS by another socket": lambda: socket.create_connection(("127.0.0.1", nats)),
        "call NATS by sending": lambda: send_to(listener, nats),
        "alter an artifact": lambda: artifact.open("r+b"),
        "replace an artifact": lambda: artifact.rename(artifact.with_suffix(".old")),
        "add an artifact": lambda: artifact.with_suffix(".new").write_bytes(b"forged"),
        "read the keys": keeper.keys.control_file.read_bytes,
        "fork": os.fork,
        "take shared memory": lambda: mmap.mmap(-1, MIB),
        "take a memory file": lambda: os.memfd_create("x"),
        "take a pipe": os.pipe,
        "raise its own limits": lambda: raise_limit(4096),
        "leave its group": os.setsid,
    }  # fmt: skip


ATTACKS = (
    "read its memory", "read its memory as a file", "read the zygote's memory",
    "read its environment", "trace it", "take its descriptors", "signal it", "signal the zygote",
    "read the supervisor's memory", "signal the supervisor",
    "change its limits", "slow it", "take its port", "call it",
    "call the control port", "call by another socket", "call the control port by sending",
    "call the control port by a message", "call NATS", "call NATS by another socket",
    "call NATS by sending", "alter an artifact", "replace an artifact",
    "add an artifact", "read the keys", "fork", "take shared memory", "take a memory file",
    "take a pipe", "raise its own limits", "leave its group",
)  # fmt: skip


def in_child(task: Callable[[], T]) -> T:
    """Return what `task` returns in a process that is locked in as a child is."""
    return confined(task, descriptors=DESCRIPTORS, data_bytes=DATA)


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real NATS server."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield int(server.url.rpartition(":")[2])
    server.kill()


@pytest.fixture(scope="module")
def outcomes(keeper: Keeper, neighbour: Loaded, other: Loaded, nats: int) -> dict[str, str]:
    with socket.socket() as spare, socket.create_server(("127.0.0.1", 0)) as listener:
        tried = attacks(keeper, neighbour, spare, listener, nats)
        return in_child(lambda: {name: outcome(tried[name]) for name in ATTACKS})


@pytest.mark.parametrize("attack", ["call NATS", "call NATS by sending"])
def test_what_is_tried_works_where_nothing_is_locked_in(
    keeper: Keeper, neighbour: Loaded, nats: int, attack: str
) -> None:
    if not int(Path("/proc/sys/net/ipv4/tcp_fastopen").read_text()) & 1:
        pytest.skip("this machine's kernel sends nothing by TCP Fast Open")
    with socket.socket() as spare, socket.create_server(("127.0.0.1", 0)) as listener:
        tried = attacks(keeper, neighbour, spare, listener, nats)
        assert in_fork(lambda: outcome(tried[attack])) == "worked"


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_one_functions_process_can_not(outcomes: dict[str, str], attack: str) -> None:
    assert outcomes[attack] == "PermissionError"


def test_its_neighbour_notices_nothing(
    keeper: Keeper, outcomes: dict[str, str], neighbour: Loaded, other: Loaded
) -> None:
    assert neighbour.run()["status"] == 0
    assert other.run("2", "1")["output"] == ["1 2"]
    assert keeper.http("GET", "/healthz")[0] == 200


def channel_of(pid: int) -> socket.socket:
    """Return the socket on which the child `pid` speaks with its supervisor."""
    held = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - names only
            if (taken := libc.syscall(438, held, int(name), 0)) < 0:
                continue
            mode = os.fstat(taken).st_mode
            if stat.S_ISSOCK(mode):
                found = socket.socket(fileno=taken)
                if found.type == socket.SOCK_SEQPACKET:
                    return found
                found.close()
            else:
                os.close(taken)
    finally:
        os.close(held)
    raise AssertionError("the child has no channel")


@pytest.mark.skipif(os.geteuid() != 0, reason="must be able to speak in a child's name")
@pytest.mark.parametrize(
    "nonsense",
    [b"{", b'{"type":"\xff"}', b'{"type":"serving","x":' + b"[" * 30_000, b'{"type":"agreed"}'],
    ids=["no-json", "no-utf-8", "deep", "other-json"],
)
def test_what_no_child_says_ends_who_said_it_and_nobody_else(
    keeper: Keeper, neighbour: Loaded, nonsense: bytes
) -> None:
    taken_over = keeper.load("echo", interface="stdin")
    gone = os.pidfd_open(taken_over.reply.pid)
    try:
        with channel_of(taken_over.reply.pid) as channel:
            channel.send(nonsense)
        assert select.select([gone], [], [], 30)[0]
    finally:
        os.close(gone)
    assert keeper.http("GET", "/healthz")[0] == 200
    assert neighbour.run()["status"] == 0


def test_descriptors_and_memory_files_end_at_their_limits() -> None:
    file = os.memfd_create("x")

    def exhaust() -> list[int]:
        opened = 0
        try:
            while True:
                os.dup(0)
                opened += 1
        except OSError:
            return [opened, os.write(file, bytes(2 * MIB))]

    told = in_child(exhaust)
    os.close(file)
    assert 0 < told[0] < DESCRIPTORS
    assert told[1] == MIB


def test_memory_ends_at_its_limit_however_it_is_taken() -> None:
    def allocated() -> int:
        held = []
        try:
            while len(held) < MOST // MIB:
                held.append(bytes(MIB))
        except MemoryError:
            pass
        return len(held) * MIB

    def mapped() -> int:
        held = []
        try:
            while len(held) < MOST // MIB:
                held.append(mmap.mmap(-1, MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        except OSError:
            pass
        return len(held) * MIB

    def reserved() -> bool:
        """Touch what was mapped without access before, as a pool of sandboxes is."""
        return libc.mprotect(ctypes.c_void_p(place), 2 * DATA, 3) != 0

    place = libc.mmap(None, 2 * DATA, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    for way in (allocated, mapped):
        told = in_child(way)
        # What the process has free already comes on top, which in a tests' process may be much.
        assert DATA / 2 < told < MOST
    assert in_child(reserved)
    libc.munmap(ctypes.c_void_p(place), 2 * DATA)


def test_no_thread_can_be_started() -> None:
    def start() -> str:
        try:
            _thread.start_new_thread(int, ())
        except RuntimeError as error:
            return str(error)
        return "started"

    assert in_fork(start) == "started"
    assert "can't start new thread" in str(in_child(start))


@pytest.mark.skipif(os.geteuid() != 0, reason="must be able to give up the rights of root")
@pytest.mark.parametrize("locked_in", [False, True])
def test_another_process_of_the_same_user_sees_into_it_only_if_it_is_not_locked_in(
    locked_in: bool,
) -> None:
    program = confine.compile_filter()
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            # The change of user has made it not dumpable; an ordinary process is.
            libc.prctl(4, 1, 0, 0, 0)
            if locked_in:
                lock_in(program, descriptors=DESCRIPTORS, data_bytes=DATA)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
        finally:
            os._exit(0)

    def look() -> str:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return outcome(lambda: Path(f"/proc/{pid}/mem").open("rb"))

    try:
        os.read(ready[0], 1)
        assert in_fork(look) == ("PermissionError" if locked_in else "worked")
    finally:
        os.write(go[1], b"x")
        os.waitpid(pid, 0)
        for descriptor in (*ready, *go):
            os.close(descriptor)


# What real children are.


def sockets(pid: int) -> set[str]:
    """Return the sockets of a process by inode."""
    return {link for link in links(pid) if link.startswith("socket:")}


def links(pid: int) -> list[str]:
    return [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]


@_by_root
def test_a_child_holds_no_file_and_no_socket_of_anyone_else(
    keeper: Keeper, neighbour: Loaded, other: Loaded
) -> None:
    pids = (keeper.process.pid, keeper.zygote, neighbour.reply.pid, other.reply.pid)
    for pid in pids[1:]:
        strange = [
            link for link in links(pid)
            if not re.match(r"socket:|anon_inode:|/memfd:|/dev/null\Z", link)
        ]  # fmt: skip
        assert strange == []
        assert sockets(pid)
    assert sum(len(sockets(pid)) for pid in pids) == len(set().union(*map(sockets, pids)))


def test_a_child_is_locked_in_with_its_limits(neighbour: Loaded, other: Loaded) -> None:
    for loaded in (neighbour, other):
        limits = {
            line[:25].strip(): line[25:].split()[:2]
            for line in Path(f"/proc/{loaded.reply.pid}/limits").read_text().splitlines()
        }
        assert limits["Max core file size"] == ["0", "0"]
        for name in ("Max open files", "Max file size", "Max data size"):
            soft, hard = limits[name]
            assert soft == hard != "unlimited"
        status = Path(f"/proc/{loaded.reply.pid}/status").read_text()
        assert re.search(r"^NoNewPrivs:\t1\nSeccomp:\t2$", status, re.MULTILINE)


@_by_root
def test_a_neighbours_secret_is_in_its_own_memory_only(
    keeper: Keeper, neighbour: Loaded, other: Loaded
) -> None:
    assert in_memory(neighbour.reply.pid, SECRET.encode())
    for pid in (keeper.process.pid, keeper.zygote, other.reply.pid):
        assert not in_memory(pid, SECRET.encode())
