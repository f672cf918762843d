"""What can go wrong with a build, seen from the one who asked for it.

`Rejected` is about the input: the same input fails the same way, so the build
fails with the sentence. `Unavailable` is about the world: the build waits and
is tried again. Both messages are shown to people and never hold a secret. They
do hold names out of hostile files and answers of hostile servers, so whatever
a terminal or a log would not show as a plain character is replaced.
"""

from typing import Final

MAX_MESSAGE: Final = 1000


def plain(text: str) -> str:
    """Return `text` as one line of printable characters, cut after `MAX_MESSAGE`."""
    line = "".join(c if c.isprintable() else "�" for c in text[:MAX_MESSAGE])
    return line + "…" if len(text) > MAX_MESSAGE else line


class Rejected(Exception):  # noqa: N818 - it is a verdict on the input, not an error of ours
    """The input cannot become a function. The message says why and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class Unavailable(Exception):  # noqa: N818 - the same
    """Something outside did not answer. Trying again later may succeed."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))
