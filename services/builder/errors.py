"""What can go wrong with a build, seen from the one who asked for it.

`Rejected` is about the input: the same input fails the same way, so the build
fails with the sentence. `Unavailable` is about the world: the build waits and
is tried again. Both messages are shown to people and never hold a secret.
"""


class Rejected(Exception):  # noqa: N818 - it is a verdict on the input, not an error of ours
    """The input cannot become a function. The message says why and what to do."""


class Unavailable(Exception):  # noqa: N818 - the same
    """Something outside did not answer. Trying again later may succeed."""
