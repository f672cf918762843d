"""Compiles a module in a child process that may do little and not for long.

What runs a module compiles it (`python -m keeper compile`), so engine settings
cannot differ, and the services never import the keeper. The child is the only
place where a stranger's code meets a compiler, so it is expected to run away:
its CPU time, its memory, its files and the wall clock are bounded, it has no
environment and an empty folder, and whatever it leaves behind is killed.

Memory is bounded by RLIMIT_DATA, which counts what can be written, and not by
RLIMIT_AS: an engine reserves terabytes of addresses that it never touches.
"""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from schemas.specs import MIB
from schemas.unreadable import UNREADABLE
from services.builder.errors import Rejected, Unavailable
from services.interpreter import package_variables
from services.pids import is_running, start_ticks

KEEPER: Final = (sys.executable, "-P", "-m", "keeper")
ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **package_variables()}
PREFIX: Final = "compile-"
MAX_FILES: Final = 64
MAX_SAID_BYTES: Final = 64 * 1024
NICENESS: Final = 5
"""Requests are served on this machine too, and they come first."""
_MEMORY: Final = ("memory allocation of", "MemoryError", "Cannot allocate memory")


class CompileLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one compilation may use."""

    wall_s: float = 120.0
    cpu_s: int = 120
    memory_mib: int = 2048
    artifact_mib: int = 512


class Compiled(msgspec.Struct, frozen=True):
    """A precompiled module and the compatibility hash of the engines that can run it."""

    engine: str
    code: bytes


class _Report(msgspec.Struct):
    engine: str = ""
    error: str | None = None


class _Ended(msgspec.Struct):
    """How a child ended and what it said."""

    status: int
    stdout: str
    stderr: str


async def compile_module(
    module: bytes, work: Path, limits: CompileLimits, keeper: Sequence[str] = KEEPER
) -> Compiled:
    """Return `module` precompiled.

    `work` is a folder for temporary files, `keeper` the program to run. It is
    called as `compile IN OUT --json`, and answers `{"engine": …}`, or fails with
    one sentence as `{"error": …}`.

    Raises:
        Rejected: the compiler refuses it, or it asks for more than `limits`.
        Unavailable: the compiler itself cannot be run.
    """
    with _folder(work) as folder:
        source, target = folder / "module.wasm", folder / "module.cwasm"
        await asyncio.to_thread(source.write_bytes, module)
        ended = await _run([*keeper, "compile", str(source), str(target), "--json"], folder, limits)
        report = _report(ended.stdout)
        if ended.status != 0 or not report.engine:
            raise _verdict(ended, report.error, limits)
        return Compiled(report.engine, await asyncio.to_thread(target.read_bytes))


async def engine_hash(work: Path, limits: CompileLimits, keeper: Sequence[str] = KEEPER) -> str:
    """Return the compatibility hash of the engine that modules are compiled for now.

    Raises:
        Unavailable: the keeper cannot be run.
    """
    with _folder(work) as folder:
        ended = await _run([*keeper, "engine-hash"], folder, limits)
        if ended.status != 0 or not ended.stdout:
            raise Unavailable(f"the compiler cannot be run: {_last_line(ended)}")
        return ended.stdout


def clear_leftovers(work: Path) -> None:
    """End the compilers that a builder which was killed has left in `work`, and their files.

    Raises:
        OSError: a file cannot be removed.
    """
    for folder in work.glob(f"{PREFIX}*"):
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid, ticks = map(int, (folder / "pid").read_text().split())
            if is_running(pid, ticks):
                _kill(pid)
        shutil.rmtree(folder)


@contextlib.contextmanager
def _folder(work: Path) -> Iterator[Path]:
    try:
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=work) as name:
            yield Path(name)
    except OSError as error:
        raise Unavailable(f"cannot compile in {work}: {error.strerror}") from error


async def _run(command: Sequence[str], folder: Path, limits: CompileLimits) -> _Ended:
    """Run `command` as a confined child to its end."""
    empty = folder / "empty"
    empty.mkdir()
    # Files and not pipes: the child cannot fill more of them than RLIMIT_FSIZE says.
    with (folder / "stdout").open("w+b") as stdout, (folder / "stderr").open("w+b") as stderr:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=empty,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        try:
            _confine(child.pid, limits)
            (folder / "pid").write_text(f"{child.pid} {start_ticks(child.pid)}")
            async with asyncio.timeout(limits.wall_s):
                status = await child.wait()
        except TimeoutError:
            raise Rejected(_too_long(f"{limits.wall_s:g} s")) from None
        finally:
            _kill(child.pid)
            await child.wait()
        return _Ended(status, _text(stdout), _text(stderr))


def _confine(pid: int, limits: CompileLimits) -> None:
    """Limit a child that has just been started.

    From outside and not between fork and exec, where Python is not safe in a
    process with threads. The interpreter needs longer to start than this takes.
    """
    with contextlib.suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
        for which, most in (
            (resource.RLIMIT_DATA, limits.memory_mib * MIB),
            (resource.RLIMIT_FSIZE, limits.artifact_mib * MIB),
            (resource.RLIMIT_NOFILE, MAX_FILES),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.prlimit(pid, which, (most, most))
        # The hard limit kills without saying why, so the soft one comes first.
        resource.prlimit(pid, resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))


def _kill(group: int) -> None:
    """Kill the child and whatever it started; it leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(MAX_SAID_BYTES).decode(errors="replace").strip()


def _report(said: str) -> _Report:
    try:
        return msgspec.json.decode(said, type=_Report)
    except UNREADABLE:
        return _Report()


def _verdict(ended: _Ended, error: str | None, limits: CompileLimits) -> Rejected | Unavailable:
    """Return why a compiler that has `ended` made nothing."""
    status = ended.status
    if any(word in ended.stderr for word in _MEMORY):
        return Rejected(
            f"compiling the module takes more than {limits.memory_mib} MiB of memory; "
            "split its largest functions"
        )
    if "File too large" in ended.stderr or status == -signal.SIGXFSZ:
        return Rejected(f"the compiled module has more than {limits.artifact_mib} MiB")
    if error:
        return Rejected(error)
    if status == -signal.SIGXCPU:
        return Rejected(_too_long(f"{limits.cpu_s} s of CPU time"))
    if status == -signal.SIGKILL:
        return Unavailable("the compiler was killed; this machine may be out of memory")
    if status < 0:
        return Rejected(f"the compiler crashes on this module ({signal.Signals(-status).name})")
    return Unavailable(f"the compiler failed: {_last_line(ended)}")


def _last_line(ended: _Ended) -> str:
    return ended.stderr.rpartition("\n")[2][:500] or f"exit code {ended.status}"


def _too_long(what: str) -> str:
    return f"compiling the module takes more than {what}; split its largest functions"
