"""Which builds and objects are claimed: named by a spec, or by what is in force.

Pure. A claim is read as loosely as may be: whatever a message says beside its
module or image is not the builder's business, and a spec that the scheduler
will refuse claims its build all the same. So too much is claimed, never too
little: what nobody claims, nobody can want.
"""

from collections.abc import Iterable

import msgspec

from schemas.builds import Artifact, ImageSource, Source, UploadSource, artifact_object, build_id
from schemas.names import FileName, ImageReference, Sha256
from schemas.specs import Module
from schemas.unreadable import UNREADABLE


class Claim(msgspec.Struct, frozen=True):
    """What one message names."""

    builds: frozenset[str] = frozenset()
    """Ids of builds."""
    objects: frozenset[str] = frozenset()
    """Objects of the bucket `modules`."""


class _Module(msgspec.Struct):
    """`specs.Module`, whatever else a later version has in it."""

    sha256: Sha256
    file_name: FileName = Module.__struct_defaults__[0]


class _Spec(msgspec.Struct):
    """The code of a function's or an environment's spec."""

    module: _Module | None = None
    image: ImageReference | None = None


class _Active(msgspec.Struct):
    """What is in force, as far as it has to do with a build."""

    revision: int
    spec: _Spec
    build: str = ""
    artifact: Artifact | None = None


def of_spec(payload: bytes, revision: int) -> Claim:
    """Return what a message on SPECS claims, whose sequence is `revision`."""
    try:
        spec = msgspec.json.decode(payload, type=_Spec)
    except UNREADABLE:
        return Claim()  # No scheduler can read it either.
    return _claim(spec, revision)


def of_active(payload: bytes) -> Claim:
    """Return what a message on ACTIVE claims."""
    try:
        active = msgspec.json.decode(payload, type=_Active)
    except UNREADABLE:
        return Claim()
    claim = _claim(active.spec, active.revision)
    objects: frozenset[str] = frozenset()
    if active.artifact is not None:
        objects = frozenset(
            {
                active.artifact.module,
                artifact_object(active.artifact.module, active.artifact.engine),
            }
        )
    return union([claim, Claim(frozenset({active.build} - {""}), objects)])


def union(claims: Iterable[Claim]) -> Claim:
    """Return all that `claims` name."""
    found = list(claims)
    return Claim(
        frozenset().union(*(claim.builds for claim in found)),
        frozenset().union(*(claim.objects for claim in found)),
    )


def _claim(spec: _Spec, revision: int) -> Claim:
    source: Source
    if spec.module is not None:
        source = UploadSource(spec.module.sha256, spec.module.file_name)
        return Claim(frozenset({build_id(source)}), frozenset({spec.module.sha256}))
    if spec.image is not None:
        source = ImageSource(spec.image, revision)
        return Claim(frozenset({build_id(source)}))
    return Claim()
