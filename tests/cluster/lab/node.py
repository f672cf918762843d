"""The node that the lab plays: namespaces of its own, all gone when their first process ends.

The first process is number 1 of a PID namespace, so when it ends the kernel ends all others,
and with them the mounts and the network: nothing is left to clean up but files and empty cgroups.
"""

import ctypes
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.lab import cgroups, commands, paths, process
from tests.cluster.lab.commands import wait_until
from tests.cluster.lab.process import Process

NAME = "node1"
ADDRESS = "10.41.0.1"
PODS = "10.42.0.0/24"
SERVICES = "10.43.0.0/16"

NAMESPACES = ("--mount", "--net", "--pid", "--cgroup", "--uts")
_CLONE_NEWNET = 0x40000000

# Makes the shell that runs it, and so what it becomes, a member of the node's cgroups.
_JOIN = 'for c in $WASMFN_LAB_CGROUPS; do echo $$ >"$c/cgroup.procs"; done; exec "$@"'


def up() -> None:
    """Make the node; what an earlier run left behind is removed first."""
    down()
    paths.LOGS.mkdir(parents=True)
    made = cgroups.make(f"wasmfn-lab-{os.getpid()}")
    (paths.STATE / "cgroups").write_text("".join(f"{cgroup}\n" for cgroup in made))
    unshare = ["unshare", *NAMESPACES, "--propagation", "private", "--fork", "--kill-child"]
    node = ["sh", str(Path(__file__).with_name("node.sh")), str(paths.STATE)]
    node += [NAME, f"{ADDRESS}/24", SERVICES, *cgroups.hierarchies()]
    parent = _spawn([*unshare, *node], log=paths.LOGS / "node")
    first: Process | None = None

    def ready() -> bool:
        nonlocal first
        if _ended(parent):
            raise RuntimeError(f"the node did not start:\n{(paths.LOGS / 'node').read_text()}")
        if first is None and (first := process.only_child(parent)):
            process.save("node", first)
        return first is not None and (paths.STATE / "node-ready").exists()

    wait_until("the node's namespaces are set up", ready, within_s=10)


def down() -> None:
    """End the node with everything that runs in it, and remove what it leaves."""
    if first := process.load("node"):
        first.kill()
    try:
        made = (paths.STATE / "cgroups").read_text().split()
    except FileNotFoundError:
        made = []
    for cgroup in made:
        cgroups.remove(Path(cgroup))
    if paths.STATE.exists():
        shutil.rmtree(paths.STATE)


def running() -> bool:
    return process.load("node") is not None


def inside(*command: str | Path) -> list[str]:
    """Return the command line that runs `command` on the node, in the same directory.

    Raises:
        RuntimeError: The lab is down.
    """
    enter = ["nsenter", "--target", str(_first().pid), *NAMESPACES, f"--wdns={Path.cwd()}", "--"]
    return enter + [str(word) for word in command]


def run(*command: str | Path, stdin: bytes = b"") -> str:
    """Run a program on the node to its end and return its standard output.

    Raises:
        CommandError: It ended with a status other than 0.
    """
    return commands.run(*inside(*command), stdin=stdin)


def http(method: str, url: str, **options: Any) -> httpx.Response:
    """Send one request from the node; the options are those of httpx."""
    with network():
        return httpx.request(method, url, trust_env=False, **options)


def start(name: str, *command: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Start a daemon of the node; its output goes to a log of its name."""
    log = paths.LOGS / name
    parent = _spawn(inside(*command), log, env)

    def forked() -> bool:
        if _ended(parent):
            raise RuntimeError(f"{name} ended at once:\n{log.read_text()[-4000:]}")
        if daemon := process.only_child(parent):
            process.save(name, daemon)
            return True
        return False

    wait_until(f"{name} has started", forked, within_s=5, every_s=0.002)


def _spawn(command: list[str], log: Path, env: Mapping[str, str] | None = None) -> int:
    """Start a program in the node's cgroups that outlives this one, and return its process id.

    Not by `subprocess`, which warns of processes that are forgotten before they end.
    """
    joined = " ".join((paths.STATE / "cgroups").read_text().split())
    return os.posix_spawnp(
        "sh",
        ["sh", "-c", _JOIN, "sh", *command],
        {**os.environ, **(env or {}), "WASMFN_LAB_CGROUPS": joined},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _ended(child: int) -> bool:
    pid, _ = os.waitpid(child, os.WNOHANG)
    return pid == child


@contextmanager
def network() -> Iterator[None]:
    """Put the calling thread on the node's network: sockets it makes, and processes it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/proc/{_first().pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(libc.setns(there, _CLONE_NEWNET))
        try:
            yield
        finally:
            _check(libc.setns(here, _CLONE_NEWNET))
    finally:
        os.close(here)
        os.close(there)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _first() -> Process:
    first = process.load("node")
    if first is None:
        raise RuntimeError("the lab is down: run `python -m tests.cluster.lab up`")
    return first
