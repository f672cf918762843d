"""What one invocation may use at most."""

from typing import Final

import msgspec

from keeper.slot import KEPT_BYTES
from schemas.specs import MIB


class Sandbox(msgspec.Struct, frozen=True):
    """What one invocation may use at most."""

    memory_bytes: int
    output_bytes: int
    timeout_s: float
    stderr_bytes: int = 64 * 1024

    @property
    def file_bytes(self) -> int:
        """The largest size of an output file that its calls need."""
        return max(self.output_bytes + 1, self.stderr_bytes) + KEPT_BYTES


IDLE_SANDBOX: Final = Sandbox(memory_bytes=MIB, output_bytes=KEPT_BYTES, timeout_s=10.0)
"""For modules of ours."""
