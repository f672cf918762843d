"""One build, from its record to all that it should leave behind.

Every step may be done again: what is there already is found and used, so a
build that was cut off is simply begun anew.
"""

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from schemas.builds import Artifact, Build, ImageSource, UploadSource
from schemas.names import sha256_hex
from services.builder import reconcile
from services.builder.artifacts import Artifacts
from services.builder.compile import CompileLimits, compile_module, engine_hash
from services.builder.errors import Rejected
from services.builder.images import ImageBuilder
from services.builder.inspect import inspect
from services.builder.registry import Policy, pull
from services.builder.trace import Trace
from services.bus.objects import ObjectUnusable

KIB: Final = 1024
DEFAULT_NAME: Final = "main.wasm"


class Bounds(msgspec.Struct, frozen=True):
    """What a build may use at most."""

    module_bytes: int
    memory_bytes: int
    """Linear memory at a module's start."""
    compile: CompileLimits
    pull: Policy


class Pipeline:
    """Does builds. It remembers nothing but which engine is the current one."""

    def __init__(
        self, artifacts: Artifacts, images: ImageBuilder, work: Path, bounds: Bounds
    ) -> None:
        self._artifacts = artifacts
        self._images = images
        self._work = work
        self._bounds = bounds
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self.engine = ""
        """Compatibility hash of the engine that is compiled for; empty until it is known."""

    async def learn_engine(self) -> None:
        """Find out `engine`. Raises Unavailable."""
        self.engine = await engine_hash(self._work, self._bounds.compile)

    async def run(
        self, build: Build, trace: Trace, progress: Callable[[Build], Awaitable[None]]
    ) -> Build:
        """Return the record of `build` made ready; `progress` is given those before it.

        Raises:
            Rejected: it cannot succeed.
            Unavailable, BusError: try again later.
        """
        await progress(reconcile.building(build, (), _now()))
        name, module = await self._module(build, trace)
        started = time.monotonic()
        # Not on the loop: a module with the most imports that are read takes a while.
        declared = await asyncio.to_thread(
            inspect,
            module,
            max_bytes=self._bounds.module_bytes,
            max_memory_bytes=self._bounds.memory_bytes,
        )
        trace.done(
            "inspect",
            started,
            f"{name} is a command with {len(declared.imports)} imports "
            f"and {_size(declared.memory_bytes)} of memory",
        )
        await progress(reconcile.building(build, trace.steps, _now()))
        artifact, image = await self._products(build.id, name, module, trace)
        return reconcile.ready(
            build, name, artifact, image, declared.memory_bytes, trace.steps, _now()
        )

    def alone(self, digest: str) -> asyncio.Lock:
        """Return the lock of whoever makes or removes artifacts of the module with that digest."""
        return self._locks.setdefault(digest, asyncio.Lock())

    async def discard(self, build: str) -> None:
        """Leave no image behind of the build with id `build`, nor any work on it."""
        await self._images.discard(build)

    async def _module(self, build: Build, trace: Trace) -> tuple[str, bytes]:
        """Return the module's file name and bytes, from the object store or a registry."""
        started = time.monotonic()
        if (digest := reconcile.module_digest(build)) is not None:
            try:
                module = await self._artifacts.read_module(digest, self._bounds.module_bytes)
            except ObjectUnusable as error:
                raise Rejected(f"the uploaded module cannot be used: {error}") from error
            if module is not None:
                name = _file_name(build)
                trace.done("fetch", started, f"fetched {name} ({_size(len(module))})")
                return name, module
        match build.source:
            case UploadSource(sha256=sha256):
                raise Rejected(f"no module with digest {sha256} was uploaded; upload it again")
            case ImageSource(reference=reference):
                pulled = await pull(reference, self._bounds.pull)
                what = f"pulled {pulled.file_name} ({_size(len(pulled.module))})"
                trace.done("pull", started, f"{what} out of {reference}, {pulled.digest}")
                return pulled.file_name, pulled.module

    async def _products(
        self, build: str, name: str, module: bytes, trace: Trace
    ) -> tuple[Artifact, str]:
        """Make artifact and image side by side."""
        digest = sha256_hex(module)
        try:
            async with asyncio.TaskGroup() as group:
                artifact = group.create_task(self._artifact(digest, name, module, trace))
                image = group.create_task(self._image(build, name, module, trace))
        except ExceptionGroup as failures:
            if isinstance(failures.exceptions[0], Rejected):
                await self._images.discard(build)
            raise failures.exceptions[0] from failures
        return artifact.result(), image.result()

    async def _artifact(self, digest: str, name: str, module: bytes, trace: Trace) -> Artifact:
        """Return the artifact of `module`, compiled only if nobody ever did."""
        # Two builds of one module at a time would both find nothing and compile.
        async with self.alone(digest):
            if not self.engine:
                await self.learn_engine()
            if (artifact := await self._artifacts.find(digest, self.engine)) is not None:
                trace.tell("reused", f"{name} was compiled before; that artifact is used")
                return artifact
            started = time.monotonic()
            compiled = await compile_module(module, self._work, self._bounds.compile)
            self.engine = compiled.engine
            size = _size(len(compiled.code))
            trace.done("compile", started, f"compiled {name} for engine {self.engine} ({size})")
            started = time.monotonic()
            await self._artifacts.keep_module(digest, module)
            artifact = await self._artifacts.store(digest, compiled)
            trace.done("store", started, f"stored {name} and its signed artifact")
            return artifact

    async def _image(self, build: str, name: str, module: bytes, trace: Trace) -> str:
        started = time.monotonic()
        image = await self._images.build(
            build, module, name, lambda message: trace.tell("image-progress", message)
        )
        trace.done("image", started, f"made the image of {name}: {image}")
        return image


def _file_name(build: Build) -> str:
    if isinstance(build.source, UploadSource):
        return build.source.file_name
    return build.file_name or DEFAULT_NAME


def _size(size: int) -> str:
    return f"{size / KIB:.1f} KiB" if size < KIB * KIB else f"{size / KIB / KIB:.1f} MiB"


def _now() -> datetime:
    return datetime.now(UTC)
