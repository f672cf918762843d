"""Pods as the runtime `processes` makes them: a bound listener, a process, a directory."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.pods import LABEL_NAMESPACE, LABEL_ROLE, LocalPod
from services.pids import start_ticks

STUB_KEEPER = Path(__file__).with_name("stub_keeper.py")


class Pods:
    """A pods directory, and the processes of its pods."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, uid: str, delay_s: float = 0.0, port: int = 0) -> LocalPod:
        """Start a stub that answers after `delay_s`, and write its `pod.json`."""
        return self._start(uid, port, lambda fd: [str(STUB_KEEPER), uid, str(fd), str(delay_s)])

    def start_keeper(self, uid: str) -> LocalPod:
        """Start a real keeper, and write its `pod.json`."""
        key = self.directory.parent / "key"
        key.write_text(Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex())
        flags = ["--keeper-id", uid, "--control-key", str(key), "--artifact-key", str(key)]
        flags += ["--cache-dir", str(self.directory.parent / "cache"), "--capacity", "7"]
        return self._start(
            uid, 0, lambda fd: ["-P", "-m", "keeper", "--control-fd", str(fd), *flags]
        )

    def _start(self, uid: str, port: int, command: Callable[[int], list[str]]) -> LocalPod:
        (self.directory / uid).mkdir()
        with socket.create_server(("127.0.0.1", port)) as listener, self.log(uid).open("ab") as log:
            self.processes[uid] = subprocess.Popen(
                [sys.executable, *command(listener.fileno())],
                pass_fds=[listener.fileno()],
                stdout=log,
                stderr=log,
            )
            port = listener.getsockname()[1]
        return self.describe(uid, self.processes[uid].pid, port)

    def describe(
        self, uid: str, pid: int, port: int = 1, ticks: int | None = None, name: str = ""
    ) -> LocalPod:
        """Write a `pod.json` in one step."""
        pod = LocalPod(
            uid=uid,
            name=name or f"keeper-{uid}",
            labels={LABEL_ROLE: "keeper", LABEL_NAMESPACE: "default"},
            pid=pid,
            start_ticks=(start_ticks(pid) or 0) if ticks is None else ticks,
            ip="127.0.0.1",
            port=port,
            created_at=datetime.now(UTC),
        )
        (self.directory / uid).mkdir(exist_ok=True)
        self.write(uid, msgspec.json.encode(pod))
        return pod

    def write(self, uid: str, content: bytes) -> None:
        new = self.directory / uid / "pod.json.new"
        new.write_bytes(content)
        new.rename(self.directory / uid / "pod.json")

    def log(self, uid: str) -> Path:
        return self.directory / uid / "log"

    def kill(self, uid: str) -> None:
        """Kill a keeper and leave a zombie, which nobody has waited for yet."""
        self.processes[uid].kill()

    def reap(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """Return a function that waits until something holds, and fails after a while."""

    async def wait(holds: Callable[[], object], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not holds():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.002)

    return wait


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    """Return an empty pods directory; every process in it is ended afterwards."""
    (tmp_path / "pods").mkdir()
    pods = Pods(tmp_path / "pods")
    yield pods
    pods.reap()
