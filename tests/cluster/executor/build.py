"""Builds the images that a build's Job needs in the lab, and pushes them to its registry.

The executor is a stand-in: no image of kaniko's can be fetched there. The fetching image has of
the services only what fetches a module.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.cluster import lab
from tests.cluster.lab import images, paths, supplies
from tests.cluster.lab.commands import lock, run
from tests.cluster.lab.containerd import BUSYBOX_IMAGE

STAND_IN = "lab/executor:stand-in"
"""What manifests/overlays/lab calls it."""

_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parents[2]
_BUILDAH = Path("/usr/bin/buildah")
_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}\n'
_FETCH = """
ARG BASE
FROM ${BASE}
COPY app /app
ENV PYTHONPATH=/app
ENTRYPOINT ["python3", "-P", "-m"]
"""
_FETCHES = ("services/__init__.py", "services/builder/__init__.py",
            "services/builder/images/__init__.py", "services/builder/images/fetch.py")  # fmt: skip


def executor() -> str:
    """Return the name to pull the stand-in executor by."""
    with lock(paths.ROOT / "executor.lock"):
        tag = f"lab/executor:{_version([_BUILDAH, _HERE / 'Dockerfile', _HERE / 'executor'])}"
        if not images.exists(tag):
            with tempfile.TemporaryDirectory() as scratch:
                _build_executor(Path(scratch), tag)
        images.rename(tag, STAND_IN)
        lab.push_image(STAND_IN)
        return lab.push_image(tag)


def _build_executor(context: Path, tag: str) -> None:
    for name in ("Dockerfile", "executor"):
        shutil.copy2(_HERE / name, context / name)
    root = context / "root"
    for file in (_BUILDAH, *_libraries(_BUILDAH)):
        place = root / file.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, place)
    (root / "etc/containers").mkdir(parents=True)
    (root / "etc/containers/policy.json").write_text(_POLICY)
    lab.build_image(context, tag, arguments={"BASE": BUSYBOX_IMAGE})


def fetch() -> str:
    """Return the name to pull the fetching image by."""
    supplies.make()
    with lock(paths.ROOT / "executor.lock"):
        tag = f"lab/fetch:{_version(_CHECKOUT / name for name in _FETCHES)}"
        if not images.exists(tag):
            with tempfile.TemporaryDirectory() as scratch:
                _build_fetch(Path(scratch), tag)
        return lab.push_image(tag)


def _build_fetch(context: Path, tag: str) -> None:
    for name in _FETCHES:
        (context / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(_CHECKOUT / name, context / "app" / name)
    (context / "Dockerfile").write_text(_FETCH)
    lab.build_image(context, tag, arguments={"BASE": supplies.IMAGE})


def _version(files: Iterable[Path]) -> str:
    """Return a tag of what is in `files`: a node does not pull again what it has."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _libraries(program: Path) -> list[Path]:
    """Return what the loader loads for `program`, itself included, under the names it looks for."""
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", run("ldd", program))]
