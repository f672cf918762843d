"""What builds as Jobs on a real cluster take: registries, the executor, and the builder's rights.

The executor is the lab's stand-in (tests/cluster/executor), not kaniko: it takes the same arguments
and really builds and pushes. The builder has the rights of its Role and no others.
"""

import asyncio
import base64
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from schemas.names import sha256_hex
from services.builder.registry import Policy
from tests.cluster import lab
from tests.cluster.executor import build as images
from tests.cluster.lab import node, paths, process
from tests.cluster.lab.commands import wait_until

SORT = (Path(__file__).parents[2] / "examples/sort/sort.wasm").read_bytes()
PORT = 5001
REGISTRY = f"{lab.NODE_ADDRESS}:{PORT}"
"""The lab's registry is on the node's loopback address; this is the same for pods."""
POLICY = Policy(max_bytes=1 << 26, insecure=(REGISTRY,))

# What the builder may do in the namespace of builds; manifests/ must grant as much.
RULES = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
]

_REGISTRY = """
version: 0.1
storage: {{filesystem: {{rootdirectory: "{data}"}}}}
http: {{addr: "{address}"}}
log: {{level: warn}}
{auth}
"""
PRIVATE = f"{lab.NODE_ADDRESS}:5002"
LOGIN = "somebody:opensesame"
_PASSWORDS = "somebody:$2b$04$CL4RCdaDAgYUMeD.QDVSjOOTNvBBC.YNJv1rFsPUt5lXuoYgQO7Ry\n"


@pytest.fixture(scope="module", autouse=True)
def on_node(cluster: None) -> Iterator[None]:
    """Run the tests, and all that they start, on the node's network."""
    with lab.network():
        yield


@pytest.fixture(scope="module")
def registry(on_node: None) -> str:
    serve(REGISTRY)
    return REGISTRY


@pytest.fixture(scope="module")
def private_registry(on_node: None) -> str:
    """One that knows who may push and pull."""
    passwords = paths.CONFIG / "passwords"
    passwords.write_text(_PASSWORDS)
    serve(PRIVATE, f'auth: {{htpasswd: {{realm: lab, path: "{passwords}"}}}}')
    return PRIVATE


def serve(address: str, auth: str = "") -> None:
    name = f"registry-{address.rpartition(':')[2]}"
    if process.load(name) is None:
        config = paths.CONFIG / f"{name}.yaml"
        config.write_text(_REGISTRY.format(data=paths.REGISTRY, address=address, auth=auth))
        node.start(name, "docker-registry", "serve", config)
    wait_until("the registry answers", lambda: _answers(address), within_s=10)


def _answers(address: str) -> bool:
    try:
        return lab.http("GET", f"http://{address}/v2/", timeout=2).status_code in (200, 401)
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def executor(cluster: None) -> str:
    return images.executor()


@pytest.fixture(scope="module")
def fetcher(cluster: None) -> str:
    return images.fetch()


@pytest.fixture
def namespace(cluster: None) -> Iterator[str]:
    name = f"builds-{uuid.uuid4().hex[:8]}"
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    group = "rbac.authorization.k8s.io"
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        {**account, "metadata": {"name": "builder", "namespace": name}},
        {**account, "metadata": {"name": "build", "namespace": name}},
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": {"name": "builder", "namespace": name},
            "rules": RULES,
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "builder", "namespace": name},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "builder"},
            "subjects": [{"kind": "ServiceAccount", "name": "builder", "namespace": name}],
        },
    ]
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(listed).encode())
    yield name
    lab.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kubeconfig(namespace: str, tmp_path: Path) -> str:
    """As what the builder is in the cluster."""
    asked = ["-n", namespace, "get", "serviceaccount", "builder", "-o", "json"]

    def secret() -> str:
        known = json.loads(lab.kubectl(*asked)).get("secrets") or [{"name": ""}]
        return str(known[0]["name"])

    wait_until("the account has a token", lambda: bool(secret()), within_s=20)
    held = json.loads(lab.kubectl("-n", namespace, "get", "secret", secret(), "-o", "json"))
    config = yaml.safe_load(lab.KUBECONFIG.read_text())
    token = base64.b64decode(held["data"]["token"]).decode()
    config["users"][0]["user"] = {"token": token}
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return str(file)


@pytest.fixture
def settings(
    namespace: str, kubeconfig: str, registry: str, executor: str, fetcher: str
) -> dict[str, object]:
    return {
        "image_builder": "kaniko",
        "kaniko_destination": f"{registry}/functions/{{name}}:{{build}}",
        "kaniko_executor": executor,
        "kaniko_fetch_image": fetcher,
        "kaniko_namespace": namespace,
        "kaniko_kubeconfig": kubeconfig,
        # What buildah needs beyond kaniko.
        "kaniko_capabilities": (
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "SETGID",
            "SETUID",
            "SYS_CHROOT",
        ),
    }


def new_build() -> str:
    return sha256_hex(uuid.uuid4().bytes)


def jobs(namespace: str) -> list[dict[str, object]]:
    return list(json.loads(lab.kubectl("-n", namespace, "get", "jobs", "-o", "json"))["items"])


def made(namespace: str) -> int:
    """Return how many pods have been made for Jobs."""
    asked = ["get", "events", "--field-selector", "reason=SuccessfulCreate", "-o", "json"]
    return len(json.loads(lab.kubectl("-n", namespace, *asked))["items"])


async def holds(true: Callable[[], bool]) -> None:
    """Return as soon as it is true."""
    await asyncio.to_thread(wait_until, "what is waited for", true, within_s=30, every_s=0.1)


async def some_job(namespace: str) -> None:
    """Return as soon as there is a Job."""
    await holds(lambda: jobs(namespace) != [])
