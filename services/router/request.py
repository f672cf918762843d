"""What every answer needs to know of its request."""

import msgspec


class Request(msgspec.Struct):
    """A request whose head is read, as far as every answer needs it."""

    method: str
    version: str
    """"1.0" or "1.1"."""
    keep_alive: bool
    """The connection may serve another request."""
