"""`confine` is called in a forked process of the test's own; what it forbids is then tried."""

import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest

from keeper import confine
from tests.keeper.captive import confined, in_fork, outcome, read_memory, system_call, trace


def _reopen(descriptor: int) -> None:
    Path(f"/proc/self/fd/{descriptor}").write_bytes(b"x")


def _executable_page() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


MEMORY_FILE = os.memfd_create("x")
"""As the output of calls has; a confined process can make none."""

ATTACKS: dict[str, Callable[[int, str, socket.socket], object]] = {
    "ptrace": lambda pid, *_: trace(pid),
    "process_vm_readv": lambda pid, *_: read_memory(pid),
    "kill another": lambda pid, *_: os.kill(pid, 0),
    "signal another by pidfd": lambda pid, *_: system_call(424, pid, 0, 0, 0),
    "pidfd of another": lambda pid, *_: os.pidfd_open(pid),
    "exec": lambda *_: os.execv("/bin/true", ["true"]),  # noqa: S606 -- it must fail
    "fork": lambda *_: os.fork(),
    "socket": lambda *_: socket.socket(),
    "unix socket": lambda *_: socket.socket(socket.AF_UNIX),
    "bind": lambda _, __, ready: ready.bind(("127.0.0.1", 0)),
    "connect": lambda _, __, ready: ready.connect(("127.0.0.1", 1)),
    "create a file": lambda _, path, __: Path(path, "new").write_bytes(b"x"),
    "write a file": lambda _, path, __: Path(path, "file").open("r+b"),  # noqa: SIM115 -- it must fail
    "truncate a file": lambda _, path, __: os.truncate(Path(path, "file"), 0),
    "read a file": lambda _, path, __: Path(path, "file").read_bytes(),
    "list a directory": lambda _, path, __: os.listdir(path),  # noqa: PTH208 -- the plain call
    "memory of another through /proc": lambda pid, *_: Path(f"/proc/{pid}/mem").open("rb"),  # noqa: SIM115 -- it must fail
    "delete a file": lambda _, path, __: Path(path, "file").unlink(),
    "make a directory": lambda _, path, __: Path(path, "d").mkdir(),
    "change permissions": lambda _, path, __: Path(path, "file").chmod(0o777),
    "rename": lambda _, path, __: Path(path, "file").rename(Path(path, "other")),
    "memory file by path": lambda *_: _reopen(MEMORY_FILE),
    "executable page": lambda *_: _executable_page(),
    "io_uring": lambda *_: system_call(425, 8, 0),
    "mount": lambda _, path, __: system_call(165, 0, 0, 0, 0, 0),
    "namespace": lambda *_: system_call(272, 0x10000000),
    "bpf": lambda *_: system_call(321, 0, 0, 0),
    "keyring": lambda *_: system_call(250, 0, 0, 0, 0, 0),
    "become another user": lambda *_: os.setuid(65533),
}

HARMLESS: dict[str, Callable[[], object]] = {
    "another file as stdout": lambda: os.dup2(MEMORY_FILE, os.dup(1)),
    "random bytes": lambda: os.urandom(8),
    "large allocation": lambda: bytearray(64 << 20),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("outside")
    (directory / "file").write_bytes(b"secret")
    ready = socket.socket()
    neighbour = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        return confined(
            lambda: {
                **{
                    name: outcome(lambda a=attack: a(neighbour.pid, str(directory), ready))  # type: ignore[misc]
                    for name, attack in ATTACKS.items()
                },
                **{name: outcome(action) for name, action in HARMLESS.items()},
            }
        )
    finally:
        ready.close()
        neighbour.communicate()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_confined_process_can_not(outcomes: dict[str, str], attack: str) -> None:
    assert outcomes[attack] in ("PermissionError", "OSError")


@pytest.mark.parametrize("action", HARMLESS)
def test_a_confined_process_still_can(outcomes: dict[str, str], action: str) -> None:
    assert outcomes[action] == "worked"


def test_a_memory_file_ends_at_its_limit() -> None:
    def attempts() -> dict[str, str]:
        written = os.write(MEMORY_FILE, bytes(2 << 20))
        return {"written": str(written), "more": outcome(lambda: os.write(MEMORY_FILE, b"x"))}

    assert confined(attempts) == {"written": str(1 << 20), "more": "OSError"}


def test_threads_that_ran_before_are_confined_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"secret")
    go, told = threading.Event(), SimpleQueue[dict[str, str]]()

    def attempts() -> dict[str, str]:
        go.set()
        return told.get()

    def late() -> None:
        go.wait()
        refused = {
            "read a file": outcome((tmp_path / "file").read_bytes),
            "socket": outcome(socket.socket),
            "fork": outcome(os.fork),
        }
        told.put(refused)

    def in_child() -> None:
        threading.Thread(target=late, daemon=True).start()

    assert set(confined(attempts, before=in_child).values()) == {"PermissionError"}


def test_a_process_that_is_kept_to_a_directory_reaches_no_other(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for directory in (inside, outside):
        directory.mkdir()
        (directory / "file").write_bytes(b"x")

    def attempts() -> dict[str, str]:
        confine.keep_to(str(inside))
        return {
            "read inside": outcome((inside / "file").read_bytes),
            "write inside": outcome(lambda: (inside / "new").write_bytes(b"x")),
            "memory file": outcome(lambda: _reopen(os.memfd_create("x"))),
            "read outside": outcome((outside / "file").read_bytes),
            "write outside": outcome(lambda: (outside / "new").write_bytes(b"x")),
        }

    outcomes = in_fork(attempts)
    assert {name for name, got in outcomes.items() if got == "worked"} == {
        "read inside", "write inside", "memory file",
    }  # fmt: skip


def test_a_process_ends_when_its_parent_does() -> None:
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        parent = os.getpid()
        if os.fork() == 0:
            confine.die_with_parent(parent)
            os.write(writer, b"ready")
            signal.pause()
        os.read(reader, 5)
        os._exit(0)
    os.close(writer)
    os.waitpid(middle, 0)
    with os.fdopen(reader, "rb") as pipe:
        pipe.read()  # ends when the last writer, the grandchild, has gone
