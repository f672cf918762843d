"""What all answers of the Kubernetes API have in common.

Pure. What is not read here may be there or not, and may change its type with
the next version of Kubernetes.
"""

from typing import Final, Literal

import msgspec

GONE: Final = 410
"""The code of an event that says: this server has forgotten what came after that version."""


class ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    """Where a list stands among all changes."""

    resource_version: str
    more: str = msgspec.field(name="continue", default="")
    """There is more of it than was sent."""


class WatchEvent(msgspec.Struct, frozen=True):
    """One line of a watch."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "ERROR"]
    object: msgspec.Raw


class Problem(msgspec.Struct, frozen=True):
    """The `Status` object: why the API server did not do it."""

    message: str = ""
    code: int = 0
