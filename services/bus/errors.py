"""What can go wrong on the bus, named from the caller's side."""

# ruff: noqa: N818 - `except Conflict` says what happened; a suffix would add nothing


class BusError(Exception):
    """Any failure of the bus. The message is one sentence, without secrets."""


class BusUnavailable(BusError):
    """NATS did not answer in time. Whether a publish was stored is then unknown."""

    def __init__(self, doing: str, waited_s: float, reason: str = "") -> None:
        self.doing = doing
        self.waited_s = waited_s
        self.reason = reason
        why = f" ({reason})" if reason else ""
        super().__init__(f"NATS did not answer within {waited_s:g} s while {doing}{why}")


class BusRefused(BusError):
    """NATS answered no, and asking again will not help."""

    def __init__(self, doing: str, reason: str) -> None:
        self.doing = doing
        self.reason = reason
        super().__init__(f"NATS refused {doing}: {reason}")


class Conflict(BusError):
    """Somebody else has published on the subject since `expected` was read."""

    def __init__(self, subject: str, expected: int) -> None:
        self.subject = subject
        self.expected = expected
        super().__init__(
            f"{subject} has changed since sequence {expected}; read it again, then decide again"
        )


class Fenced(BusError):
    """A later term than ours writes this stream: nothing of ours is stored any more."""

    def __init__(self, subject: str, term: int, later: int = 0) -> None:
        self.subject = subject
        self.term = term
        self.later = later
        """The later term, or 0 if only NATS has seen it yet."""
        super().__init__(f"{subject} is not stored for term {term}, which is over")


class StreamConflict(BusError):
    """A stream of this name exists and cannot be made what the platform needs."""

    def __init__(self, stream: str, reason: str) -> None:
        self.stream = stream
        self.reason = reason
        super().__init__(
            f"the stream {stream} on this NATS server is not ours to use: {reason}; "
            "remove or rename it, or use another server"
        )
