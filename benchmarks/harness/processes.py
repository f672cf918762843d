"""Start programs on chosen cores, know when they serve, read what they use, end them."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from benchmarks.harness.result import MissingError

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
START_S = 30.0
READY_S = 120.0
"""A router reads the whole snapshot before it is ready."""
STOP_S = 20.0

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE = CORES[0]
"""Where the contestant runs, alone."""
LOAD_CORE = CORES[-1]
"""Where everything else runs: what makes the load, and what stands behind a proxy."""

PYTHON = (sys.executable, "-P")


def program(name: str) -> str:
    """Return the path of a program. MissingError says how to get it."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise MissingError(f"{name} is not installed: apt install {name}")
    return path


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def pinned(command: Sequence[str], core: int | None) -> list[str]:
    """Return `command` bound to a core, or to none in particular."""
    return list(command) if core is None else ["taskset", "--cpu-list", str(core), *command]


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    core: int | None = None,
    environ: Mapping[str, str] | None = None,
    port: int = 0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program from when it listens at `port` until the end of the block.

    What it says is shown if it ends by itself. RuntimeError then.
    """
    # What the user's shell says of another platform must not reach this one.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WASMFN_")}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            pinned(command, core),
            cwd=ROOT,
            env={**clean, **(environ or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            if port:
                until_listening(port, process)
            yield process
            _still_runs(process)
        except RuntimeError:
            sys.stderr.write(_end_of(log))
            raise
        finally:
            end(process)


def _still_runs(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        raise RuntimeError(f"a program ended by itself with {process.returncode}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, by force if it does not go."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when somebody listens at `port`. RuntimeError if `process` ended first."""
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
            return
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode} before it served")
        if time.monotonic() > deadline:
            raise RuntimeError(f"nobody listens at port {port} after {START_S:g} s")
        time.sleep(0.002)


@contextlib.contextmanager
def readiness() -> Iterator[tuple[str, socket.socket]]:
    """Yield the address to name in NOTIFY_SOCKET, and the socket that is told there."""
    with (
        tempfile.TemporaryDirectory() as place,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard,
    ):
        path = f"{place}/notify"
        heard.bind(path)
        heard.settimeout(READY_S)
        yield path, heard


def until_ready(heard: socket.socket) -> str:
    """Return the address of the admin port, once the service says that it is ready."""
    while True:
        message = heard.recv(4096).decode()
        fields = dict(line.partition("=")[::2] for line in message.splitlines())
        if fields.get("READY") == "1":
            return fields.get("X_WASMFN_ADMIN", "")


def family(root: int) -> list[int]:
    """Return `root` and every process below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(") ")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, left = [root], [root]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def only_leaf(root: int) -> int:
    """Return the one process below `root` with none below it: a keeper's that runs the function."""
    leaves = [pid for pid in family(root)[1:] if family(pid) == [pid]]
    if len(leaves) != 1:
        raise RuntimeError(f"the process {root} has {len(leaves)} leaves below it, not one")
    return leaves[0]


def cpu_s(root: int) -> float:
    """Return the processor time that `root` and all below it have used."""
    ticks = 0
    for pid in family(root):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_kib(pid: int) -> int:
    """Return the resident set size."""
    return _kib(Path(f"/proc/{pid}/status"), "VmRSS:")


def pss_kib(pid: int) -> int:
    """Return the proportional set size: shared pages are divided among those who share them."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def open_files(pid: int) -> int:
    """Return how many descriptors are open."""
    return len(_descriptors(pid))


def open_sockets(pid: int) -> int:
    """Return how many of the descriptors are sockets."""
    found = 0
    for link in _descriptors(pid):
        with contextlib.suppress(OSError):
            found += str(link.readlink()).startswith("socket:")
    return found


def _descriptors(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        raise MissingError(
            "a function's process lets nobody but root look into it: run this as root"
        ) from None


def _kib(file: Path, field: str) -> int:
    lines = file.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _end_of(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read()[-2000:].decode("utf-8", "replace")
