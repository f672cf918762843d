"""Secrets of the local platform: one file a key, in a folder that only this user can enter.

`<directory>/<namespace>/<name>/<key>`: the same tree that a cluster mounts from
its Secrets, so the scheduler reads both in one way.
"""

from pathlib import Path
from typing import Final

import msgspec

from schemas.specs import SecretRef
from wasmfn.errors import MissingError, RejectedError
from wasmfn.paths import write_private

MAX_BYTES: Final = 64 * 1024


def put(directory: Path, namespace: str, name: str, key: str, value: bytes) -> bool:
    """Store a value, whole or not at all; return whether it replaced one.

    Raises:
        RejectedError: the name or value cannot be a secret's.
    """
    _check(name, key)
    if not value:
        raise RejectedError(
            f"nothing was stored, since the value of {name}/{key} is empty; see whether what"
            " should have given it has failed"
        )
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if len(value) > MAX_BYTES or "\0" in text:
        raise RejectedError("a secret's value is UTF-8 text without NUL, at most 64 KiB")
    folder = directory / namespace / name
    for path in (directory, directory / namespace, folder):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    replaced = (folder / key).exists()
    write_private(folder / key, value)
    return replaced


def names(directory: Path, namespace: str) -> dict[str, list[str]]:
    """Return the keys of each secret of a namespace; never a value."""
    folder = directory / namespace
    if not folder.is_dir():
        return {}
    return {
        secret.name: sorted(key.name for key in secret.iterdir() if not key.name.startswith("."))
        for secret in sorted(folder.iterdir())
        if secret.is_dir()
    }


def delete(directory: Path, namespace: str, name: str, key: str | None) -> None:
    """Delete a key of a secret, or all of it.

    Raises:
        MissingError: there is none.
    """
    _check(name, key or "x")
    held = names(directory, namespace).get(name)
    if held is None or (key is not None and key not in held):
        what = name if key is None else f"{name}/{key}"
        raise MissingError(f"there is no secret {what} in namespace {namespace}")
    folder = directory / namespace / name
    for each in [key] if key is not None else held:
        (folder / each).unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _check(name: str, key: str) -> None:
    try:
        msgspec.convert({"name": name, "key": key}, SecretRef)
    except msgspec.ValidationError:
        raise RejectedError(
            f"{name}/{key} cannot be a secret: the name has lower-case letters, digits and inner"
            " dashes, the key is a bare file name such as `password`"
        ) from None
