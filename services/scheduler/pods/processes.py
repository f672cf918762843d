"""Keepers as processes of this machine: a directory for each, and a process group.

The directory `<pods>/<uid>/` with its `pod.json` is what containerd is to a
cluster: podwatch reads it, and so does the next scheduler, which adopts what
runs. Keepers are therefore no one's dependants: they outlive the scheduler that
started them and are watched by pidfd, which works for children and others alike.

The control listener is bound here and handed over, so a keeper's port is known
before it runs and no two processes race for one.
"""

import asyncio
import contextlib
import os
import resource
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from schemas.pods import LABEL_NAMESPACE, LocalPod
from services.interpreter import package_variables
from services.pids import has_ended, is_running, open_process, start_ticks
from services.scheduler.pods import Pod, PodError

POD_FILE: Final = "pod.json"
LOG_FILE: Final = "log"
LISTENER_FD: Final = 3

_HALF_MADE_S: Final = 5.0
"""A directory without `pod.json` that is older than this is left of a crash."""
_KILL_S: Final = 5.0
_LIMITS: Final = (
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NOFILE, 65536),
    (resource.RLIMIT_NPROC, 16384),
)
"""Generous: the keeper sets tight ones for each function itself."""


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every keeper of this machine is started with."""

    pods: Path
    control_key: Path
    """Public key that control calls are checked with."""
    artifact_key: Path
    """Public key that artifacts are checked with."""
    cache: Path
    """Where keepers look for artifacts; shared, since they believe signatures only."""
    capacity: int = 64
    ip: str = "127.0.0.1"
    forget_s: float = 60.0
    """How long the directory of an ended keeper stays, so that its log can be read."""


class ProcessRuntime:
    """Runs keepers as local processes. See `PodRuntime`."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings
        self._pods: dict[str, LocalPod] = {}
        self._pidfds: dict[str, int] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._ended: asyncio.Queue[str] = asyncio.Queue()

    async def list(self) -> list[Pod]:
        """Return the pods that run, adopting those of an earlier scheduler. See `PodRuntime`."""
        try:
            self._settings.pods.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in sorted(self._settings.pods.iterdir()):
                if directory.name not in self._pods:
                    self._adopt(directory)
        except OSError as error:
            raise PodError(f"cannot read the pods below {self._settings.pods}: {error}") from error
        return [_plain(pod) for pod in self._pods.values()]

    async def start(self, labels: dict[str, str]) -> Pod:
        """Start a keeper. See `PodRuntime`."""
        uid = secrets.token_hex(8)
        name = f"keeper-{labels[LABEL_NAMESPACE]}"[:46].rstrip("-") + f"-{uid}"
        directory = self._settings.pods / uid
        try:
            directory.mkdir(mode=0o700, parents=True)
            with socket.create_server((self._settings.ip, 0), backlog=256) as listener:
                pid = self._spawn(uid, labels, directory, listener)
                port = int(listener.getsockname()[1])
            pod = LocalPod(
                uid=uid,
                name=name,
                labels=labels,
                pid=pid,
                start_ticks=start_ticks(pid) or 0,
                ip=self._settings.ip,
                port=port,
                created_at=datetime.now(UTC),
            )
            self._watch(pod, os.pidfd_open(pid))
            write_pod(directory, pod)
        except OSError as error:
            raise PodError(f"a keeper could not be started: {error}") from error
        return _plain(pod)

    async def stop(self, uid: str, patience_s: float) -> None:
        """End a keeper with SIGTERM, and with SIGKILL when that takes too long."""
        pod, ended = self._pods.get(uid), self._ends.get(uid)
        if pod is None or ended is None:
            return
        _signal(pod, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await ended.wait()
                return
        _kill(pod)
        try:
            async with asyncio.timeout(_KILL_S):
                await ended.wait()
        except TimeoutError:
            raise PodError(f"the keeper {pod.name} does not end, not even when killed") from None

    async def ended(self) -> AsyncIterator[str]:
        """Yield the uid of each pod that ended. See `PodRuntime`."""
        while True:
            yield await self._ended.get()

    def close(self) -> None:
        """Let go of all pods without ending them."""
        for uid in tuple(self._pidfds):
            self._unwatch(uid)

    def _spawn(
        self, uid: str, labels: dict[str, str], directory: Path, listener: socket.socket
    ) -> int:
        settings = self._settings
        command = [sys.executable, "-P", "-m", "keeper"]
        command += ["--control-fd", str(LISTENER_FD), "--keeper-id", uid]
        command += ["--control-key", str(settings.control_key)]
        command += ["--artifact-key", str(settings.artifact_key)]
        command += ["--cache-dir", str(settings.cache), "--host", settings.ip]
        command += ["--capacity", str(settings.capacity)]
        log = directory / LOG_FILE
        # Nothing of our own environment: it may name secrets. posix_spawn, since a
        # fork of a process with threads and a grown heap is neither safe nor fast.
        pid = os.posix_spawn(
            sys.executable,
            command,
            {
                "PATH": "/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "PYTHONUNBUFFERED": "1",
                **package_variables(),
            },
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, listener.fileno(), LISTENER_FD),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD],
        )
        for limit, wanted in _LIMITS:
            _, most = resource.prlimit(pid, limit)
            value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
            resource.prlimit(pid, limit, (value, value))
        return pid

    def _adopt(self, directory: Path) -> None:
        """Take over the pod of a directory that is not known yet, or clean up after it."""
        pod = read_pod(directory)
        if pod is None:
            _clean_half_made(directory)
        elif (pidfd := open_process(pod.pid, pod.start_ticks)) is None:
            if time.time() - directory.stat().st_mtime > self._settings.forget_s:
                shutil.rmtree(directory, ignore_errors=True)
        else:
            self._watch(pod, pidfd)

    def _watch(self, pod: LocalPod, pidfd: int) -> None:
        self._pods[pod.uid] = pod
        self._pidfds[pod.uid] = pidfd
        self._ends[pod.uid] = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._has_ended, pod.uid)

    def _has_ended(self, uid: str) -> None:
        pod, ended = self._pods[uid], self._ends[uid]
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pod.pid, os.WNOHANG)  # Of an adopted one, init is the parent.
        self._unwatch(uid)
        _kill(pod)  # Whatever is left of its group.
        ended.set()
        self._ended.put_nowait(uid)

    def _unwatch(self, uid: str) -> None:
        pidfd = self._pidfds.pop(uid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        del self._pods[uid], self._ends[uid]


def stop_all(pods: Path, within_s: float = 5.0) -> int:
    """End every pod below `pods`, remove the directories, and return how many ran.

    For a supervisor that ends or begins: whatever a crash has left is gone then.
    Harmless to repeat, and with no such directory.
    """
    running = []
    for directory in sorted(pods.iterdir()) if pods.is_dir() else ():
        pod = read_pod(directory)
        if pod is None:
            _clean_half_made(directory, older_than_s=0.0)
        elif (pidfd := open_process(pod.pid, pod.start_ticks)) is not None:
            running.append((pod, pidfd))
            _signal(pod, signal.SIGTERM)
    deadline = time.monotonic() + within_s
    for pod, pidfd in running:
        if not has_ended(pidfd, deadline - time.monotonic()):
            _kill(pod)
            has_ended(pidfd, within_s)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pod.pid, os.WNOHANG)
        os.close(pidfd)
    for directory in pods.iterdir() if pods.is_dir() else ():
        shutil.rmtree(directory, ignore_errors=True)
    return len(running)


def write_pod(directory: Path, pod: LocalPod) -> None:
    """Write `pod.json` so that a reader sees all of it or none."""
    half = directory / f".{POD_FILE}"
    half.write_bytes(msgspec.json.encode(pod))
    half.replace(directory / POD_FILE)


def read_pod(directory: Path) -> LocalPod | None:
    """Return what `pod.json` says, or None if there is none."""
    try:
        return msgspec.json.decode((directory / POD_FILE).read_bytes(), type=LocalPod)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def _plain(pod: LocalPod) -> Pod:
    return Pod(pod.uid, pod.name, pod.labels)


def _signal(pod: LocalPod, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if is_running(pod.pid, pod.start_ticks):
            os.kill(pod.pid, number)


def _kill(pod: LocalPod) -> None:
    """Kill the pod's process group, which the keeper leads."""
    if start_ticks(pod.pid) in (None, pod.start_ticks):  # Not reused.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pod.pid, signal.SIGKILL)


def _clean_half_made(directory: Path, older_than_s: float = _HALF_MADE_S) -> None:
    """Remove what a crash between the start of a keeper and its `pod.json` has left."""
    if not directory.is_dir() or time.time() - directory.stat().st_mtime < older_than_s:
        return
    for pid in _started_for(directory.name):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)


def _started_for(uid: str) -> Iterator[int]:
    """Yield the pid of each process that was started as the keeper `uid`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"--keeper-id" in words and uid.encode() in words:
                    yield int(entry.name)
