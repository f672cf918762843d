"""What supervisor and child say to each other, one message a packet.

The channel is a SOCK_SEQPACKET pair made before the fork: packets keep their
borders and a dead end is noticed. Log lines go through it as well, because a
child may write to no file: the supervisor owns the log. A packet that begins with
`{` is a message, any other a log line after its first byte.
"""

from typing import Final, Literal

import msgspec

from keeper.control import ControlCall
from schemas.control import InstanceState

LINE: Final = b"L"
"""First byte of a packet that holds a log line."""
MAX_PACKET: Final = 64 * 1024


class Identified(msgspec.Struct, frozen=True, tag="identified"):
    """The child has read what it is to be. `state` of the instance is `loading`."""

    instance: InstanceState


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """The child serves."""


class Unload(msgspec.Struct, frozen=True, tag="unload"):
    """The supervisor passes an unload call on; `number` tells answers apart."""

    number: int
    mode: Literal["drain", "if_idle"]
    idle_s: float
    deadline_s: float


class Agreed(msgspec.Struct, frozen=True, tag="agreed"):
    """The child's answer to `Unload`: from now on it answers 421, or it is busy."""

    number: int
    draining: bool
    idle_s: float


class Ending(msgspec.Struct, frozen=True, tag="ending"):
    """Last words: why the child ends."""

    reason: str


class Handover(msgspec.Struct, frozen=True):
    """A load call for a spare child.

    The packet carries two descriptors: the call's connection, its head already
    read, and the function's listener.
    """

    call: ControlCall
    since: float
    """When the supervisor began with it, on the monotonic clock."""


FromChild = Identified | Serving | Agreed | Ending

decode_from_child = msgspec.json.Decoder(FromChild).decode
decode_from_supervisor = msgspec.json.Decoder(Unload).decode
decode_handover = msgspec.json.Decoder(Handover).decode
encode = msgspec.json.Encoder().encode
