import fcntl
import mmap
import os
from pathlib import Path

import msgspec
import pytest

from keeper.artifact import cached, check, sealed, sealed_copy, store
from keeper.control import RefusedError
from schemas.builds import Artifact
from schemas.names import sha256_hex
from schemas.signing import artifact_text

CODE = b"machine code" * 1000
ARTIFACT = Artifact("a" * 64, "engine", len(CODE), sha256_hex(CODE), "0a")


def signed(signature: bytes, text: bytes) -> bool:
    return (signature, text) == (b"\x0a", artifact_text("a" * 64, "engine", sha256_hex(CODE)))


def test_a_sealed_file_can_not_be_changed_by_anyone() -> None:
    descriptor = sealed(CODE)
    for change in (
        lambda: os.pwrite(descriptor, b"x", 0),
        lambda: os.ftruncate(descriptor, 1),
        lambda: os.ftruncate(descriptor, 1 << 20),
        lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0),
        lambda: mmap.mmap(descriptor, 10, prot=mmap.PROT_WRITE),
    ):
        with pytest.raises(OSError, match=r"not permitted|Permission"):
            change()
    os.close(descriptor)


def test_the_cache_returns_what_was_stored(tmp_path: Path) -> None:
    store(str(tmp_path), ARTIFACT, CODE)
    store(str(tmp_path), ARTIFACT, CODE)  # again does no harm
    descriptor = sealed_copy(cached(str(tmp_path), ARTIFACT))
    assert os.pread(descriptor, len(CODE) + 1, 0) == CODE
    assert [p.name for p in tmp_path.iterdir()] == [f"{ARTIFACT.sha256}.cwasm"]
    os.close(descriptor)


def test_a_failed_store_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such"):
        store(f"{tmp_path}/missing", ARTIFACT, CODE)
    assert list(tmp_path.iterdir()) == []


def test_what_the_builder_signed_is_accepted() -> None:
    check(sealed(CODE), ARTIFACT, "engine", signed)


@pytest.mark.parametrize(
    ("content", "engine", "valid", "says"),
    [
        (CODE + b"x", "engine", True, "not those that were promised"),
        (b"", "engine", True, "not those that were promised"),
        (CODE, "other", True, "for engine engine"),
        (CODE, "engine", False, "signature"),
    ],
)
def test_anything_else_is_refused(content: bytes, engine: str, valid: bool, says: str) -> None:
    with pytest.raises(RefusedError, match=says) as caught:
        check(sealed(content), ARTIFACT, engine, lambda *_: valid)
    assert caught.value.problem == "bad-artifact"


def test_a_full_cache_drops_what_was_longest_not_used(tmp_path: Path) -> None:
    artifacts = [msgspec.structs.replace(ARTIFACT, sha256=str(n) * 64) for n in range(4)]
    for age, artifact in enumerate(artifacts[:3]):
        store(str(tmp_path), artifact, b"x" * 100, max_bytes=300)
        os.utime(cached(str(tmp_path), artifact), (1000 + age, 1000 + age))
    os.close(sealed_copy(cached(str(tmp_path), artifacts[0])))
    store(str(tmp_path), artifacts[3], b"x" * 150, max_bytes=300)
    left = [Path(cached(str(tmp_path), artifact)).exists() for artifact in artifacts]
    assert left == [True, False, False, True]


def test_an_artifact_larger_than_the_cache_is_kept_alone(tmp_path: Path) -> None:
    store(str(tmp_path), ARTIFACT, b"x" * 100, max_bytes=300)
    large = msgspec.structs.replace(ARTIFACT, sha256="9" * 64)
    store(str(tmp_path), large, b"x" * 500, max_bytes=300)
    assert not Path(cached(str(tmp_path), ARTIFACT)).exists()
    assert Path(cached(str(tmp_path), large)).exists()
