"""What the scheduler can be told, in `WASMFN_SCHEDULER_…` variables or a TOML file."""

from typing import Annotated, Literal

from msgspec import Meta

from schemas.names import Name, Subject
from services.bus.applications import Applications, StreamName
from services.process import ServiceSettings
from services.scheduler.pods.manifest import KeeperPod


class SchedulerSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of the scheduler. Keys and secrets are files, never values."""

    control_key_file: str
    """Ed25519 private key that calls to keepers are signed with: PEM, hexadecimal or raw."""
    secrets_dir: str
    """Secrets of functions: `<namespace>/<name>/<key>`."""
    cache_dir: str
    """Artifacts by digest; on one machine shared with the keepers."""
    runtime: Literal["processes", "kubernetes"] = "processes"
    """Where keepers run."""
    pods_dir: str = ""
    """Runtime `processes`, which needs it: one directory for each keeper."""
    control_public_key_file: str = ""
    """Runtime `processes`, which needs it: what keepers check control calls with."""
    artifact_public_key_file: str = ""
    """Runtime `processes`, which needs it: what keepers check the builder's artifacts with."""
    keeper_ip: str = "127.0.0.1"
    """Runtime `processes`: the address that keepers and functions listen at."""
    keeper_image: str = ""
    """Runtime `kubernetes`, which needs it: the image of keepers."""
    keeper_pod: KeeperPod = KeeperPod()
    """Runtime `kubernetes`: everything else of their pods, as JSON or a table."""
    kubernetes_namespace: str = "wasmfn-functions"
    """Runtime `kubernetes`: where the keepers of all our namespaces are."""
    kubeconfig: str = ""
    """Runtime `kubernetes`: a file that tells how to reach the API server. Without one, what every
    pod is given is used."""
    keeper_capacity: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """Function processes that one keeper holds."""
    max_keepers: Annotated[int, Meta(ge=1, le=10_000)] = 16
    """Keepers of one namespace, or of one function that is isolated by pod."""
    warm_namespaces: frozenset[Name] = frozenset({"default"})
    """These have a keeper ready before they have a function."""
    keeper_linger_s: Annotated[float, Meta(ge=0)] = 60.0
    """How long an empty keeper stays that is not the spare one."""
    application_subjects: tuple[Subject, ...] = ()
    """The subjects that subscriptions and destinations may name, such as `["app.>"]`: those that
    the NATS user `router` is permitted. Empty: all that are not the platform's own."""
    application_streams: dict[StreamName, tuple[Subject, ...]] = {}  # noqa: RUF012 - msgspec copies it
    """Streams of applications, by name, with the subjects that they keep: made by the scheduler."""

    @property
    def applications(self) -> Applications:
        """What of the bus belongs to applications."""
        return Applications(self.application_subjects, self.application_streams)

    def __post_init__(self) -> None:
        """Refuse a runtime without what it needs, and streams that are not the applications'."""
        self.applications  # noqa: B018 - made, it is checked
        needed = {
            "processes": ("pods_dir", "control_public_key_file", "artifact_public_key_file"),
            "kubernetes": ("keeper_image",),
        }
        for name in needed[self.runtime]:
            if not getattr(self, name):
                raise ValueError(f"the runtime `{self.runtime}` needs `{name}`")
        if self.runtime == "kubernetes":
            self.keeper_pod.check(self.keeper_capacity)
