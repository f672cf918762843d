"""The platform on this machine, run by the installed `wasmfn up`."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from schemas.pods import LocalPod
from services.bus.connection import Bus
from services.pids import is_running
from tests.scenarios.platforms.protocol import KEPT, STREAM
from wasmfn.client import Client, connect
from wasmfn.discovery import find_platform

WASMFN = Path(sys.executable).parent / "wasmfn"
READY_S = 60.0


class LocalPlatform:
    """One `wasmfn up` in a directory, on free ports that stay the same over a restart."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "WASMFN_DATA": str(self.data),
        }
        self._address = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None
        self._log = (directory / "up.log").open("a")

    def start(self) -> None:
        self._process = subprocess.Popen(
            [WASMFN, "up", "--http", self._address],
            env=self.environ,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said.startswith("ready http://"):
            self.stop()
            raise AssertionError((self.directory / "up.log").read_text())
        self._address = said.split()[1].removeprefix("http://")

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(READY_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        self._log.close()

    @property
    def http(self) -> str:
        return f"http://{self._address}"

    def reachable(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    @contextlib.asynccontextmanager
    async def nats(self) -> AsyncIterator[Client]:
        async with connect(find_platform(data=self.data, environ={}), wait_s=READY_S) as client:
            yield client

    @contextlib.asynccontextmanager
    async def application(self) -> AsyncIterator[Bus]:
        async with self.nats() as client:
            # In a cluster this is the operator's to say, and the scheduler makes it.
            await client.bus.js.add_stream(name=STREAM, subjects=[KEPT])
            yield client.bus

    def insight(self) -> contextlib.AbstractAsyncContextManager[Client]:
        # Whoever may read the token file may do everything here.
        return self.nats()

    def cli(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [WASMFN, *arguments],
            env=self.environ,
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            timeout=90,
            check=False,
        )

    def keepers(self) -> list[str]:
        return [pod.uid for pod in self._pods()]

    def kill(self, uid: str) -> None:
        self._signal(uid, signal.SIGKILL)

    def evict(self, uid: str) -> None:
        self._signal(uid, signal.SIGTERM)

    def restart(self) -> None:
        assert self.stop() == 0
        self.start()

    def _signal(self, uid: str, number: signal.Signals) -> None:
        (pod,) = (pod for pod in self._pods() if pod.uid == uid)
        os.kill(pod.pid, number)

    def _pods(self) -> list[LocalPod]:
        pods = []
        for file in (self.data / "pods").glob("*/pod.json"):
            with contextlib.suppress(FileNotFoundError):
                pod = msgspec.json.decode(file.read_bytes(), type=LocalPod)
                if is_running(pod.pid, pod.start_ticks):
                    pods.append(pod)
        return pods
