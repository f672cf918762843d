"""What a keeper pod is: the manifest that the API server is given.

Pure. Code of strangers runs in it, so it may do nothing and reach nothing: no
token, no rights, a root file system that cannot be written, and of the
platform's keys the public ones. It meets the `restricted` Pod Security Standard.

It has no probes. Podwatch asks it the moment it starts, which no kubelet's
period can match, and the scheduler holds a watch open that tells within seconds
when it hangs.
"""

import hashlib
import math
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from schemas.pods import CONTROL_PORT, KEEPER_CONTAINER, LABEL_DEDICATED

Manifest = dict[str, Any]
"""An object as the API server takes it."""

USER: Final = 65532
"""Nobody's id in the images."""
TEMPLATE: Final = "wasmfn/template"
"""An annotation: two pods with the same one were made alike."""
MOUNTED_KEYS: Final = "/etc/wasmfn/keys"
MOUNTED_CACHE: Final = "/cache"

_ZYGOTE_MIB: Final = 96
_PROCESS_MIB: Final = 3
"""What a function's process takes besides its sandboxes."""
_END_S: Final = 5
"""To end the processes that would not drain, and itself."""

Mib = Annotated[int, Meta(ge=1)]
Cpu = Annotated[str, Meta(pattern=r"^([0-9]+m|[0-9]+(\.[0-9]{1,3})?)\Z")]


class Toleration(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A taint of nodes that keepers put up with. Fields as in Kubernetes."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class KeeperPod(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of keeper pods, beside their image and capacity."""

    cpu_request: Cpu = "100m"
    cpu_limit: Cpu = "2"
    memory_request_mib: Mib = 256
    memory_limit_mib: Mib = 1024
    cache_mib: Mib = 1024
    """Artifacts on the node's disk. A keeper that takes more is ended by its node."""
    function_ports: Annotated[str, Meta(pattern=r"^[0-9]{1,5}-[0-9]{1,5}\Z")] = "20000-20999"
    """FIRST-LAST of the ports that functions listen on; as many as the capacity at least."""
    drain_s: Annotated[float, Meta(ge=0, le=30)] = 25.0
    """How long requests in flight may take when the pod is told to end."""
    keys: str = "wasmfn-keys"
    """The ConfigMap with `control.pub` and `artifact.pub`."""
    service_account: str = "keeper"
    """Whose token is not mounted."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    priority_class: str = ""
    runtime_class: str = ""
    """Such as gVisor's, where one sandbox around functions is not enough."""
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    lost_node_s: Annotated[int, Meta(ge=0)] = 30
    """How long a node may be out of reach before its keepers are given up."""

    def __post_init__(self) -> None:
        """Refuse what no keeper would start with."""
        first, last = self._ports()
        if not 0 < first <= last < 65536 or first <= CONTROL_PORT <= last:
            raise ValueError(
                f"function_ports is FIRST-LAST without {CONTROL_PORT}, not {self.function_ports}"
            )
        if self.memory_request_mib > self.memory_limit_mib:
            raise ValueError("memory_request_mib is more than memory_limit_mib")

    def check(self, capacity: int) -> None:
        """Raise ValueError if no keeper of this capacity can be made so."""
        first, last = self._ports()
        if last - first + 1 < capacity:
            raise ValueError(f"{self.function_ports} is fewer ports than a keeper's {capacity}")
        if self.memory_budget_mib(capacity) < 1:
            raise ValueError(
                f"memory_limit_mib leaves nothing for the sandboxes of {capacity} processes;"
                f" give it more than {_ZYGOTE_MIB + capacity * _PROCESS_MIB}"
            )

    def memory_budget_mib(self, capacity: int) -> int:
        """Return what is left for sandboxes, so that a busy keeper is not killed whole."""
        return self.memory_limit_mib - _ZYGOTE_MIB - capacity * _PROCESS_MIB

    def _ports(self) -> tuple[int, int]:
        first, _, last = self.function_ports.partition("-")
        return int(first), int(last)


def keeper_pod(
    name: str,
    image: str,
    labels: dict[str, str],
    capacity: int,
    settings: KeeperPod,
    owner: str = "",
) -> Manifest:
    """Return the manifest of one keeper.

    Args:
        name: of the pod, never used before.
        image: of the keeper.
        labels: whose keeper it is, as in `schemas.pods`.
        capacity: how many function processes it holds at once.
        settings: the rest.
        owner: uid of the service account, if that is known. Tools that drain nodes refuse pods
            without a controller, since nobody would make them anew. The scheduler does, but has
            no object in this namespace to stand for it. Whoever deletes the account ends its
            keepers.
    """
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/name": "keeper",
                "app.kubernetes.io/part-of": "wasmfn",
                "app.kubernetes.io/managed-by": "wasmfn-scheduler",
                **labels,
            },
            "annotations": {
                # The scheduler makes another one: nodes may be removed.
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
                TEMPLATE: template(image, capacity, settings),
            },
        },
        "spec": {
            "containers": [_container(image, capacity, settings)],
            "volumes": [
                {"name": "keys", "configMap": {"name": settings.keys, "defaultMode": 0o444}},
                {"name": "cache", "emptyDir": {"sizeLimit": f"{settings.cache_mib}Mi"}},
            ],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": math.ceil(settings.drain_s) + _END_S,
            "serviceAccountName": settings.service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "topologySpreadConstraints": [_spread(labels)],
            "tolerations": _tolerations(settings),
            **_given(settings),
        },
    }
    if owner:
        manifest["metadata"]["ownerReferences"] = [
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "name": settings.service_account,
                "uid": owner,
                "controller": True,
            }
        ]
    return manifest


def template(image: str, capacity: int, settings: KeeperPod) -> str:
    """Return what tells keepers apart that were made from other images or with other settings."""
    made_from = msgspec.json.encode((image, capacity, settings), order="sorted")
    return hashlib.sha256(made_from).hexdigest()[:16]


def _container(image: str, capacity: int, settings: KeeperPod) -> Manifest:
    # The pod's uid as the keeper's id: podwatch and signed calls both go by it.
    environment: list[Manifest] = [
        {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
        for name, path in (
            ("WASMFN_KEEPER_KEEPER_ID", "metadata.uid"),
            ("WASMFN_KEEPER_HOST", "status.podIP"),
        )
    ]
    environment += [
        {"name": f"WASMFN_KEEPER_{name}", "value": value}
        for name, value in (
            ("CONTROL", f"0.0.0.0:{CONTROL_PORT}"),
            ("CONTROL_KEY", f"{MOUNTED_KEYS}/control.pub"),
            ("ARTIFACT_KEY", f"{MOUNTED_KEYS}/artifact.pub"),
            ("CACHE_DIR", MOUNTED_CACHE),
            ("FUNCTION_PORTS", settings.function_ports),
            ("CAPACITY", str(capacity)),
            ("MEMORY_BUDGET_MIB", str(settings.memory_budget_mib(capacity))),
            ("DRAIN_S", f"{settings.drain_s:g}"),
        )
    ]
    return {
        "name": KEEPER_CONTAINER,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": environment,
        "ports": [{"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {
                "cpu": settings.cpu_request,
                "memory": f"{settings.memory_request_mib}Mi",
            },
            "limits": {"cpu": settings.cpu_limit, "memory": f"{settings.memory_limit_mib}Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "keys", "mountPath": MOUNTED_KEYS, "readOnly": True},
            {"name": "cache", "mountPath": MOUNTED_CACHE},
        ],
    }


def _spread(labels: dict[str, str]) -> Manifest:
    """Return the wish that keepers that can hold the same functions are on several nodes."""
    selector: Manifest = {"matchLabels": dict(labels)}
    if LABEL_DEDICATED not in labels:
        selector["matchExpressions"] = [{"key": LABEL_DEDICATED, "operator": "DoesNotExist"}]
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": selector,
    }


def _tolerations(settings: KeeperPod) -> list[Manifest]:
    # Kubernetes' own default is five minutes, for pods that take long to be elsewhere.
    return [msgspec.to_builtins(toleration) for toleration in settings.tolerations] + [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": settings.lost_node_s,
        }
        for state in ("not-ready", "unreachable")
    ]


def _given(settings: KeeperPod) -> Manifest:
    """Return the fields that are there only if they were asked for."""
    fields = {
        "priorityClassName": settings.priority_class,
        "runtimeClassName": settings.runtime_class,
        "nodeSelector": settings.node_selector,
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
    }
    return {name: value for name, value in fields.items() if value}
