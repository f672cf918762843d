"""What the scheduler can be told, in `WASMFN_SCHEDULER_…` variables or a TOML file."""

from typing import Annotated, Literal

from msgspec import Meta

from schemas.names import Name
from services.process import ServiceSettings


class SchedulerSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of the scheduler. Keys and secrets are files, never values."""

    control_key_file: str
    """Ed25519 private key that calls to keepers are signed with: PEM, hexadecimal or raw."""
    control_public_key_file: str
    """The public half, which keepers are started with."""
    artifact_public_key_file: str
    """The builder's public key, which keepers are started with."""
    secrets_dir: str
    """Secrets of functions: `<namespace>/<name>/<key>`."""
    cache_dir: str
    """Artifacts by digest; on one machine shared with the keepers."""
    runtime: Literal["processes"] = "processes"
    """Where keepers run."""
    pods_dir: str
    """Runtime `processes`: one directory for each keeper."""
    keeper_ip: str = "127.0.0.1"
    """Runtime `processes`: the address that keepers and functions listen at."""
    keeper_capacity: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """Function processes that one keeper holds."""
    max_keepers: Annotated[int, Meta(ge=1, le=10_000)] = 16
    """Keepers of one namespace, or of one function that is isolated by pod."""
    warm_namespaces: frozenset[Name] = frozenset({"default"})
    """These have a keeper ready before they have a function."""
    keeper_linger_s: Annotated[float, Meta(ge=0)] = 60.0
    """How long an empty keeper stays that is not the spare one."""
