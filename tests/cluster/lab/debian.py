"""Debian's packages: installed, unpacked from a newer suite, or as source.

No host is named here: other suites are read from the mirror that the machine's own
`debian.sources` names, with its keys, into package lists of the lab's own.
"""

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.lab import paths
from tests.cluster.lab.commands import CommandError, UnfitError, run

MACHINE_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
_QUIET = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}


def install(packages: Sequence[str]) -> None:
    """Install what is missing of `packages` from the machine's own suite.

    Raises:
        UnfitError: They cannot be fetched.
    """
    missing = [package for package in packages if not _installed(package)]
    if missing:
        # The machine may know other mirrors, whose failure is no matter: what comes next tells.
        with contextlib.suppress(CommandError):
            run("apt-get", "update", "-qq", env=_QUIET)
        wanted = ["install", "-y", "-qq", "--no-install-recommends", *missing]
        _fetch(*wanted, "--download-only")
        run("apt-get", *wanted, env=_QUIET)


def _installed(package: str) -> bool:
    asked = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return answer.stdout == "installed"


def _fetch(*words: str, cwd: Path | None = None) -> None:
    try:
        run("apt-get", *words, env=_QUIET, cwd=cwd)
    except CommandError as error:
        said = error.said.strip().splitlines() or ["apt-get does not say why"]
        why = next((line for line in said if "Failed to fetch" in line), said[-1])
        raise UnfitError(f"Debian's packages cannot be fetched: {why}") from error


class Suite:
    """The package lists of a suite that this machine does not install from.

    Raises:
        UnfitError: The mirror cannot be reached, at first or later.
    """

    def __init__(self, name: str, types: str = "deb") -> None:
        self.name = name
        directory = paths.DOWNLOADS / f"{name}-{types}"
        (directory / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        sources = directory / "list.sources"
        sources.write_text(_main_stanza(MACHINE_SOURCES.read_text(), name, types))
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "-",
            "Dir::State::Lists": directory / "lists",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "APT::Sandbox::User": "root",
        }
        self._options = [f"-o{key}={value}" for key, value in settings.items()]
        _fetch(*self._options, "update", "-qq", "--error-on=any")

    def unpack(self, packages: Sequence[str], into: Path) -> None:
        """Fetch packages and unpack them below `into`, installing nothing."""
        debs = into.with_name(into.name + ".debs")
        for directory in (debs, into):
            directory.mkdir(parents=True, exist_ok=True)
        _fetch(*self._options, "download", "-qq", *packages, cwd=debs)
        for deb in debs.glob("*.deb"):
            run("dpkg", "-x", deb, into)
            deb.unlink()
        debs.rmdir()

    def source(self, package: str, into: Path) -> Path:
        """Fetch a source package into the directory `into` and return its .dsc file."""
        into.mkdir(parents=True, exist_ok=True)
        _fetch(*self._options, "source", "-qq", "--download-only", package, cwd=into)
        return next(into.glob(f"{package}_*.dsc"))


def _main_stanza(sources: str, suite: str, types: str) -> str:
    """Return the first stanza of a deb822 file, for another suite and other types."""
    stanza = sources.strip().split("\n\n")[0]
    stanza = re.sub(r"(?m)^Suites:.*$", f"Suites: {suite}", stanza)
    return re.sub(r"(?m)^Types:.*$", f"Types: {types}", stanza) + "\n"
