"""What keepers of a real Kubernetes need beside them, and the scheduler's rights to make them."""

import base64
import json
from pathlib import Path

from tests.cluster import lab
from tests.cluster.lab import supplies

NAMESPACE = "wasmfn-functions"
MANIFESTS = Path(__file__).parents[2] / "manifests/base"


def image() -> str:
    """Build the keeper's image, and return the name that it can be pulled by."""
    supplies.make()
    return next(name for name in supplies.push_project() if "/keeper:" in name)


def put_keys(name: str, control: str, artifact: str) -> None:
    """Make the ConfigMap with the public keys, as the installation does."""
    keys = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {"control.pub": control, "artifact.pub": artifact},
    }
    lab.kubectl("apply", "-f", MANIFESTS / "namespaces.yaml")
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(keys).encode())


def write_kubeconfig(file: Path) -> str:
    """Write how the scheduler's own account reaches the API server; return the file's name."""
    for manifest in ("namespaces.yaml", "scheduler/account.yaml", "scheduler/rbac.yaml"):
        lab.kubectl("apply", "-f", MANIFESTS / manifest)
    config = json.loads(lab.kubectl("config", "view", "--raw", "-o", "json"))
    for user in config["users"]:
        user["user"] = {"token": _token("wasmfn", "scheduler")}
    file.write_text(json.dumps(config))
    return str(file)


def _token(namespace: str, account: str) -> str:
    secrets = json.loads(lab.kubectl("get", "secrets", "-n", namespace, "-o", "json"))
    for secret in secrets["items"]:
        annotations = secret["metadata"].get("annotations", {})
        if annotations.get("kubernetes.io/service-account.name") == account:
            return base64.b64decode(secret["data"]["token"]).decode()
    raise LookupError(f"the account {account} has no token")


def remove_all() -> None:
    """Tell every pod that holds functions to end."""
    lab.kubectl("delete", "pods", "--all", "-n", NAMESPACE, "--grace-period=1", "--wait=false")
