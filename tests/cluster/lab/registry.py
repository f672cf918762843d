"""An image registry on the node; what is pushed to it stays in the cache."""

from pathlib import Path

import httpx

from tests.cluster.lab import node, paths
from tests.cluster.lab.commands import wait_until

PORT = 5000
NAME = f"127.0.0.1:{PORT}"
NAME_IN_PODS = f"{node.ADDRESS}:{PORT}"
"""The same registry: a pod's loopback address is its own."""

_CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: "{data}"}}, delete: {{enabled: true}}}}
http: {{addr: ":{port}"}}
log: {{level: warn}}
"""

_HOSTS = """
server = "http://{name}"
[host."http://{name}"]
  capabilities = ["pull", "resolve"]
"""


def up() -> None:
    paths.CONFIG.mkdir(parents=True, exist_ok=True)
    config = paths.CONFIG / "registry.yaml"
    config.write_text(_CONFIG.format(data=paths.REGISTRY, port=PORT))
    node.start("registry", "docker-registry", "serve", config)
    wait_until("the registry answers", _answers, within_s=10)


def write_hosts() -> Path:
    """Tell containerd to speak plain HTTP to the registry; return the directory that says so."""
    directory = paths.CONFIG / "registries"
    for name in (NAME, NAME_IN_PODS):
        (directory / name).mkdir(parents=True)
        (directory / name / "hosts.toml").write_text(_HOSTS.format(name=name))
    return directory


def _answers() -> bool:
    try:
        return node.http("GET", f"http://{NAME}/v2/", timeout=2).is_success
    except httpx.HTTPError:
        return False
