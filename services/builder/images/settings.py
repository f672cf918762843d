"""How images are made: what a builder can be told about its one seam."""

from typing import Annotated, Literal

from msgspec import Meta

from services.process import ServiceSettings

KubernetesName = Annotated[str, Meta(pattern=r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?\Z")]
Capability = Annotated[str, Meta(pattern=r"^[A-Z_]+\Z")]


class ImageSettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of the image builders, beside those that every service has."""

    image_builder: Literal["local", "kaniko"] = "local"
    """`local` writes OCI layouts into `image_dir`; `kaniko` runs a Kubernetes Job a build."""

    kaniko_destination: str = ""
    """Where images are pushed: a reference with `{name}` (the file's, without `.wasm`), `{module}`
    (the module's SHA-256) and `{build}` (the build's id), such as
    `registry.example/functions/{name}:{module}`. One of the last two must be in it."""
    kaniko_executor: Annotated[str, Meta(min_length=1)] = "ghcr.io/osscontainertools/kaniko:v1.28.0"
    """Image that takes kaniko's arguments: see docs/images.md."""
    kaniko_namespace: KubernetesName = "wasmfn-builds"
    kaniko_service_account: KubernetesName = "build"
    """What the Jobs' pods run as. It needs no rights and gets no token."""
    kaniko_kubeconfig: str = ""
    """How to reach the API server. Empty: as a pod does."""

    kaniko_context_url: str = ""
    """How pods reach `kaniko_context_listen`, such as `http://builder.wasmfn:9091`."""
    kaniko_context_listen: str = "0.0.0.0:9091"
    """Where builds fetch their modules, each with a token of its own."""
    kaniko_fetch_image: str = ""
    """Image with `services.builder.images.fetch` in it: that of the services."""
    kaniko_host_path: Annotated[str, Meta(pattern=r"^(/.*)?\Z")] = ""
    """Hand modules over in this directory of the node instead, as upstream does in
    `/var/lib/kaniko/workplace`. It must be mounted here under the same path."""
    kaniko_node: str = ""
    """Name of the node whose directory that is: builds run there. Needed if there are several."""

    kaniko_push_secret: str = ""
    """Secret of type dockerconfigjson in `kaniko_namespace` with the registry's credentials."""
    kaniko_pull_secrets: tuple[KubernetesName, ...] = ()
    """Secrets there to pull the executor's and the fetching image with."""
    kaniko_arguments: tuple[str, ...] = ("--push-retry=3",)
    """More arguments for the executor."""
    kaniko_capabilities: tuple[Capability, ...] = (
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID",
    )  # fmt: skip
    """What the executor's root may do. Everything else is dropped."""
    kaniko_cpu: str = "1"
    """The most that the executor gets, as Kubernetes writes it."""
    kaniko_memory: str = "1Gi"
    """The same."""

    kaniko_deadline_s: Annotated[int, Meta(ge=1)] = 600
    """How long one Job may take, with the time its pod waits for a node and for its images."""
    kaniko_keep_s: Annotated[int, Meta(ge=0)] = 3600
    """How long a Job that ended is kept, for people to look at, unless the builder removes it."""
