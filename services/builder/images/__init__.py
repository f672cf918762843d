"""Where a module's OCI image comes from: the builder's one seam to its platform."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # `fetch` runs in images that have nothing but it and the standard library.
    from services.builder.garbage import Stored

Tell = Callable[[str], None]
"""Takes a sentence about what is under way, for people to follow."""


class ImageBuilder(Protocol):
    """Makes the image `FROM scratch`, `COPY x.wasm /`, `ENTRYPOINT ["/x.wasm"]`."""

    async def build(self, build: str, module: bytes, file_name: str, tell: Tell) -> str:
        """Return a reference to the image of `module`, made for the build with id `build`.

        Doing it again replaces the image with an equal one.

        Raises:
            Rejected: the image cannot be made of this module.
            Unavailable: try again later.
        """
        ...

    async def discard(self, build: str) -> None:
        """Leave no image behind of the build with id `build`, nor any work on it.

        It failed for another reason, so this must not: what cannot be done is logged.
        """
        ...

    async def made(self) -> "list[Stored]":
        """Return the images that lie about on this machine, by the ids of their builds.

        Those in a registry are the registry's to collect. Raises OSError.
        """
        ...
