"""Who leads the schedulers: one message for each lease, written by whoever holds it."""

import msgspec


class Lease(msgspec.Struct, frozen=True):
    """Who leads, and in which term. Renewed by replacing it with itself."""

    holder: str
    term: int
