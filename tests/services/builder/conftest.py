"""The real builder, as a process beside a real nats-server."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas import subjects
from schemas.builds import (
    MODULES_BUCKET,
    UPLOADS_BUCKET,
    Build,
    BuildReply,
    BuildRequest,
    UploadSource,
    artifact_object,
)
from schemas.events import Event
from schemas.names import sha256_hex
from services.bus import objects
from services.bus.connection import Bus, connect
from services.bus.follow import follow
from services.bus.state import Put, Snapshot
from services.bus.streams import ensure_buckets, ensure_streams
from tests.examples.interpreters import cpython, micropython, quickjs
from tests.services.builder.fake_registry import registry

__all__ = ["cpython", "micropython", "quickjs", "registry"]

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


class RunningBuilder:
    """A builder process and a client of it."""

    def __init__(self, bus: Bus, directory: Path, settings: dict[str, str]) -> None:
        self.bus = bus
        self.images = directory / "images"
        self.log = directory / "log"
        self.work = directory / "work"
        self._directory = directory
        (directory / "key").write_bytes(KEY.private_bytes_raw())
        (directory / "key").chmod(0o600)
        self._settings = {
            "NATS_URL": bus.url,
            "SIGNING_KEY_FILE": str(directory / "key"),
            "IMAGE_DIR": str(self.images),
            "WORK_DIR": str(self.work),
            # Most tests ask for builds that no spec names.
            "CANCEL_AFTER_S": "3600",
            **settings,
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, **settings: str) -> None:
        """Run it; return when it says that it is ready."""
        loop = asyncio.get_running_loop()
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
            self.log.open("ab") as log,
        ):
            notified.bind(str(self._directory / "notify"))
            notified.setblocking(False)
            environment = {f"WASMFN_BUILDER_{k}": v for k, v in (self._settings | settings).items()}
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "services.builder"),
                env={**os.environ, **environment, "NOTIFY_SOCKET": str(self._directory / "notify")},
                stderr=log,
            )

            async def says_ready() -> None:
                while b"READY=1" not in await loop.sock_recv(notified, 4096):
                    pass

            ready = asyncio.create_task(says_ready())
            ended = asyncio.create_task(self.process.wait())
            # Kubernetes' client alone takes two seconds of a processor that others may want.
            await asyncio.wait({ready, ended}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if not ready.done():
                ready.cancel()
                pytest.fail(f"the builder does not become ready:\n{self.log.read_text()}")
        (self._directory / "notify").unlink()

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        return await self.process.wait()

    async def compiler(self) -> int:
        """Return a descriptor (pidfd) of the compiler, as soon as one runs."""
        async with asyncio.timeout(10):
            while True:
                for file in self.work.glob("compile-*/pid"):
                    with contextlib.suppress(FileNotFoundError, IndexError):
                        return os.pidfd_open(int(file.read_text().split()[0]))
                await asyncio.sleep(0.005)

    async def upload(self, module: bytes, file_name: str = "main.wasm") -> UploadSource:
        await objects.write(self.bus, UPLOADS_BUCKET, sha256_hex(module), module)
        return UploadSource(sha256_hex(module), file_name)

    async def request(self, request: BuildRequest) -> BuildReply:
        return msgspec.json.decode(await self.ask(msgspec.json.encode(request)), type=BuildReply)

    async def ask(self, payload: bytes) -> bytes:
        subject = subjects.BUILD_REQUESTS.subject()
        return (await self.bus.nc.request(subject, payload, timeout=10)).data

    async def build(self, request: BuildRequest, within_s: float = 60) -> Build:
        """Request a build and return the record that ends it."""
        reply = await self.request(request)
        assert reply.build is not None, reply.error
        return await self.record(reply.build.id, ("ready", "failed"), within_s)

    async def record(self, build: str, states: tuple[str, ...], within_s: float = 60) -> Build:
        """Return the record of a build as soon as it is in one of `states`."""
        async with asyncio.timeout(within_s):
            async for update in follow(self.bus, "BUILDS", [subjects.BUILDS.subject(build=build)]):
                entries = update.entries if isinstance(update, Snapshot) else ()
                entries = (update.entry,) if isinstance(update, Put) else entries
                for entry in entries:
                    record = msgspec.json.decode(entry.payload, type=Build)
                    if record.state in states:
                        return record
        raise AssertionError

    async def events(self, build: str, last: str) -> list[Event]:
        """Return the events of a build in order, up to the first that says `last`."""
        seen = []
        filters = [subjects.EVENTS.filter(service="builder", name=build)]
        async with asyncio.timeout(20):
            subscription = await self.bus.js.subscribe(filters[0], ordered_consumer=True)
            try:
                async for message in subscription.messages:
                    seen.append(msgspec.json.decode(message.data, type=Event))
                    if seen[-1].what == last:
                        return seen
            finally:
                await subscription.unsubscribe()
        raise AssertionError

    async def artifact_bytes(self, build: Build) -> bytes:
        assert build.artifact is not None
        name = artifact_object(build.artifact.module, build.artifact.engine)
        content = await objects.read(self.bus, MODULES_BUCKET, name, 1 << 30)
        assert content is not None
        return content


MakeBuilder = Callable[..., Awaitable[RunningBuilder]]


@pytest.fixture
async def bus(nats_server) -> AsyncIterator[Bus]:
    async with connect(nats_server.settings, "test") as bus:
        await ensure_streams(bus.js)
        await ensure_buckets(bus.js)
        yield bus


@pytest.fixture
async def make_builder(bus: Bus, tmp_path: Path) -> AsyncIterator[MakeBuilder]:
    """Start a builder with settings by name, such as `PARALLEL="1"`."""
    running = []

    async def make(**settings: str) -> RunningBuilder:
        builder = RunningBuilder(bus, tmp_path, settings)
        running.append(builder)
        await builder.start()
        return builder

    yield make
    for builder in running:
        if builder.process is not None and builder.process.returncode is None:
            await builder.end(signal.SIGKILL)


@pytest.fixture
async def builder(make_builder: MakeBuilder) -> RunningBuilder:
    return await make_builder()
