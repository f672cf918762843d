"""What a podwatch can be told: `WASMFN_PODWATCH_<NAME>` or a TOML file."""

from typing import Annotated, Literal

from msgspec import Meta

from services.process import ServiceSettings

Given = Annotated[str, Meta(min_length=1)]


class PodwatchSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one podwatch, beside those that every service has."""

    state_dir: Given
    """Where it remembers how far it has read each log. Losing it may repeat lines."""
    node: Given = "local"
    """The node whose pods it tells of. Two podwatches never share one."""
    source: Literal["processes", "containerd", "kubernetes"] = "processes"
    """Who is asked for pods: the runtime of local processes, the container runtime of the node, or
    the API server, which is slower, where the socket of the former may not be used."""
    pods_dir: str = ""
    """For the source `processes`, which needs it: the directory of the pod runtime."""
    containerd_sockets: tuple[Given, ...] = (
        "/run/k3s/containerd/containerd.sock",
        "/run/containerd/containerd.sock",
    )
    """For the source `containerd`: the first of them that is there is used."""
    kubeconfig: str = ""
    """For the source `kubernetes`: a file that tells how to reach the API server.
    Without one, what every pod is given is used."""
    kubernetes_namespace: Given = "wasmfn-functions"
    """For the source `kubernetes`: where the keepers are."""

    def __post_init__(self) -> None:
        """Refuse a source without what it needs."""
        if self.source == "processes" and not self.pods_dir:
            raise ValueError("the source `processes` needs `pods_dir`")
