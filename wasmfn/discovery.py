"""Find the platform that a command talks to, so that nobody types an address twice.

The order: what the command line or the environment names, then the data
directory that is named, then the platform that this user started last. A
running `up` writes `run/platform.json` into its data directory and points to
that directory from the user's state directory.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from services.pids import is_running
from wasmfn import paths


class NoPlatformError(Exception):
    """No platform was found. The message says what to do."""


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a platform."""

    nats_url: str
    token: str | None = None
    """The token that its NATS asks for, if any. Never print it."""
    http_url: str | None = None
    """Base URL of the router, without a final slash, if known."""
    data_dir: Path | None = None
    """Its data directory, if it is a local one that runs."""
    admin_urls: dict[str, str] = {}
    """Base URL of each service's admin port, by the service's name."""


class PlatformFile(msgspec.Struct, frozen=True, kw_only=True):
    """`run/platform.json`, written by a running `up`."""

    http: str
    nats: str
    token_file: str | None
    pid: int
    start_ticks: int
    admin: dict[str, str]


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """`current.json` in the user's state directory."""

    data_dir: str


def find_platform(
    nats: str | None = None,
    data: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Platform:
    """Return the platform to talk to.

    Args:
        nats: a URL that the user named (`--nats`); by default `WASMFN_NATS`.
        data: a data directory that the user named; by default `WASMFN_DATA`.
        environ: where the variables are read, also `WASMFN_NATS_TOKEN_FILE` and
            `WASMFN_HTTP`, which go with a named URL.

    Raises:
        NoPlatformError: nothing runs there, or a file cannot be read.
    """
    url = nats or (None if data else environ.get("WASMFN_NATS"))
    if url:
        token_file = environ.get("WASMFN_NATS_TOKEN_FILE")
        return Platform(
            nats_url=url,
            token=read_token(Path(token_file)) if token_file else None,
            http_url=environ.get("WASMFN_HTTP"),
        )
    named = data or (Path(environ["WASMFN_DATA"]) if environ.get("WASMFN_DATA") else None)
    if named:
        platform = read_platform(named)
        if platform is None:
            raise NoPlatformError(
                f"no platform runs on the data directory {named}; "
                f"start one with `wasmfn up --data {named}`"
            )
        return platform
    pointed = _pointed_to()
    platform = (read_platform(pointed) if pointed else None) or read_platform(
        paths.default_data_dir()
    )
    if platform is None:
        raise NoPlatformError(
            "no platform is running here; start one with `wasmfn up`, "
            "or name one with --nats or WASMFN_NATS"
        )
    return platform


def read_platform(data: Path) -> Platform | None:
    """Return the platform that runs on `data`, or None if none does.

    Raises:
        NoPlatformError: one runs, but its files cannot be read.
    """
    layout = paths.Layout(data)
    try:
        file = msgspec.json.decode(layout.platform.read_bytes(), type=PlatformFile)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    except OSError as error:
        raise NoPlatformError(f"cannot read {layout.platform}: {error.strerror}") from error
    if not is_running(file.pid, file.start_ticks):
        return None
    return Platform(
        nats_url=file.nats,
        token=read_token(Path(file.token_file)) if file.token_file else None,
        http_url=file.http,
        data_dir=data,
        admin_urls=file.admin,
    )


def read_token(path: Path) -> str:
    """Return the token in `path`.

    Raises:
        NoPlatformError: the file cannot be read.
    """
    try:
        return path.read_text("ascii").strip()
    except UnicodeDecodeError:
        raise NoPlatformError(f"{path} holds no token: it is not ASCII text") from None
    except OSError as error:
        raise NoPlatformError(
            f"cannot read the NATS token in {path}: {error.strerror}; "
            "name the right file in WASMFN_NATS_TOKEN_FILE"
        ) from error


def _pointed_to() -> Path | None:
    try:
        pointer = msgspec.json.decode(paths.pointer().read_bytes(), type=Pointer)
    except (OSError, msgspec.DecodeError):
        return None
    return Path(pointer.data_dir)
