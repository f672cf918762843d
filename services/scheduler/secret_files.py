"""Read secrets at the moment a function is loaded: `<directory>/<namespace>/<name>/<key>`.

A value goes from its file into the body of the load call and nowhere else; not
even an error holds a part of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from schemas.specs import SecretRef

MAX_BYTES: Final = 64 * 1024


class SecretError(Exception):
    """A secret that a function names cannot be read. The message is for the function's author."""


def read_secrets(
    directory: Path, namespace: str, secrets: Mapping[str, SecretRef]
) -> dict[str, str]:
    """Return the value of each variable that is a secret.

    Raises:
        SecretError: one is not there, too large or not text.
    """
    values = {}
    for variable, secret in secrets.items():
        what = f"the secret {secret.name!r}, key {secret.key!r}, of the variable {variable!r}"
        try:
            with (directory / namespace / secret.name / secret.key).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError:
            raise SecretError(
                f"{what} does not exist in namespace {namespace!r} or cannot be read; create it"
            ) from None
        if len(data) > MAX_BYTES or b"\0" in data:
            raise SecretError(f"{what} is larger than 64 KiB or holds NUL characters")
        try:
            values[variable] = data.decode("utf-8")
        except UnicodeDecodeError:
            raise SecretError(f"{what} is not UTF-8 text") from None
    return values
