"""Writes the image as an OCI layout directory: no daemon, no registry, no root.

`skopeo copy oci:DIR:latest docker://…` or `umoci unpack` take it from there.
"""

import asyncio
import os
import re
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from services.builder.errors import Unavailable
from services.builder.garbage import Stored
from services.builder.images import Tell
from services.builder.layout import LAYOUT, Image, build_image

TAG = "latest"
_BUILD = re.compile("[0-9a-f]{64}")
"""Other things in the directory are not ours."""


class LocalImages:
    """Image builder that keeps one layout a build below `directory`."""

    def __init__(self, directory: Path, platform: str) -> None:
        self._directory = directory
        self._platform = platform

    async def build(self, build: str, module: bytes, file_name: str, tell: Tell) -> str:
        """Write the layout of `module`; see `ImageBuilder`."""
        return await asyncio.to_thread(self._build, build, module, file_name)

    async def discard(self, build: str) -> None:
        """Remove the layout; see `ImageBuilder`."""
        await asyncio.to_thread(shutil.rmtree, self._directory / build, ignore_errors=True)

    async def made(self) -> list[Stored]:
        """Return the layouts that are there; see `ImageBuilder`."""
        return await asyncio.to_thread(self._made)

    def _made(self) -> list[Stored]:
        if not self._directory.is_dir():
            return []
        return [
            Stored(layout.name, datetime.fromtimestamp(layout.stat().st_mtime, UTC))
            for layout in self._directory.iterdir()
            if _BUILD.fullmatch(layout.name)
        ]

    def _build(self, build: str, module: bytes, file_name: str) -> str:
        target = self._directory / build
        try:
            write_layout(build_image(module, file_name, self._platform), target)
        except OSError as error:
            raise Unavailable(f"cannot write the image to {target}: {error.strerror}") from error
        return f"oci:{target}:{TAG}"


def write_layout(image: Image, target: Path) -> None:
    """Write `image` as the OCI layout `target`, which appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name[:16]}-", dir=target.parent))
    try:
        draft.chmod(0o755)
        blobs = draft / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for digest, content in image.blobs.items():
            (blobs / digest.removeprefix("sha256:")).write_bytes(content)
        (draft / "index.json").write_bytes(image.index(TAG))
        (draft / "oci-layout").write_bytes(LAYOUT)
        # A directory is replaced only if it is empty, and an equal build made this one.
        shutil.rmtree(target, ignore_errors=True)
        os.rename(draft, target)  # noqa: PTH104 - says that it is rename(2), atomic
    finally:
        shutil.rmtree(draft, ignore_errors=True)
