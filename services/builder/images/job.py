"""The Kubernetes Job that makes one image, and what its state says. Pure.

Whatever a builder that comes back must know stands in the Job: its name follows
from the build's id, and where it pushes and how it is given its module are read
from it. So settings that changed meanwhile do not mix with a Job from before.

The Job's pod has an init container that fetches the module and writes it beside
a Dockerfile into a directory of the pod; then the executor builds and pushes.
It leaves the digest in the file that Kubernetes reads as the container's last
message. When it fails that message is the end of its log, so reading why takes
no right to read logs.
"""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import Any, Final

import msgspec

from services.builder.errors import Rejected
from services.builder.images.settings import ImageSettings
from services.builder.reference import Reference, parse

Manifest = dict[str, Any]
Object = Mapping[str, Any]
"""An object of Kubernetes' API as its JSON."""

WORKSPACE: Final = "/workspace"
DOCKERFILE: Final = "Dockerfile"
CONTEXT: Final = "context"
"""Directory beside the Dockerfile that holds the module alone, whatever it is called."""
FETCH: Final = "fetch"
EXECUTOR: Final = "executor"
DESTINATION: Final = "wasmfn/destination"
BUILD: Final = "wasmfn/build"
TOKEN: Final = "WASMFN_CONTEXT_TOKEN"  # noqa: S105 - the name of a variable
MAX_QUOTE: Final = 600
"""Characters of a log that are quoted: its end, where the reason stands."""
_NAME_DIGITS: Final = 40
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_USER: Final = 65532
# Reasons for a container to wait that pass by themselves.
_STARTING: Final = frozenset({"", "PodInitializing", "ContainerCreating"})


class Work(msgspec.Struct, frozen=True):
    """What a Job is to make an image of."""

    build: str
    file_name: str
    module: str
    """SHA-256 of the module."""
    size: int
    """Bytes of the module."""


class Running(msgspec.Struct, frozen=True):
    """It has not ended. `held_up` is what stands in its way, or empty."""

    held_up: str = ""


class Pushed(msgspec.Struct, frozen=True):
    """The image is in the registry."""

    digest: str


class Broken(msgspec.Struct, frozen=True):
    """It ended without an image."""

    reason: str


State = Running | Pushed | Broken


def name(build: str) -> str:
    """Return the name of the Job of the build with id `build`, and of its directory."""
    return f"build-{build[:_NAME_DIGITS]}"


def dockerfile(file_name: str) -> str:
    """Return the Dockerfile of every image."""
    return f'FROM scratch\nCOPY {file_name} /\nENTRYPOINT ["/{file_name}"]\n'


def destination(template: str, work: Work) -> Reference:
    """Return where the image of `work` is pushed: `template` filled in.

    Raises:
        ValueError: the template is none; see `ImageSettings.kaniko_destination`.
    """
    stem = re.sub(r"[^a-z0-9]+", "-", work.file_name.lower().removesuffix(".wasm")).strip("-")
    fields = {"name": stem or "module", "module": work.module, "build": work.build}
    known = set(_FIELD.findall(template))
    if not known <= fields.keys() or not known & {"module", "build"}:
        raise ValueError(
            f"the destination `{template}` of images must hold {{module}} or {{build}}, "
            "may hold {name}, and no other field"
        )
    try:
        reference = parse(_FIELD.sub(lambda field: fields[field[1]], template))
    except Rejected as error:
        raise ValueError(f"the destination of images is none: {error}") from error
    if reference.target.startswith("sha256:"):
        raise ValueError(f"the destination `{template}` of images names a digest, not a tag")
    return reference


def check(settings: ImageSettings) -> None:
    """Raise ValueError, saying what is missing, if no Job can be made by these settings."""
    destination(settings.kaniko_destination, Work("0" * 64, "x.wasm", "0" * 64, 0))
    if not settings.kaniko_host_path and not (
        settings.kaniko_context_url and settings.kaniko_fetch_image
    ):
        raise ValueError(
            "the image builder kaniko needs kaniko_context_url and kaniko_fetch_image, "
            "or kaniko_host_path"
        )


def manifest(
    work: Work,
    settings: ImageSettings,
    token: str,
    *,
    platform: str,
    insecure: Iterable[str] = (),
) -> Manifest:
    """Return the Job that makes the image of `work`.

    `token` lets it fetch the module; `insecure` are patterns of registries
    that speak plain HTTP.
    """
    target = destination(settings.kaniko_destination, work)
    labels = {
        "app.kubernetes.io/name": "build",
        "app.kubernetes.io/component": "image",
        "app.kubernetes.io/managed-by": "wasmfn-builder",
    }
    annotations = {
        BUILD: work.build,
        DESTINATION: str(target),
        "wasmfn/module": work.module,
        "wasmfn/file-name": work.file_name,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name(work.build),
            "namespace": settings.kaniko_namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            # Whether and when to try again is for the builder to say.
            "backoffLimit": 0,
            "activeDeadlineSeconds": settings.kaniko_deadline_s,
            "ttlSecondsAfterFinished": settings.kaniko_keep_s,
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": _pod(work, settings, token, target, platform, insecure),
            },
        },
    }


def _pod(
    work: Work,
    settings: ImageSettings,
    token: str,
    target: Reference,
    platform: str,
    insecure: Iterable[str],
) -> Manifest:
    pod: Manifest = {
        "restartPolicy": "Never",
        "serviceAccountName": settings.kaniko_service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "imagePullSecrets": [{"name": secret} for secret in settings.kaniko_pull_secrets],
        "containers": [_executor(settings, target, platform, insecure)],
        "volumes": [_workspace(work, settings)],
    }
    if not settings.kaniko_host_path:
        pod["initContainers"] = [_fetch(work, settings, token)]
    if settings.kaniko_node:
        pod["nodeSelector"] = {"kubernetes.io/hostname": settings.kaniko_node}
    if settings.kaniko_push_secret:
        items = [{"key": ".dockerconfigjson", "path": "config.json"}]
        secret = {"secretName": settings.kaniko_push_secret, "items": items}
        pod["volumes"].append({"name": "registry", "secret": secret})
    return pod


def _workspace(work: Work, settings: ImageSettings) -> Manifest:
    if settings.kaniko_host_path:
        place = f"{settings.kaniko_host_path.rstrip('/')}/{name(work.build)}"
        return {"name": "workspace", "hostPath": {"path": place, "type": "Directory"}}
    return {"name": "workspace", "emptyDir": {"sizeLimit": f"{(work.size >> 20) + 2}Mi"}}


def _fetch(work: Work, settings: ImageSettings, token: str) -> Manifest:
    values = {
        "WASMFN_CONTEXT_URL": f"{settings.kaniko_context_url.rstrip('/')}/{name(work.build)}",
        TOKEN: token,
        "WASMFN_CONTEXT_SHA256": work.module,
        "WASMFN_CONTEXT_FILE": f"{WORKSPACE}/{CONTEXT}/{work.file_name}",
        "WASMFN_DOCKERFILE": dockerfile(work.file_name),
        "WASMFN_DOCKERFILE_FILE": f"{WORKSPACE}/{DOCKERFILE}",
    }
    return {
        "name": FETCH,
        "image": settings.kaniko_fetch_image,
        "args": ["services.builder.images.fetch"],
        "env": [{"name": name, "value": value} for name, value in values.items()],
        "resources": {
            "requests": {"cpu": "10m", "memory": "32Mi"},
            "limits": {"cpu": "1", "memory": "128Mi"},
        },
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "workspace", "mountPath": WORKSPACE}],
    }


def _executor(
    settings: ImageSettings, target: Reference, platform: str, insecure: Iterable[str]
) -> Manifest:
    arguments = [
        f"--context=dir://{WORKSPACE}/{CONTEXT}",
        f"--dockerfile={WORKSPACE}/{DOCKERFILE}",
        f"--destination={target}",
        "--digest-file=/dev/termination-log",
        f"--custom-platform={platform}",
        "--reproducible",
        "--log-format=text",
    ]
    if any(fnmatch(target.registry, pattern) for pattern in insecure):
        arguments.append(f"--insecure-registry={target.registry}")
    mounts = [{"name": "workspace", "mountPath": WORKSPACE, "readOnly": True}]
    if settings.kaniko_push_secret:
        mounts.append({"name": "registry", "mountPath": "/kaniko/.docker", "readOnly": True})
    return {
        "name": EXECUTOR,
        "image": settings.kaniko_executor,
        "args": [*arguments, *settings.kaniko_arguments],
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": settings.kaniko_cpu, "memory": settings.kaniko_memory},
        },
        # It writes the image's files into its own root before it packs them.
        "securityContext": {
            "runAsUser": 0,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": list(settings.kaniko_capabilities)},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def pushed_to(job: Object) -> Reference:
    """Return where `job` pushes. Raises Rejected if it does not say."""
    return parse((job["metadata"].get("annotations") or {}).get(DESTINATION, ""))


def token_of(job: Object) -> str:
    """Return what `job` fetches its module with; empty if it is given it otherwise."""
    for container in job["spec"]["template"]["spec"].get("initContainers") or ():
        for variable in container.get("env") or ():
            if variable["name"] == TOKEN:
                return str(variable.get("value", ""))
    return ""


def state(job: Object, pods: Iterable[Object]) -> State:
    """Return how far `job` is, by itself and by those of `pods` that are its own."""
    own = [pod for pod in pods if _owned(pod, job)]
    for pod in own:
        if digest := _digest(pod):
            return Pushed(digest)
    conditions = {c["type"]: c for c in job.get("status", {}).get("conditions") or ()}
    ended = conditions.get("Failed", {})
    if ended.get("status") == "True" and ended.get("reason") == "DeadlineExceeded":
        limit_s = job["spec"].get("activeDeadlineSeconds")
        return Broken(f"it did not end within {limit_s} s")
    for pod in own:
        # One that is being deleted ends because of that; why is for the Job to say.
        if "deletionTimestamp" not in pod["metadata"] and (reason := _failure(pod)):
            return Broken(reason)
    if ended.get("status") == "True":
        return Broken(ended.get("message") or ended.get("reason") or "it failed without a reason")
    if conditions.get("Complete", {}).get("status") == "True":
        return Broken("its pod is gone, and with it the image's digest")
    return Running(next(filter(None, map(_held_up, own)), ""))


def _owned(pod: Object, job: Object) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(owner["uid"] == job["metadata"]["uid"] for owner in owners)


def _containers(pod: Object) -> Iterable[tuple[str, Object]]:
    """Yield name and state of each container, in the order in which they run."""
    status = pod.get("status", {})
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or ():
            yield container["name"], container.get("state") or {}


def _digest(pod: Object) -> str:
    for container, at in _containers(pod):
        ended = at.get("terminated")
        if container == EXECUTOR and ended is not None and ended.get("exitCode") == 0:
            said = (ended.get("message") or "").strip()
            return said if _DIGEST.fullmatch(said) else ""
    return ""


def _failure(pod: Object) -> str:
    for container, at in _containers(pod):
        ended = at.get("terminated")
        if ended is None:
            continue
        code, reason = ended.get("exitCode"), ended.get("reason", "")
        if code != 0:
            why = f" ({reason})" if reason not in ("", "Error") else ""
            return f"its {container} ended with status {code}{why}: {quote(ended.get('message'))}"
        if container == EXECUTOR:
            return f"its executor told no digest: {quote(ended.get('message'))}"
    status = pod.get("status", {})
    if status.get("phase") == "Failed":
        return status.get("message") or status.get("reason") or "its pod failed without a reason"
    return ""


def _held_up(pod: Object) -> str:
    for container, at in _containers(pod):
        waiting = at.get("waiting") or {}
        if waiting.get("reason", "") not in _STARTING:
            return f"its {container} waits, {waiting['reason']}: {quote(waiting.get('message'))}"
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"no node takes its pod: {quote(condition.get('message'))}"
    return ""


def quote(log: str | None) -> str:
    """Return the end of `log` as one line."""
    lines = " / ".join(line.strip() for line in (log or "").splitlines() if line.strip())
    if len(lines) > MAX_QUOTE:
        return "…" + lines[-MAX_QUOTE:]
    return lines or "it said nothing"
