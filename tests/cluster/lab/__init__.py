"""A real containerd and a real Kubernetes on one Debian 12 machine, for the tests that need them.

Everything runs in namespaces of its own (network, mounts, processes, cgroups, host name), so the
lab sees the paths and addresses of an ordinary node, reaches nothing outside, and is gone the
moment its first process is. What takes long to make is kept in a cache directory.

Tests take what they need from here; the fixtures `containerd` and `cluster` have it running.
"""

from tests.cluster.lab.containerd import SOCKET as CONTAINERD_SOCKET
from tests.cluster.lab.containerd import SOCKET_FROM_OUTSIDE as CONTAINERD_SOCKET_FROM_OUTSIDE
from tests.cluster.lab.containerd import restart as restart_containerd
from tests.cluster.lab.images import build as build_image
from tests.cluster.lab.images import push as push_image
from tests.cluster.lab.kubernetes import ADMIN as KUBECONFIG
from tests.cluster.lab.kubernetes import kubectl, make_namespace, restart_apiserver
from tests.cluster.lab.node import ADDRESS as NODE_ADDRESS
from tests.cluster.lab.node import http, inside, network, run
from tests.cluster.lab.registry import NAME as REGISTRY

__all__ = [
    "CONTAINERD_SOCKET",
    "CONTAINERD_SOCKET_FROM_OUTSIDE",
    "KUBECONFIG",
    "NODE_ADDRESS",
    "REGISTRY",
    "build_image",
    "http",
    "inside",
    "kubectl",
    "make_namespace",
    "network",
    "push_image",
    "restart_apiserver",
    "restart_containerd",
    "run",
]
