import pytest

from services.bus.errors import BusRefused
from wasmfn.access import translated
from wasmfn.errors import RejectedError


def test_a_disk_that_was_full_is_an_error_that_says_to_start_nats_again() -> None:
    reason = "write /data/OBJ_uploads/msgs/1.blk: no space left on device"
    with pytest.raises(RejectedError, match="start NATS again"), translated():
        raise BusRefused("writing", reason)
