"""A build: module bytes or an image reference becomes a signed, precompiled artifact."""

import hashlib
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.names import FileName, ImageReference, Sha256

BuildState = Literal["queued", "building", "ready", "failed", "cancelled"]
"""`cancelled`: nobody wanted it any more before it was done."""

MAX_MODULE_MIB = 64
"""The largest module that a builder takes unless it is set otherwise; clients upload no larger."""

UPLOADS_BUCKET = "uploads"
"""Object store bucket: module bytes under their SHA-256, put there by any client."""
MODULES_BUCKET = "modules"
"""Object store bucket, written by the builder: artifacts under `artifact_object`, and beside
them the module itself under its bare digest, because uploads expire."""


class UploadSource(msgspec.Struct, frozen=True, tag_field="from", tag="upload"):
    """A module that a client has put into the bucket `uploads`."""

    sha256: Sha256
    file_name: FileName


class ImageSource(msgspec.Struct, frozen=True, tag_field="from", tag="image"):
    """A module inside an OCI image.

    `revision` is the revision of the spec that named the reference: publishing
    a spec again resolves its tag again, so a changed image does roll out.
    """

    reference: ImageReference
    revision: Annotated[int, Meta(ge=0)]


Source = UploadSource | ImageSource


def build_id(source: Source) -> str:
    """Return the id of the build of `source`: equal sources are one build."""
    match source:
        case UploadSource(sha256=sha256, file_name=file_name):
            text = f"upload\n{sha256}\n{file_name}"
        case ImageSource(reference=reference, revision=revision):
            text = f"image\n{reference}\n{revision}"
    return hashlib.sha256(text.encode()).hexdigest()


class Artifact(msgspec.Struct, frozen=True):
    """A precompiled module. The signature covers the text of `signing.artifact_text`."""

    module: Sha256
    """Digest of the wasm module it was compiled from."""
    engine: str
    """Compatibility hash of the engine that can run it."""
    size: int
    """Bytes of the artifact."""
    sha256: Sha256
    """Digest of the artifact's bytes."""
    signature: str
    """Ed25519 by the builder, in hexadecimal."""


def artifact_object(module: str, engine: str) -> str:
    """Return the object name of an artifact in the bucket `modules`."""
    return f"{module}.{engine}"


class Step(msgspec.Struct, frozen=True):
    """One finished step of a build."""

    name: Literal["fetch", "resolve", "pull", "inspect", "compile", "store", "image"]
    duration_ms: float


class Build(msgspec.Struct, frozen=True):
    """The record of a build on the stream BUILDS; the last one per build id stands."""

    id: Sha256
    source: Source
    state: BuildState
    time: datetime
    file_name: str | None = None
    """The module's file name: argv[0] of the function."""
    artifact: Artifact | None = None
    """Set when ready."""
    image: str | None = None
    """Where the OCI image of the module is, when ready."""
    memory_bytes: int | None = None
    """Linear memory that the module has from its start, when ready: no limit may be lower."""
    error: str | None = None
    """One sentence: why it failed or was cancelled, or what it waits for until the next try."""
    steps: tuple[Step, ...] = ()
    correlation: str = ""


class BuildRequest(msgspec.Struct, frozen=True):
    """Ask the builder to build `source`, or to say how far it is. Asking again is harmless."""

    source: Source
    correlation: str = ""
    retry: bool = False
    """Build again even if the last try failed."""


class BuildReply(msgspec.Struct, frozen=True):
    """The record as it stands, or why the request was not taken."""

    build: Build | None = None
    error: str | None = None
