"""Keep the precompiled modules that are about to be loaded near, by digest.

Reading a large object from the bus takes hundreds of milliseconds, so artifacts
are fetched when a revision is introduced and not when somebody waits. On one
machine the directory is also the cache of the keepers, which is why a file has
the name that they look for. Nobody trusts a file here: it is compared with its
digest by whoever reads it, and keepers believe the builder's signature alone.
"""

import asyncio
import hashlib
import os
import secrets
from pathlib import Path
from typing import Final

import nats.errors
from nats.js import errors as js_errors

from schemas.builds import MODULES_BUCKET, Artifact, artifact_object
from services.bus.connection import Bus

MAX_BYTES: Final = 1024 * 1024 * 1024
_FETCH_S: Final = 60.0


class ArtifactError(Exception):
    """The artifact cannot be had. The message is one sentence."""


class Artifacts:
    """The artifacts of the bucket `modules`, through a cache on disk of bounded size."""

    def __init__(self, bus: Bus, directory: Path, max_bytes: int = MAX_BYTES) -> None:
        self._bus = bus
        self._directory = directory
        self._max_bytes = max_bytes
        self._fetching: dict[str, asyncio.Task[bytes]] = {}

    async def prepare(self, artifact: Artifact) -> None:
        """Have `artifact` near. Raises ArtifactError."""
        path = self._path(artifact)
        try:
            near = path.stat().st_size == artifact.size
            os.utime(path)
        except OSError:
            near = False
        if not near:
            await self._fetched(artifact)

    async def read(self, artifact: Artifact) -> bytes:
        """Return the bytes of `artifact`. Raises ArtifactError."""
        try:
            data = await asyncio.to_thread(self._path(artifact).read_bytes)
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() == artifact.sha256:
            return data
        return await self._fetched(artifact)

    def _path(self, artifact: Artifact) -> Path:
        return self._directory / f"{artifact.sha256}.cwasm"

    async def _fetched(self, artifact: Artifact) -> bytes:
        """Fetch `artifact` once, however many ask."""
        task = self._fetching.get(artifact.sha256)
        if task is None:
            task = asyncio.create_task(self._fetch(artifact))
            self._fetching[artifact.sha256] = task
            task.add_done_callback(lambda _: self._fetching.pop(artifact.sha256))
        return await asyncio.shield(task)

    async def _fetch(self, artifact: Artifact) -> bytes:
        name = artifact_object(artifact.module, artifact.engine)
        try:
            async with asyncio.timeout(_FETCH_S):
                bucket = await self._bus.js.object_store(MODULES_BUCKET)
                data = (await bucket.get(name)).data or b""
        except (nats.errors.Error, js_errors.Error, TimeoutError) as error:
            raise ArtifactError(
                f"the artifact {name} cannot be read from the bus: {error or 'no answer'}"
            ) from error
        if hashlib.sha256(data).hexdigest() != artifact.sha256:
            raise ArtifactError(f"the artifact {name} on the bus is not the one that was built")
        await asyncio.to_thread(self._keep, artifact, data)
        return data

    def _keep(self, artifact: Artifact, data: bytes) -> None:
        """Write the file whole, and remove the ones longest not used beyond the bound."""
        half = self._directory / f".{artifact.sha256}.{secrets.token_hex(4)}"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            half.write_bytes(data)
            half.replace(self._path(artifact))
            files = [(file.stat(), file) for file in self._directory.glob("*.cwasm")]
            used = sum(stat.st_size for stat, _ in files)
            for stat, file in sorted(files, key=lambda pair: pair[0].st_mtime):
                if used <= self._max_bytes:
                    break
                file.unlink(missing_ok=True)
                used -= stat.st_size
        except OSError:
            # A full disk costs speed, not service: the bytes are sent with the call.
            half.unlink(missing_ok=True)
