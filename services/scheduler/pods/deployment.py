"""What a Deployment of a function is: the manifest that the API server is given.

Pure. There is one for each revision, and in between two of them for a moment:
routers leave the old revision only when the new one serves, and nothing of the
old one is removed before. A Deployment that rolls its pods itself goes by its
own idea of ready, and ends pods that still have requests.

An image of strangers runs in it, so it may do nothing and reach nothing, as in a
keeper's pod; it meets the `restricted` Pod Security Standard. It has no probes:
podwatch connects to it the moment it starts.
"""

import hashlib
from typing import Any, Final

import msgspec

from schemas.active import ActiveFunction
from schemas.pods import (
    FUNCTION_CONTAINER,
    LABEL_FUNCTION,
    LABEL_NAMESPACE,
    LABEL_PORT,
    LABEL_REVISION,
    LABEL_ROLE,
    ROLE_FUNCTION,
)
from schemas.specs import Container
from services.scheduler.pods.manifest import KeeperPod, Manifest
from services.scheduler.pods.native import Revision

GRACE_S: Final = 30
"""How long a pod may go on that somebody else has told to end, as when its node is drained."""
_ROLL_S: Final = 5
"""Between two pods that are replaced because the settings have changed."""
_REQUEST_CPU_M: Final = 100
_TMP_MIB: Final = 64


def revision_of(labels: dict[str, str]) -> Revision:
    """Return whose native or Deployment it is. Raises ValueError if the labels do not say."""
    try:
        of = labels[LABEL_NAMESPACE], labels[LABEL_FUNCTION], int(labels[LABEL_REVISION])
    except KeyError as error:
        raise ValueError(f"there is no label {error}") from None
    return of


def name_of(revision: Revision) -> str:
    """Return the name of the Deployment of a revision: the same whoever asks."""
    namespace, function, number = revision
    # Names may hold dashes, so two pairs of them could be put together to one.
    digest = hashlib.sha256(f"{namespace}/{function}".encode()).hexdigest()[:8]
    return f"{function[:30].rstrip('-')}-{digest}-{number}"


def deployment(function: ActiveFunction, replicas: int, settings: KeeperPod) -> Manifest:
    """Return the manifest of a revision's Deployment with so many pods.

    Of the settings of keeper pods those hold here that are not about keepers: pull secrets,
    priority, tolerations. Where the pods may run is the RuntimeClass's to say.
    """
    revision = (function.namespace, function.name, function.revision)
    selector = {
        LABEL_ROLE: ROLE_FUNCTION,
        LABEL_NAMESPACE: function.namespace,
        LABEL_FUNCTION: function.name,
        LABEL_REVISION: str(function.revision),
    }
    labels = {
        "app.kubernetes.io/name": "function",
        "app.kubernetes.io/part-of": "wasmfn",
        "app.kubernetes.io/managed-by": "wasmfn-scheduler",
        **selector,
    }
    options = function.spec.container or Container()
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name_of(revision), "labels": labels},
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            # The pods of a revision are all alike, unless an operator has changed the settings.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "minReadySeconds": _ROLL_S,
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {
                    "labels": {**labels, LABEL_PORT: str(options.port)},
                    **_annotations(options),
                },
                "spec": _pod(function, options, selector, settings),
            },
        },
    }


def _annotations(options: Container) -> Manifest:
    """Return what crun looks at: a wasm image is run as one, any other as always."""
    if options.runtime_class is None:
        return {}
    return {"annotations": {"module.wasm.image/variant": "compat-smart"}}


def _pod(
    function: ActiveFunction, options: Container, selector: dict[str, str], settings: KeeperPod
) -> Manifest:
    given: Manifest = {
        "runtimeClassName": options.runtime_class,
        "priorityClassName": settings.priority_class,
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
    }
    return {
        "containers": [_container(function, options)],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": f"{_TMP_MIB}Mi"}}],
        "terminationGracePeriodSeconds": GRACE_S,
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": options.user,
            "runAsGroup": options.user,
            "fsGroup": options.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector},
            }
        ],
        "tolerations": [msgspec.to_builtins(toleration) for toleration in settings.tolerations],
        **{name: value for name, value in given.items() if value},
    }


def _container(function: ActiveFunction, options: Container) -> Manifest:
    spec = function.spec
    millicores = round(options.cpu * 1000)
    memory = f"{spec.limits.memory_mib}Mi"
    given: Manifest = {
        "command": [_literal(word) for word in options.command],
        "args": [_literal(word) for word in spec.arguments],
        "imagePullPolicy": options.pull,
    }
    return {
        "name": FUNCTION_CONTAINER,
        "image": spec.image,
        "env": _environment(function, options),
        "ports": [{"name": "http", "containerPort": options.port, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": f"{min(_REQUEST_CPU_M, millicores)}m", "memory": memory},
            "limits": {"cpu": f"{millicores}m", "memory": memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the pod's own
        **{name: value for name, value in given.items() if value},
    }


def _environment(function: ActiveFunction, options: Container) -> list[dict[str, Any]]:
    """Return its variables and secrets."""
    variables = {"PORT": str(options.port), **function.spec.variables}
    return [
        {"name": name, "value": _literal(value)}
        for name, value in variables.items()
        if name not in function.spec.secrets
    ] + [
        {
            "name": name,
            # A dot is in no name, so a namespace has no secret of another one's.
            "valueFrom": {
                "secretKeyRef": {"name": f"{function.namespace}.{secret.name}", "key": secret.key}
            },
        }
        for name, secret in function.spec.secrets.items()
    ]


def _literal(text: str) -> str:
    """Return what Kubernetes makes `text` of again: to it, `$(NAME)` is a reference."""
    return text.replace("$", "$$")
