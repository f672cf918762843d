"""Finds the wasm module in the parts of an image, without writing a file anywhere.

People make such images in several ways, so each is understood: an entrypoint
or command that names the file, upstream's shell-string form of it, a single
`.wasm` file, or an OCI artifact whose layer *is* the module. Layers come from
strangers: what they decompress to is bounded, and paths in them are only ever
compared.
"""

import gzip
import io
import posixpath
import re
import shlex
import tarfile
import zlib
from collections.abc import Iterable
from typing import Annotated, Final, Protocol, TypeVar

import msgspec
from msgspec import Meta

from services.builder.errors import Rejected

WASM_LAYERS: Final = frozenset(
    {
        "application/wasm",
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.module.wasm.content.layer.v1+wasm",
    }
)
"""Layers that are a module: CNCF's wasm artifact, wasm-to-oci, and what Istio takes."""

Shape = TypeVar("Shape")
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
MAX_FILES: Final = 100_000
CHUNK_BYTES: Final = 256 * 1024
_FILE_NAME: Final = re.compile(r"[^-A-Za-z0-9_.+]+")
UNREADABLE: Final = (
    tarfile.TarError, zlib.error, EOFError, OSError, ValueError, ArithmeticError, LookupError,
    RecursionError,
)  # fmt: skip
"""What tarfile and gzip raise on damaged archives, beyond their own errors."""
# Docker's reading of `ENTRYPOINT = ["x.wasm"]`: no valid exec form, hence a shell command.
_SHELL_EXEC: Final = re.compile(r"^\s*=?\s*\[\s*\"([^\"]+)\"")


class Platform(msgspec.Struct, frozen=True):
    """What an entry of an image index is for."""

    os: str = ""
    architecture: str = ""

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


class Content(msgspec.Struct, frozen=True, rename="camel"):
    """A descriptor: content elsewhere, by digest."""

    digest: Digest
    size: Annotated[int, Meta(ge=0)]
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """A manifest or an index, whichever has its fields."""

    media_type: str = ""
    config: Content | None = None
    layers: list[Content] = []
    manifests: list[Content] = []


class Command(msgspec.Struct, frozen=True):
    """The part of an image's configuration that says what to run."""

    entrypoint: list[str] | None = msgspec.field(default=None, name="Entrypoint")
    cmd: list[str] | None = msgspec.field(default=None, name="Cmd")
    folder: str = msgspec.field(default="/", name="WorkingDir")


class Config(msgspec.Struct, frozen=True):
    """An image's configuration."""

    config: Command | None = None


def decode(content: bytes, shape: type[Shape], what: str) -> Shape:
    """Return `content` decoded as `shape`. Raises Rejected, naming `what`, if it is none."""
    try:
        return msgspec.json.decode(content, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(f"{what} is not what the OCI image specification says: {error}") from error


def choose(index: Manifest) -> Content:
    """Return the entry of a multi-platform index to pull: a wasm one, or else the only one."""
    entries = [
        # Build attestations are listed as `unknown/unknown`; they are no images.
        entry
        for entry in index.manifests
        if str(entry.platform) != "unknown/unknown"
    ]
    for entry in entries:
        if entry.platform and (
            entry.platform.architecture.startswith("wasm") or entry.platform.os.startswith("wasi")
        ):
            return entry
    if len(entries) == 1:
        return entries[0]
    listed = ", ".join(str(entry.platform or "unnamed") for entry in entries[:8]) or "nothing"
    raise Rejected(f"the image has no wasm variant to choose: it is built for {listed}")


def named_file(config: Config) -> str | None:
    """Return the path of the file that the image runs, or None if it does not say.

    Of entrypoint and command together it is the first word that ends in `.wasm`,
    because the program before it may be a runtime, and else the first word.
    """
    command = config.config
    if command is None:
        return None
    words = [*_words(command.entrypoint), *_words(command.cmd)]
    if not words:
        return None
    word = next((word for word in words if word.endswith(".wasm")), words[0])
    return _path(posixpath.join(command.folder, word))


def _words(given: list[str] | None) -> list[str]:
    """Return what an exec form says, and what a shell form means: nothing has a shell here."""
    if given is None or given[:2] != ["/bin/sh", "-c"] or len(given) < 3:
        return given or []
    if match := _SHELL_EXEC.match(given[2]):
        return [match.group(1)]
    try:
        return shlex.split(given[2])
    except ValueError:
        return []


def find_module(
    layers: Iterable[tuple[str, bytes]], wanted: str | None, *, max_bytes: int
) -> tuple[str, bytes]:
    """Return file name and bytes of the module in `layers` (media type, content), lowest first.

    `wanted` is what `named_file` returned. `max_bytes` bounds all that is
    decompressed.

    Raises:
        Rejected: no such file, several candidates, or a layer that cannot be read.
    """
    files: dict[str, bytes | None] = {}
    left = max_bytes
    for media_type, content in layers:
        left = _read_layer(media_type, content, wanted, files, left)
    there = ", ".join(f"`/{name}`" for name in list(files)[:5]) or "no .wasm file"
    modules = {name: data for name, data in files.items() if data is not None}
    if wanted in files:
        if wanted not in modules:
            raise Rejected(f"the image runs `/{wanted}`, which is a link or a folder, not a module")
        return file_name(wanted), modules[wanted]
    if wanted is not None and (wanted.endswith(".wasm") or len(modules) != 1):
        raise Rejected(f"the image runs `/{wanted}`, which is not in it; it holds {there}")
    if len(modules) != 1:
        raise Rejected(f'the image holds {there}; name one with ENTRYPOINT ["/x.wasm"]')
    ((name, module),) = modules.items()
    return file_name(name), module


def file_name(path: str) -> str:
    """Return the last part of `path` as a name that argv[0] and a spec can hold."""
    name = _FILE_NAME.sub("-", posixpath.basename(path)).lstrip("-.+")[:128]
    return name or "main.wasm"


def _path(name: str) -> str:
    """Return `name` as the layer's own spelling: no leading slash, no `.` parts."""
    return posixpath.normpath("/" + name).lstrip("/")


def _read_layer(
    media_type: str, content: bytes, wanted: str | None, files: dict[str, bytes | None], left: int
) -> int:
    """Apply one layer to `files`, which holds candidates only; return the budget that is left."""
    reader = _Bounded(_open(media_type, content), left)
    try:
        with tarfile.open(fileobj=reader, mode="r|") as archive:
            for count, entry in enumerate(archive):
                if count >= MAX_FILES:
                    raise Rejected(f"a layer of the image has more than {MAX_FILES} files")
                _apply(archive, entry, wanted, files, left)
    except UNREADABLE as error:
        raise Rejected(f"a layer of the image cannot be read: {error}") from error
    return left - reader.taken


def _apply(
    archive: tarfile.TarFile,
    entry: tarfile.TarInfo,
    wanted: str | None,
    files: dict[str, bytes | None],
    left: int,
) -> None:
    """Apply one entry of a layer to the candidates in `files`."""
    path = _path(entry.name)
    folder, _, base = path.rpartition("/")
    if base.startswith(".wh."):
        _whiteout(files, folder, base.removeprefix(".wh."))
    elif path == wanted or path.endswith(".wasm"):
        # A sparse file's holes take no room in the archive, but do in memory.
        if not entry.isreg() or entry.issparse():
            files[path] = None
        elif entry.size > left:
            raise Rejected(f"`/{path}` in the image has {entry.size} bytes; that is too large")
        else:
            stream = archive.extractfile(entry)
            files[path] = stream.read() if stream else None


def _whiteout(files: dict[str, bytes | None], folder: str, name: str) -> None:
    """Forget what a layer deletes: a file, or with `.wh..wh..opq` all that was in `folder`."""
    gone = folder if name == ".wh..opq" else posixpath.join(folder, name)
    for path in [p for p in files if p == gone or p.startswith(f"{gone}/" if gone else "")]:
        del files[path]


class Readable(Protocol):
    """What tarfile reads from."""

    def read(self, size: int, /) -> bytes: ...  # noqa: D102


def _open(media_type: str, content: bytes) -> Readable:
    """Return a file that reads the layer's tar archive."""
    if media_type.endswith("zstd"):
        raise Rejected("the image has a zstd layer; gzip layers and plain ones are read")
    raw = io.BytesIO(content)
    # Some registries serve gzip under the plain type, so the content decides.
    return gzip.GzipFile(fileobj=raw) if content[:2] == b"\x1f\x8b" else raw


class _Bounded(io.RawIOBase):
    """A file that refuses to give more than `limit` bytes, whatever it unpacks to."""

    def __init__(self, inner: Readable, limit: int) -> None:
        self._inner = inner
        self._limit = limit
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes. Raises Rejected beyond the limit."""
        data = self._inner.read(size if 0 <= size <= CHUNK_BYTES else CHUNK_BYTES)
        self.taken += len(data)
        if self.taken > self._limit:
            raise Rejected("the image unpacks to more than is taken; keep only the module in it")
        return data
