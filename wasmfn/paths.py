"""Where the local platform keeps its files. One place, so that no other glues paths.

Everything lives below one data directory that only its user can enter: to
move or forget a platform is to move or remove that directory. Outside of it
there is only a pointer to the platform that was started last, so that the
commands find it.
"""

import os
from pathlib import Path

import msgspec
import platformdirs


class Layout(msgspec.Struct, frozen=True):
    """The files and directories below one data directory."""

    data: Path

    @property
    def nats(self) -> Path:
        """JetStream's store: everything that was accepted."""
        return self.data / "nats"

    @property
    def keys(self) -> Path:
        """The two key pairs (`wasmfn.keys`) and the token of the local NATS."""
        return self.data / "keys"

    @property
    def token(self) -> Path:
        """The token that the local NATS asks for."""
        return self.keys / "nats.token"

    @property
    def secrets(self) -> Path:
        """Secrets of functions: `<namespace>/<name>/<key>`."""
        return self.data / "secrets"

    @property
    def pods(self) -> Path:
        """One directory for each keeper, with its `pod.json` and `log`."""
        return self.data / "pods"

    @property
    def podwatch(self) -> Path:
        """How far podwatch has read each log."""
        return self.data / "podwatch"

    @property
    def cache(self) -> Path:
        """Artifacts by digest; safe to remove."""
        return self.data / "cache"

    @property
    def oci(self) -> Path:
        """The OCI layouts that the builder writes."""
        return self.data / "oci"

    @property
    def work(self) -> Path:
        """The builder's temporary files."""
        return self.data / "work"

    @property
    def logs(self) -> Path:
        """`<service>.log`, and the one before it as `<service>.log.1`."""
        return self.data / "logs"

    @property
    def run(self) -> Path:
        """What is true only while the platform runs."""
        return self.data / "run"

    @property
    def lock(self) -> Path:
        """Held with flock by the running `up`; its content is that process's pid."""
        return self.run / "lock"

    @property
    def platform(self) -> Path:
        """How to reach the running platform (`wasmfn.discovery.PlatformFile`)."""
        return self.run / "platform.json"

    @property
    def processes(self) -> Path:
        """Which processes the running `up` has started (`wasmfn.orphans`)."""
        return self.run / "processes.json"

    def create(self) -> None:
        """Make every directory, for this user only. OSError if that cannot be."""
        for path in (
            self.data, self.nats, self.keys, self.secrets, self.pods, self.podwatch, self.cache,
            self.oci, self.work, self.logs, self.run,
        ):  # fmt: skip
            path.mkdir(mode=0o700, parents=True, exist_ok=True)


def default_data_dir() -> Path:
    """Return the data directory that is used when none is named."""
    return platformdirs.user_data_path("wasmfn")


def pointer() -> Path:
    """Return the file that names the data directory of the platform started last.

    It is in the user's state directory and not in a runtime directory: where
    no session manager makes one, that would be a guessable name in /tmp.
    """
    return platformdirs.user_state_path("wasmfn") / "current.json"


def write_private(path: Path, content: bytes) -> None:
    """Replace `path` by a file that only this user can read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)
