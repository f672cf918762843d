"""containerd 1.7 with the CRI, a bridge for the pods, and crun with WasmEdge for wasm images."""

import json
import os
from pathlib import Path

from tests.cluster.lab import node, paths, process, registry
from tests.cluster.lab.commands import CommandError, wait_until

PROGRAMS = paths.TOOLS / "containerd/usr/bin"
CRUN = paths.TOOLS / "crun/crun"
PAUSE_IMAGE = "lab.test/pause:1"
BUSYBOX_IMAGE = "lab.test/busybox:1"

SOCKET = Path("/run/containerd/containerd.sock")
"""As the node's own programs see it."""
SOCKET_FROM_OUTSIDE = paths.STATE / "root" / SOCKET.relative_to("/")

_CONFIG = """
version = 2
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{registries}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.wasm]
      runtime_type = "io.containerd.runc.v2"
      pod_annotations = ["module.wasm.image/*", "run.oci.handler"]
      container_annotations = ["module.wasm.image/*", "run.oci.handler"]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.wasm.options]
        BinaryName = "{crun}"
"""


def up() -> None:
    cni = paths.CONFIG / "cni"
    cni.mkdir(parents=True)
    (cni / "10-lab.conflist").write_text(json.dumps(_bridge(), indent=2))
    (paths.CONFIG / "containerd.toml").write_text(
        _CONFIG.format(
            socket=SOCKET,
            pause=PAUSE_IMAGE,
            cni=cni,
            registries=registry.write_hosts(),
            crun=CRUN,
        )
    )
    start()
    for image in ("pause", "busybox"):
        ctr("images", "import", paths.IMAGES / f"{image}.tar")


def start() -> None:
    """Start it and wait until it answers."""
    # It finds its shim beside itself.
    env = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
    config = paths.CONFIG / "containerd.toml"
    node.start("containerd", PROGRAMS / "containerd", "--config", config, env=env)
    wait_until("containerd answers", _answers, within_s=20)


def kill() -> None:
    """End it as a crash would; its containers go on running."""
    if daemon := process.load("containerd"):
        daemon.kill()


def restart() -> None:
    """Stop it in order and start it again; its containers go on running."""
    if daemon := process.load("containerd"):
        daemon.stop()
    start()


def ctr(*words: str | Path) -> str:
    """Run containerd's own client in the namespace of the CRI."""
    return node.run(PROGRAMS / "ctr", "--namespace", "k8s.io", *words)


def _answers() -> bool:
    try:
        # A plugin that failed to load would make the rest of the lab fail in odd ways.
        return "cri" in ctr("plugins", "list", "id==cri")
    except CommandError:
        return False


def _bridge() -> dict[str, object]:
    return {
        "cniVersion": "0.4.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": node.PODS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
