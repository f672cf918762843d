"""An image registry on the node's loopback address; what is pushed to it stays in the cache."""

from pathlib import Path

import httpx

from tests.cluster.lab import node, paths
from tests.cluster.lab.commands import wait_until

NAME = "127.0.0.1:5000"

_CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: "{data}"}}, delete: {{enabled: true}}}}
http: {{addr: "{name}"}}
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
    config.write_text(_CONFIG.format(data=paths.REGISTRY, name=NAME))
    node.start("registry", "docker-registry", "serve", config)
    wait_until("the registry answers", _answers, within_s=10)


def write_hosts() -> Path:
    """Tell containerd to speak plain HTTP to the registry; return the directory that says so."""
    directory = paths.CONFIG / "registries"
    (directory / NAME).mkdir(parents=True)
    (directory / NAME / "hosts.toml").write_text(_HOSTS.format(name=NAME))
    return directory


def _answers() -> bool:
    try:
        return node.http("GET", f"http://{NAME}/v2/", timeout=2).is_success
    except httpx.HTTPError:
        return False
