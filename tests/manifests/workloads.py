"""Build overlays, and find one's way in them: workloads, their pods, their containers."""

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).parents[2] / "manifests"

Object = dict[str, Any]

KINDS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
LASTING = ("Deployment", "StatefulSet", "DaemonSet")


VARIANTS = ("k3s+kaniko", "k3s+podwatch-kubernetes")
"""An overlay with a component, as docs/k3s.md shows it."""


def overlays() -> list[str]:
    return [*sorted(path.name for path in (MANIFESTS / "overlays").iterdir()), *VARIANTS]


def build(overlay: str) -> list[Object]:
    return list(yaml.load_all(_text(overlay), yaml.CSafeLoader))


@functools.cache
def _text(overlay: str) -> str:
    kubectl = Path(sys.executable).parent / "kubectl"
    base, _, component = overlay.partition("+")
    with tempfile.TemporaryDirectory() as scratch:
        directory = MANIFESTS / "overlays" / base
        if component:
            # kustomize reads relative paths only.
            manifests = os.path.relpath(MANIFESTS, Path(scratch).resolve())
            (Path(scratch) / "kustomization.yaml").write_text(
                f"resources: [{manifests}/overlays/{base}]\n"
                f"components: [{manifests}/components/{component}]\n"
            )
            directory = Path(scratch)
        command = [kubectl, "kustomize", directory]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def workloads(objects: list[Object], kinds: tuple[str, ...] = KINDS) -> list[Object]:
    return [o for o in objects if o["kind"] in kinds]


def pod(workload: Object) -> Object:
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: Object) -> Iterator[Object]:
    yield from pod(workload)["containers"]
    yield from pod(workload).get("initContainers", [])


def find(objects: list[Object], kind: str, name: str, namespace: str = "wasmfn") -> Object:
    for o in objects:
        if (o["kind"], o["metadata"]["name"]) == (kind, name) and o["metadata"].get(
            "namespace", namespace
        ) == namespace:
            return o
    raise LookupError(f"there is no {kind} {namespace}/{name}")


def named(objects: list[Object]) -> list[str]:
    return [f"{o['kind']}/{o['metadata']['name']}" for o in objects]
