"""The lab's two tiers: containerd with a registry, and Kubernetes on top of them."""

from contextlib import AbstractContextManager

from tests.cluster.lab import (
    containerd,
    images,
    install,
    kubernetes,
    kubernetes_build,
    node,
    paths,
    process,
    registry,
    supplies,
)
from tests.cluster.lab.commands import lock

_CLUSTER = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "names",
)


def prepare_containerd() -> None:
    """Make what tier 1 takes, as far as it is missing: a minute on a new machine."""
    install.install()
    images.make_small()


def prepare_cluster() -> None:
    """Make what both tiers take, as far as it is missing: ten minutes on a new machine."""
    prepare_containerd()
    supplies.make()
    kubernetes_build.build()


def containerd_up() -> None:
    """Start tier 1 afresh."""
    with _alone():
        _containerd_up()


def cluster_up() -> None:
    """Start both tiers afresh."""
    with _alone():
        _containerd_up()
        kubernetes.up()


def ensure_containerd() -> None:
    """Start tier 1 unless it runs."""
    with _alone():
        if not _run("containerd", "registry"):
            _containerd_up()


def ensure_cluster() -> None:
    """Start what does not run of both tiers."""
    with _alone():
        if _run("containerd", "registry", *_CLUSTER):
            return
        # Kubernetes is started whole: what is left of a broken one is of no use.
        if not _run("containerd", "registry") or any(_run(daemon) for daemon in _CLUSTER):
            _containerd_up()
        kubernetes.up()


def down() -> None:
    """End everything and remove its state."""
    with _alone():
        node.down()


def _containerd_up() -> None:
    node.up()
    registry.up()
    containerd.up()


def _run(*daemons: str) -> bool:
    return all(process.load(daemon) is not None for daemon in daemons)


def _alone() -> AbstractContextManager[None]:
    return lock(paths.LAB / "lock")
