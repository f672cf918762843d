"""What a podwatch can be told: `WASMFN_PODWATCH_<NAME>` or a TOML file."""

from typing import Annotated, Literal

from msgspec import Meta

from services.process import ServiceSettings

Given = Annotated[str, Meta(min_length=1)]


class PodwatchSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one podwatch, beside those that every service has."""

    state_dir: Given
    """Where it remembers how far it has read each log. Losing it may repeat lines."""
    pods_dir: Given
    """For the source `processes`: the directory of the pod runtime."""
    node: Given = "local"
    """The node whose pods it tells of. Two podwatches never share one."""
    source: Literal["processes"] = "processes"
