"""Modules and signed artifacts in the object store.

An artifact is written in one go and only when it is complete, with its
description and signature as a header of the object. What is found there is
believed only if the signature is ours, so an artifact that somebody else put
there is built anew rather than handed out.

The module itself is kept beside its artifacts, under its bare digest: uploads
expire, and a new engine needs every module compiled again.
"""

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.builds import MODULES_BUCKET, UPLOADS_BUCKET, Artifact, artifact_object
from schemas.names import sha256_hex
from schemas.signing import artifact_text
from schemas.unreadable import UNREADABLE
from services.builder.compile import Compiled
from services.bus import objects
from services.bus.connection import Bus
from services.bus.objects import ObjectUnusable

HEADER = "X-Wasmfn-Artifact"


class Artifacts:
    """The buckets `uploads` and `modules`, seen by the one who signs."""

    def __init__(self, bus: Bus, key: Ed25519PrivateKey) -> None:
        self._bus = bus
        self._key = key

    async def read_module(self, sha256: str, max_bytes: int) -> bytes | None:
        """Return the module with that digest, from wherever it is. None if it is nowhere.

        Raises:
            ObjectUnusable: it has more than `max_bytes`.
            BusError: NATS did not tell.
        """
        unusable: ObjectUnusable | None = None
        for bucket in (UPLOADS_BUCKET, MODULES_BUCKET):
            try:
                module = await objects.read(self._bus, bucket, sha256, max_bytes)
            except ObjectUnusable as error:
                unusable = error
                continue
            # Anyone may write to `uploads`, also under somebody else's digest.
            if module is not None and sha256_hex(module) == sha256:
                return module
        if unusable is not None:
            raise unusable
        return None

    async def keep_module(self, sha256: str, module: bytes) -> None:
        """Keep `module` for as long as its artifacts. Raises BusError."""
        if await objects.find(self._bus, MODULES_BUCKET, sha256) is None:
            await objects.write(self._bus, MODULES_BUCKET, sha256, module)

    async def find(self, module: str, engine: str) -> Artifact | None:
        """Return our artifact of `module` for `engine`, or None. Raises BusError."""
        name = artifact_object(module, engine)
        found = await objects.find(self._bus, MODULES_BUCKET, name)
        if found is None:
            return None
        try:
            artifact = msgspec.json.decode(found.header(HEADER), type=Artifact)
            signature = bytes.fromhex(artifact.signature)
            text = artifact_text(module, engine, artifact.sha256)
            self._key.public_key().verify(signature, text)
        except (ValueError, InvalidSignature, *UNREADABLE):
            return None
        intact = found.size == artifact.size and found.sha256 == artifact.sha256
        return (
            artifact if intact and (artifact.module, artifact.engine) == (module, engine) else None
        )

    async def store(self, module: str, compiled: Compiled) -> Artifact:
        """Sign and store what was compiled of the module with digest `module`. Raises BusError."""
        digest = sha256_hex(compiled.code)
        artifact = Artifact(
            module=module,
            engine=compiled.engine,
            size=len(compiled.code),
            sha256=digest,
            signature=self._key.sign(artifact_text(module, compiled.engine, digest)).hex(),
        )
        await objects.write(
            self._bus,
            MODULES_BUCKET,
            artifact_object(module, compiled.engine),
            compiled.code,
            {HEADER: msgspec.json.encode(artifact).decode()},
        )
        return artifact
