"""Reads an image reference the way `docker pull` does.

`sort` means `docker.io/library/sort:latest`. The grammar is that of the
distribution project's reference package; names are what the OCI distribution
specification 1.1 allows in a URL.
"""

import re
from typing import Final

import msgspec

from services.builder.errors import Rejected

DOCKER_HUB: Final = "docker.io"
_NAME: Final = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_HOST: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)


class Reference(msgspec.Struct, frozen=True):
    """A resolved image reference. `target` is a tag or a digest."""

    registry: str
    repository: str
    target: str

    def __str__(self) -> str:
        mark = "@" if self.target.startswith("sha256:") else ":"
        return f"{self.registry}/{self.repository}{mark}{self.target}"


def parse(text: str) -> Reference:
    """Return what the reference `text` names. A digest wins over a tag beside it.

    Raises:
        Rejected: it is no reference.
    """
    name, _, digest = text.partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        raise Rejected(f"image `{text}`: only digests of the form sha256:<64 hex digits> are taken")
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, path = first, rest
    else:
        registry, path = DOCKER_HUB, name
    path, colon, tag = path.partition(":")
    if registry in (DOCKER_HUB, "index.docker.io"):
        registry = DOCKER_HUB
        path = path if "/" in path else f"library/{path}"
    if not _HOST.fullmatch(registry):
        raise Rejected(f"image `{text}`: `{registry}` is no registry host")
    if not _NAME.fullmatch(path):
        raise Rejected(
            f"image `{text}`: `{path}` is no repository (lower case letters, digits, . _ - /)"
        )
    if colon and not _TAG.fullmatch(tag):
        raise Rejected(f"image `{text}`: `{tag}` is no tag")
    return Reference(registry, path, digest or tag or "latest")
