"""A whole platform whose every part can be killed by name: two of those that may be two."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import msgspec

from schemas import subjects
from schemas.active import ActiveFunction, ActiveRoute
from schemas.leases import Lease
from services.bus.connection import Bus, BusSettings
from services.pids import start_ticks
from tests.faults.load import Load, Router
from tests.services.scheduler.stack import SEARCHED, Stack
from wasmfn.notify import NotifySocket

LONG = os.environ.get("WASMFN_FAULTS") == "long"
"""The long form takes the time and the numbers that are promised; the short one is for each day."""
READY_S = 60.0
PARTS = ("podwatch", "builder", "scheduler-a", "scheduler-b", "router-a", "router-b")
FUNCTION = "sort"
SPEC: dict[str, Any] = {
    # Warm, and never scaled away under a test that looks elsewhere.
    "scaling": {"min_instances": 1, "max_instances": 4},
    "limits": {"timeout_s": 5.0},
    "asynchronous": {"retry": {"attempts": 8, "first_delay_s": 0.2, "max_delay_s": 2.0}},
}
PER_S = 50.0
"""Calls a second: enough that one is under way at any moment, little enough for a busy machine."""


class Rig(Stack):
    """Two routers, two schedulers, a builder and a podwatch, each one started again by name."""

    def __init__(
        self, directory: Any, settings: BusSettings, bus: Bus, keeper_ip: str = "127.0.0.1"
    ) -> None:
        super().__init__(directory, settings, bus)
        self._keeper_ip = keeper_ip
        self._ports = {name: _free_port() for name in PARTS if name.startswith("router")}
        self._ready: dict[int, asyncio.Event] = {}
        self._notify = NotifySocket(self._heard)
        self.environment: dict[str, str] = {}
        """What parts that are started from now on find in theirs, besides their settings."""
        self.loads: list[Load] = []
        """Whose accepted invocations are asked for in the end."""
        self._begun = time.monotonic()
        self.revisions: list[tuple[str, int]] = []
        """Subject and revision of everything that was put in force, in order."""

    @property
    def routers(self) -> list[Router]:
        """New clients of both."""
        return [Router(name, "127.0.0.1", port) for name, port in self._ports.items()]

    def load(self, per_s: float = PER_S) -> Load:
        load = Load(self.routers, FUNCTION, per_s)
        self.loads.append(load)
        return load

    def now(self) -> float:
        """The clock of `Call.at`."""
        return asyncio.get_running_loop().time()

    def clock(self) -> float:
        """Monotonic seconds since the platform was begun."""
        return time.monotonic() - self._begun

    async def until_clock(self, at_s: float) -> None:
        """Return at a time of `clock`, or at once if it is later."""
        if (wait := at_s - self.clock()) > 0:
            await asyncio.sleep(wait)

    def note(self, text: str) -> None:
        """Print a figure for the record: `pytest -rP` and docs/faults.md show it."""
        print(f"{self.clock():7.2f} s  {text}")  # noqa: T201 - for people

    def start(self, service: str, name: str = "", **settings: Any) -> subprocess.Popen[bytes]:
        """Start a part by its name in `PARTS`; `ready` waits until it says that it is."""
        name, service = service, service.partition("-")[0]
        directory = self.directory
        known: dict[str, dict[str, object]] = {
            "router": {"http": f"127.0.0.1:{self._ports.get(name)}"},
            "scheduler": {
                "control_key_file": directory / "control.key",
                "control_public_key_file": directory / "control.pub",
                "artifact_public_key_file": directory / "artifact.pub",
                "secrets_dir": directory / "secrets",
                "cache_dir": directory / "cache",
                "pods_dir": self.pods,
                "keeper_ip": self._keeper_ip,
            },
            "podwatch": {"pods_dir": self.pods, "state_dir": directory / "podwatch"},
            "builder": {
                "signing_key_file": directory / "artifact.key",
                "image_dir": directory / "images",
                "work_dir": directory / "work",
            },
        }
        values = {"nats_url": self.settings.nats_url, **known[service], **settings}
        environ = {"NOTIFY_SOCKET": self._notify.address, **SEARCHED}
        environ |= self.environment
        environ |= {f"WASMFN_{service}_{key}".upper(): str(v) for key, v in values.items()}
        with (directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"services.{service}"],
                env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.services[name] = process
        self._ready[process.pid] = asyncio.Event()
        return process

    async def ready(self, *names: str) -> None:
        """Return once the parts say that they are ready."""
        for name in names:
            process = self.services[name]
            ready = self._ready[process.pid]
            try:
                async with asyncio.timeout(READY_S):
                    while process.poll() is None and not ready.is_set():
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(ready.wait(), 1.0)
            except TimeoutError:
                pass
            assert ready.is_set(), f"{name} is not ready\n{self.logs()}"

    async def run(self, *names: str) -> None:
        """Start parts and return once they are ready."""
        for name in names:
            self.start(name)
        await self.ready(*names)

    async def stop(self, name: str) -> int:
        """End a part in order and return its exit code."""
        process = self.services.pop(name)
        process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(process.wait, READY_S)

    async def leader(self) -> str:
        """The name of the scheduler that holds the lease, dead or alive."""
        subject = subjects.LEASES.subject(name="scheduler")
        entry = await self.bus.js.get_last_msg("LEASES", subject)
        lease = msgspec.json.decode(entry.data or b"", type=Lease)
        pid = int(lease.holder.split("/")[1])
        return next(name for name, process in self.services.items() if process.pid == pid)

    async def serving(self) -> None:
        """Return once both routers answer for the function."""
        for router in self.routers:
            async with asyncio.timeout(READY_S):
                while (await router.call(f"/{FUNCTION}", b"{}"))[0] != 200:  # noqa: ASYNC110
                    # A route that is not known yet is answered at once; nobody else tells.
                    await asyncio.sleep(0.05)
            router.close()

    def active(self, name: str = FUNCTION) -> ActiveFunction | None:
        return self.seen.active.get(f"wasmfn.active.function.default.{name}")

    def routes(self, prefix: str) -> dict[str, int]:
        """The revision in force of each route whose name begins with `prefix`."""
        return {
            active.name: active.revision
            for active in self.seen.active.values()
            if isinstance(active, ActiveRoute) and active.name.startswith(prefix)
        }

    def never_back(self) -> bool:
        """Whether nothing was put in force in an older revision than before."""
        newest: dict[str, int] = {}
        for name, revision in self.revisions:
            if revision < newest.get(name, 0):
                return False
            newest[name] = revision
        return True

    def followed(self, subject: str, message: Any) -> None:
        """Take note of what is put in force, and in which order."""
        if subject.startswith("wasmfn.active."):
            self.revisions.append((subject, message.revision))

    def running_keepers(self) -> dict[str, int]:
        """The process of each keeper that runs, by the uid of its pod."""
        return {
            uid: pod.pid
            for uid, pod in self.keepers().items()
            if start_ticks(pod.pid) == pod.start_ticks
        }

    def close(self) -> None:
        super().close()
        self._notify.close()

    def _heard(self, pid: int, said: dict[str, str]) -> None:
        if said.get("READY") == "1" and pid in self._ready:
            self._ready[pid].set()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
