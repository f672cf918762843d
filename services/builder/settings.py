"""What a builder can be told: `WASMFN_BUILDER_<NAME>` or a TOML file."""

from typing import Annotated

from msgspec import Meta

from schemas.builds import MAX_MODULE_MIB
from services.builder.compile import CompileLimits
from services.builder.images.settings import ImageSettings

Given = Annotated[str, Meta(min_length=1)]
Mib = Annotated[int, Meta(ge=1, le=4096)]


class BuilderSettings(ImageSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the builder, beside those of its images and those that every service has."""

    signing_key_file: Given
    """Ed25519 private key (PEM, hexadecimal or raw) that only this user can read."""
    image_dir: Given
    """Where the image builder `local` writes OCI layouts, one directory for each build."""
    work_dir: Given
    """For temporary files, this builder's alone."""
    image_platform: Annotated[str, Meta(pattern=r"^[a-z0-9]+/[a-z0-9]+\Z")] = "linux/amd64"
    """Operating system and architecture that images say they are for: the nodes' own."""

    parallel: Annotated[int, Meta(ge=1, le=64)] = 2
    """How many builds run at once."""
    compile: CompileLimits = CompileLimits()
    """What one compilation may use."""
    max_module_mib: Mib = MAX_MODULE_MIB
    max_memory_mib: Mib = 4096
    """Memory that a module may ask for at its start. What it gets is its function's limit."""
    give_up_s: Annotated[float, Meta(ge=0)] = 600.0
    """How long to try again while something outside does not answer."""

    cancel_after_s: Annotated[float, Meta(ge=0)] = 2.0
    """A build that no spec has wanted for so long is ended."""
    collect_every_s: Annotated[float, Meta(gt=0)] = 3600.0
    """How often to remove what no kept revision of any spec names."""
    collect_after_s: Annotated[float, Meta(ge=0)] = 24 * 3600.0
    """How old it must be: a client may have stored or found it before it publishes a spec."""

    max_image_mib: Mib = 128
    """Layers of one image, packed and unpacked."""
    pull_timeout_s: Annotated[float, Meta(gt=0)] = 120.0
    allowed_registries: tuple[str, ...] = ("*",)
    """Registries (patterns of host or host:port) that modules may come from in images."""
    insecure_registries: tuple[str, ...] = ("localhost:*", "127.0.0.1:*")
    """Registries that speak plain HTTP, also those that are pushed to; by default, as for Docker,
    those on this machine."""
    registry_credentials_file: str = ""
    """In the form of Docker's `config.json`; see `registry.credentials_file` for the default."""
