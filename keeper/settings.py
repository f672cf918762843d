"""What a keeper is told at its start: flags, with the environment below them.

`--keeper-id k1` and `WASMFN_KEEPER_KEEPER_ID=k1` are the same; the flag wins.
Only files hold keys, and only public ones.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keeper.control import Verify
from schemas.settings import SettingsError, read_settings
from schemas.specs import MIB

PREFIX: Final = "WASMFN_KEEPER_"


class KeeperSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of a keeper in a pod."""

    keeper_id: str
    """The pod's uid: control calls name it."""
    control_key: str
    """File with the scheduler's public key (Ed25519: PEM, hexadecimal or 32 raw bytes)."""
    artifact_key: str
    """File with the builder's public key."""
    cache_dir: str
    """Directory of precompiled modules; it is made if it is not there."""
    control: str = "0.0.0.0:10087"
    """HOST:PORT for control calls."""
    control_fd: int = -1
    """A listening socket to take instead of `control`."""
    host: str = "127.0.0.1"
    """Address of the function listeners, and what the answers to load calls say."""
    function_ports: str = ""
    """Range FIRST-LAST of the function listeners; empty: the system picks."""
    capacity: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 128
    """How many function processes it holds at once."""
    memory_budget_mib: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """What all sandboxes in flight may take together; 0: no such limit; left out: see
    `default_budget_mib`. Set it below the pod's memory limit, less what the processes take."""
    drain_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """How long requests in flight may take after SIGTERM."""

    def __post_init__(self) -> None:
        """Refuse what would only fail later."""
        if self.function_ports:
            port_range(self.function_ports)


def default_budget_mib(limit_file: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return three quarters of what this machine has, or this control group may take, in MiB.

    The rest is for the processes themselves and for others.
    """
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # "max", or there is no such file
        memory_bytes = min(memory_bytes, int(limit_file.read_text()))
    return max(1, memory_bytes * 3 // 4 // MIB)


def port_range(text: str) -> range:
    """Return the ports that `FIRST-LAST` names.

    Raises:
        ValueError: it is no such range.
    """
    first, dash, last = text.partition("-")
    if not (dash and first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) < 65536):
        raise ValueError(f"function_ports is FIRST-LAST, such as 20000-20999, not {text!r}")
    return range(int(first), int(last) + 1)


def read(flags: Mapping[str, str], environ: Mapping[str, str]) -> KeeperSettings:
    """Return the settings; `flags` are by field name.

    Raises:
        SettingsError: names the setting.
    """
    over = {PREFIX + name.upper(): value for name, value in flags.items()}
    return read_settings(KeeperSettings, PREFIX, {**environ, **over})


def verifier(path: str) -> Verify:
    """Return the check of signatures by the key in the file at `path`.

    Raises:
        SettingsError: no such file, or no Ed25519 public key in it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the public key {path}: {error}") from error
    try:
        key = _public_key(data)
    except ValueError as error:
        raise SettingsError(f"{path} holds no Ed25519 public key: {error}") from error

    def verify(signature: bytes, text: bytes) -> bool:
        try:
            key.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    return verify


def _public_key(data: bytes) -> Ed25519PublicKey:
    if len(data) == 32:
        return Ed25519PublicKey.from_public_bytes(data)
    if not data.startswith(b"-----"):
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(data.decode("ascii").strip()))
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415 -- costs start-up time, and PEM is one of three forms

    key = load_pem_public_key(data)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("it is a key of another kind")  # noqa: TRY004 -- a wrong file, not a wrong type
    return key
