"""Running programs to their end, and waiting for what they cause."""

import fcntl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class CommandError(Exception):
    """A program ended with an error; the text is what it said."""

    def __init__(self, command: Sequence[str], status: int, said: str) -> None:
        super().__init__(f"{' '.join(command)}: exit status {status}\n{said[-4000:]}")
        self.status = status
        self.said = said


class UnfitError(Exception):
    """The lab cannot be had on this machine; the text says why, in one sentence."""


def run(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
) -> str:
    """Run a program and return its standard output.

    Raises:
        CommandError: It ended with a status other than 0.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, env=env, cwd=cwd, input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        raise CommandError(
            words, done.returncode, (done.stdout + done.stderr).decode(errors="replace")
        )
    return done.stdout.decode(errors="replace")


def wait_until(what: str, true: Callable[[], bool], within_s: float, every_s: float = 0.02) -> None:
    """Ask again and again until it is true.

    Raises:
        TimeoutError: It was not true within `within_s`.
    """
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(every_s)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process at a time do what takes long; the kernel frees it if the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
