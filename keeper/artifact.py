"""Precompiled modules: kept in a cache directory, run only from sealed memory.

Deserializing machine code means trusting it wholly, and a file can change
between the check and the use. So the bytes are first copied into a memory file
that nobody can write any more, then checked against the builder's signature,
then mapped from there.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from keeper.control import RefusedError
from schemas.builds import Artifact
from schemas.signing import artifact_text

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_COPY_BYTES: Final = 1 << 20
MAX_CACHE_BYTES: Final = 512 << 20
"""What the cache holds at most: half of what a keeper pod is given for it by default."""


def sealed(data: bytes | memoryview) -> int:
    """Return the descriptor of a memory file that holds `data` for good."""
    descriptor = os.memfd_create("artifact", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    _write(descriptor, memoryview(data))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def sealed_copy(path: str) -> int:
    """Return the descriptor of a sealed memory file with the content of the file at `path`.

    Raises:
        OSError: it cannot be read.
    """
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        descriptor = os.memfd_create("artifact", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        while os.sendfile(descriptor, source, None, _COPY_BYTES):
            pass
        with contextlib.suppress(OSError):
            os.utime(source)  # It was used: the ones longest not used go first.
    finally:
        os.close(source)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def check(
    descriptor: int, artifact: Artifact, engine: str, verify: Callable[[bytes, bytes], bool]
) -> None:
    """Refuse a sealed file that is not what the builder signed, for this engine.

    Raises:
        RefusedError: says what does not fit.
    """
    if artifact.engine != engine:
        raise RefusedError(
            "bad-artifact", f"the artifact is for engine {artifact.engine}, this one is {engine}"
        )
    size = os.fstat(descriptor).st_size
    with (
        mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        if size
        else contextlib.nullcontext(b"") as content
    ):
        digest = hashlib.sha256(content).hexdigest()
    if digest != artifact.sha256:
        raise RefusedError("bad-artifact", "the artifact's bytes are not those that were promised")
    text = artifact_text(artifact.module, artifact.engine, digest)
    try:
        signature = bytes.fromhex(artifact.signature)
    except ValueError:
        signature = b""
    if not verify(signature, text):
        raise RefusedError("bad-artifact", "the artifact's signature is not the builder's")


def cached(directory: str, artifact: Artifact) -> str:
    """Return where the cache in `directory` keeps `artifact`, whether or not it is there.

    As text: a `Path` would be 0.09 MiB of shared pages that each child writes to.
    """
    return f"{directory}/{artifact.sha256}.cwasm"


def store(
    directory: str,
    artifact: Artifact,
    data: bytes | memoryview,
    max_bytes: int = MAX_CACHE_BYTES,
) -> None:
    """Keep `data` in the cache, whole or not at all, and remove others beyond `max_bytes`.

    Raises:
        OSError: disk full, or no such directory.
    """
    path = Path(cached(directory, artifact))
    if path.exists():
        return
    temporary = path.parent / f".{artifact.sha256}.{os.urandom(8).hex()}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write(descriptor, memoryview(data))
        finally:
            os.close(descriptor)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _trim(path.parent, max_bytes, path)


def _trim(directory: Path, max_bytes: int, newest: Path) -> None:
    """Remove the artifacts longest not used beyond `max_bytes`. Who runs one has a copy of it."""
    found = []
    for path in directory.glob("*.cwasm"):
        with contextlib.suppress(FileNotFoundError):  # Another child removes too.
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    used = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if used > max_bytes and path != newest:
            path.unlink(missing_ok=True)
            used -= size


def _write(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]
