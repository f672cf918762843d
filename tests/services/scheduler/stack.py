"""The real programs that a scheduler works with, each started and killed by a test."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from schemas import subjects
from schemas.active import Active
from schemas.builds import UPLOADS_BUCKET
from schemas.control import (
    INSTANCE_HEADER,
    Activity,
    DemandMet,
    DemandReply,
    DemandRequest,
    FunctionActivity,
)
from schemas.endpoints import Endpoint
from schemas.events import Event
from schemas.names import sha256_hex
from schemas.pods import LocalPod
from schemas.status import Status
from services.bus.connection import Bus, BusSettings
from services.bus.follow import follow
from services.bus.publish import publish, tombstone
from services.bus.state import Deleted, Put, Snapshot
from services.bus.streams import ensure_buckets, ensure_streams
from services.scheduler.pods.processes import read_pod, stop_all

EXAMPLES = Path(__file__).parents[3] / "examples"
SEARCHED = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
"""Where programs are found; nothing else of a test's environment reaches a service."""
T = TypeVar("T")


class Followed:
    """The streams that a test waits on, as they are now and as they came."""

    def __init__(self) -> None:
        self.active: dict[str, Any] = {}
        self.status: dict[str, Status] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.events: list[Event] = []
        self.story: list[tuple[str, str]] = []
        """Every change of ACTIVE and ENDPOINTS in the order in which it was seen."""
        self.changed = asyncio.Condition()


class Stack:
    """A directory with keys, and the services that run on it."""

    def __init__(self, directory: Path, settings: BusSettings, bus: Bus) -> None:
        self.directory = directory
        self.settings = settings
        self.bus = bus
        self.seen = Followed()
        self.services: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("secrets", "pods", "cache", "images", "podwatch"):
            (directory / name).mkdir()
        for name in ("control", "artifact"):
            self._write_key(name)

    def _write_key(self, name: str) -> None:
        key = Ed25519PrivateKey.generate()
        private = self.directory / f"{name}.key"
        private.touch(0o600)
        private.write_text(key.private_bytes_raw().hex())
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        (self.directory / f"{name}.pub").write_text(public.hex())

    @property
    def pods(self) -> Path:
        return self.directory / "pods"

    def keepers(self) -> dict[str, LocalPod]:
        """The pods that have a `pod.json`, by uid."""
        found = {path.name: read_pod(path) for path in self.pods.iterdir()}
        return {uid: pod for uid, pod in found.items() if pod is not None}

    def start(self, service: str, name: str = "", **settings: Any) -> subprocess.Popen[bytes]:
        """Start a service of the platform under `name`, with its settings as keywords."""
        name = name or service
        d = self.directory
        known = {
            "scheduler": {
                "control_key_file": d / "control.key",
                "control_public_key_file": d / "control.pub",
                "artifact_public_key_file": d / "artifact.pub",
                "secrets_dir": d / "secrets",
                "cache_dir": d / "cache",
                "pods_dir": self.pods,
            },
            "podwatch": {"pods_dir": self.pods, "state_dir": d / "podwatch"},
            "router": {},
            "builder": {
                "signing_key_file": d / "artifact.key",
                "image_dir": d / "images",
                "work_dir": d / f"work-{name}",
            },
        }[service]
        prefix = f"WASMFN_{service.upper()}_"
        values = {"nats_url": self.settings.nats_url, "log_level": "info", **known, **settings}
        environ = dict(SEARCHED)
        environ |= {prefix + key.upper(): str(value) for key, value in values.items()}
        if service == "builder":
            (d / f"work-{name}").mkdir(exist_ok=True)
        with (d / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"services.{service}"],
                env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.services[name] = process
        return process

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.services.pop(name)
        process.send_signal(number)
        process.wait()

    def close(self) -> None:
        for name in tuple(self.services):
            with contextlib.suppress(ProcessLookupError):
                self.kill(name)
        stop_all(self.pods)

    def logs(self) -> str:
        """What every service wrote, to be shown when a test fails."""
        return "\n".join(
            f"--- {path.relative_to(self.directory)}\n{path.read_text(errors='replace')[-6000:]}"
            for path in sorted([*self.directory.glob("*.log"), *self.directory.glob("pods/*/log")])
        )

    # The bus, as a client sees it.

    async def follow_all(self) -> None:
        """Follow what the scheduler writes, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow("ACTIVE", self.seen.active, Active))
            tasks.create_task(self._follow("STATUS", self.seen.status, Status))
            tasks.create_task(self._follow("ENDPOINTS", self.seen.endpoints, Endpoint))
            tasks.create_task(self._follow("EVENTS", {}, Event))

    async def _follow(self, stream: str, into: dict[str, Any], message: Any) -> None:
        async for update in follow(self.bus, stream):
            match update:
                case Snapshot(entries):
                    puts = entries
                case Put(entry):
                    puts = (entry,)
                case Deleted(subject):
                    puts = ()
                    into.pop(subject, None)
                    self.seen.story.append(("gone", subject))
                case _:
                    continue
            for entry in puts:
                found = msgspec.json.decode(entry.payload, type=message)
                if stream == "EVENTS":
                    self.seen.events.append(found)
                else:
                    into[entry.subject] = found
                    self.followed(entry.subject, found)
                    self.seen.story.append(("put", entry.subject))
            async with self.seen.changed:
                self.seen.changed.notify_all()

    def followed(self, subject: str, message: Any) -> None:
        """Take note of a message that was followed."""

    async def until(self, find: Callable[[], T], within_s: float = 45.0) -> T:
        """Return what `find` returns once it is true, looking after every change."""
        try:
            async with asyncio.timeout(within_s), self.seen.changed:
                while not (found := find()):
                    await self.seen.changed.wait()
                return found
        except TimeoutError:
            said = "\n".join(
                f"{e.time:%H:%M:%S.%f} {e.what}: {e.message}" for e in self.seen.events
            )
            raise AssertionError(
                f"it did not come within {within_s:g} s\n{said}\n{self.seen.status}\n{self.logs()}"
            ) from None

    async def upload(self, example: str) -> dict[str, str]:
        """Put a module of the examples into the bucket; return the `module` of a spec."""
        data = (EXAMPLES / example / f"{example}.wasm").read_bytes()
        digest = sha256_hex(data)
        await (await self.bus.js.object_store(UPLOADS_BUCKET)).put(digest, data)
        return {"sha256": digest, "file_name": f"{example}.wasm"}

    async def apply(self, kind: str, name: str, spec: Any, namespace: str = "default") -> int:
        """Publish a spec; return its revision."""
        subject = subjects.SPECS.subject(kind=kind, namespace=namespace, name=name)
        payload = spec if isinstance(spec, bytes) else msgspec.json.encode(spec)
        return await publish(self.bus, subject, payload)

    async def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        await tombstone(self.bus, subjects.SPECS.subject(kind=kind, namespace=namespace, name=name))

    async def deploy(
        self, name: str, example: str = "sort", namespace: str = "default", **fields: Any
    ) -> int:
        """Publish a function of an example and wait until it is in force."""
        spec = {"module": await self.upload(example), **fields}
        revision = await self.apply("function", name, spec, namespace)
        await self.status(name, "active", revision, namespace=namespace)
        return revision

    async def status(
        self, name: str, phase: str, revision: int, kind: str = "function",
        namespace: str = "default", within_s: float = 45.0,
    ) -> Status:  # fmt: skip
        """Return the status once it says `phase` of `revision`."""
        subject = subjects.STATUS.subject(kind=kind, namespace=namespace, name=name)

        def said() -> Status | None:
            found = self.seen.status.get(subject)
            if found and found.observed_revision == revision and found.phase == phase:
                return found
            return None

        found = await self.until(said, within_s)
        assert found is not None
        return found

    def endpoints(self, function: str, namespace: str = "default") -> list[Endpoint]:
        return [
            endpoint
            for endpoint in self.seen.endpoints.values()
            if (endpoint.namespace, endpoint.function) == (namespace, function)
        ]

    def events(self, what: str) -> list[Event]:
        return [event for event in self.seen.events if event.what == what]

    async def demand(
        self, function: str, reason: str = "cold", parked: int = 1, namespace: str = "default",
        failed: list[str] | None = None, deadline_s: float = 30.0,
    ) -> DemandReply:  # fmt: skip
        """Ask for an endpoint, as a router does."""
        request = DemandRequest(
            router="test", reason=reason, parked=parked, deadline_s=deadline_s,  # type: ignore[arg-type]
            failed_instances=failed or [],
        )  # fmt: skip
        answer = await self.bus.nc.request(
            subjects.DEMAND.subject(namespace=namespace, function=function),
            msgspec.json.encode(request),
            timeout=deadline_s + 2,
        )
        return msgspec.json.decode(answer.data, type=DemandReply)

    async def report(self, function: str, in_flight: int, parked: int = 0) -> None:
        """Tell a router's activity, as a router does each second."""
        activity = Activity("test", [FunctionActivity("default", function, in_flight, parked)])
        await self.bus.nc.publish(
            subjects.ACTIVITY.subject(router="test"), msgspec.json.encode(activity)
        )

    async def met(self, function: str, **demand: Any) -> list[Endpoint]:
        """Return the endpoints of a demand that must be met."""
        reply = await self.demand(function, **demand)
        assert isinstance(reply, DemandMet), reply
        return reply.endpoints


async def call(endpoint: Endpoint, *args: str) -> httpx.Response:
    """Invoke a function at its endpoint, as a router does."""
    async with httpx.AsyncClient() as client:
        return await client.post(
            f"http://{endpoint.ip}:{endpoint.port}/",
            json={"args": list(args)},
            headers={INSTANCE_HEADER: endpoint.token},
            timeout=60.0,
        )


def listens(endpoint: Endpoint) -> bool:
    """Whether anything takes connections there."""
    with socket.socket() as client:
        return client.connect_ex((endpoint.ip, endpoint.port)) == 0


async def begun(endpoint: Endpoint, *args: str) -> asyncio.Task[bytes]:
    """Begin a call, and return, once the instance has read it, the task of reading its answer."""
    body = msgspec.json.encode({"args": args})
    client = socket.create_connection((endpoint.ip, endpoint.port))
    client.sendall(
        f"POST / HTTP/1.1\r\nhost: f\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
        f"{INSTANCE_HEADER}: {endpoint.token}\r\n\r\n".encode()
        + body
    )
    ours = f":{client.getsockname()[1]:04X}"

    def is_read() -> bool:
        # proc(5), /proc/net/tcp: remote address, state (01 is established), queues.
        for line in Path("/proc/net/tcp").read_text().splitlines():
            fields = line.split()
            if fields[2].endswith(ours) and fields[3] == "01":
                return fields[4].endswith(":00000000")
        return False

    async with asyncio.timeout(10):
        while not is_read():  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.005)

    def read() -> bytes:
        with client:
            answer = b""
            while data := client.recv(65536):
                answer += data
        return answer

    return asyncio.create_task(asyncio.to_thread(read))


def process_of(stack: Stack, endpoint: Endpoint) -> int:
    """The process of an instance, as its keeper's log names it."""
    log = (stack.pods / endpoint.pod / "log").read_text()
    said = re.search(rf"instance {endpoint.instance} \(process (\d+)\)", log)
    assert said is not None, log
    return int(said[1])


@contextlib.asynccontextmanager
async def running(stack: Stack) -> AsyncIterator[Stack]:
    """Follow the bus while inside, and end everything after."""
    await ensure_streams(stack.bus.js)
    await ensure_buckets(stack.bus.js)
    following = asyncio.create_task(stack.follow_all())
    try:
        yield stack
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        stack.close()
