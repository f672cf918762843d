"""The words that objects, files and identities are called by.

A name becomes a NATS subject token, a Kubernetes object name, a directory and
a metrics label. The DNS label (RFC 1123) is the one alphabet that is legal in
all of them without escaping, so every user-chosen name is one.
"""

import hashlib
import os
from typing import Annotated, Final

from msgspec import Meta

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"

END: Final = r"$(?!\n)"
"""End of a pattern. In Python a bare `$` also matches before a final newline."""

Name = Annotated[
    str,
    Meta(
        pattern=f"^{_LABEL}{END}",
        max_length=63,
        description="A DNS label: lower-case letters, digits and inner dashes, at most 63.",
    ),
]

FileName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][-A-Za-z0-9_.+]{0,127}" + END,
        max_length=128,
        description="A bare file name without directories, such as `sort.wasm`.",
    ),
]

VariableName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}" + END,
        max_length=128,
        description="The name of an environment variable.",
    ),
]

VariableValue = Annotated[
    str,
    Meta(pattern=r"^[^\x00]*$", max_length=32768, description="A value without NUL characters."),
]

Sha256 = Annotated[
    str,
    Meta(pattern=r"^[0-9a-f]{64}" + END, description="A SHA-256 digest in lower-case hexadecimal."),
]

HostName = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?" + END)]

ImageReference = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][-A-Za-z0-9._/:@\[\]]*" + END,
        max_length=512,
        description="An OCI image reference, such as `docker.io/you/sort:1`.",
    ),
]

Subject = Annotated[
    str,
    Meta(
        pattern=r"^[!-~]+" + END,
        max_length=255,
        description="A NATS subject: words separated by dots, such as `shop.orders`.",
    ),
]

DEFAULT_NAMESPACE: Final = "default"


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 digest of `data` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def new_instance_id() -> str:
    """Return an instance id: 16 hexadecimal digits from the system's randomness.

    An id is never reused, so an answer or a fact that names it can never mean
    a later instance (promise 5).
    """
    return os.urandom(8).hex()


def new_correlation_id() -> str:
    """Return a fresh correlation id: 32 hexadecimal digits, the size of a W3C trace id."""
    return os.urandom(16).hex()


def new_token() -> str:
    """Return a fresh instance token: 32 hexadecimal digits, compared in constant time."""
    return os.urandom(16).hex()
