"""The platform on the cluster tests' Kubernetes, installed there by `wasmfn install`.

Whatever speaks to it does so on the lab's node, as somebody who has logged in there.
"""

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from services.bus.connection import Bus, BusSettings, connect
from services.bus.permissions import APPLICATION, PEOPLE, inbox_prefix
from tests.cluster import lab
from tests.cluster.executor import build
from tests.cluster.lab import containerd, supplies
from tests.scenarios.platforms.protocol import KEPT, STREAM
from wasmfn.client import Client

WASMFN = Path(sys.executable).parent / "wasmfn"
SYSTEM = "wasmfn"
FUNCTIONS = "wasmfn-functions"
NODE_PORT = 32046
READY_S = 300.0


class ClusterPlatform:
    """The overlay `lab`, with images of this checkout."""

    def __init__(self, directory: Path) -> None:
        self.http = f"http://{lab.NODE_ADDRESS}:{NODE_PORT}"
        self._directory = directory
        self._environ = {
            "PATH": f"{WASMFN.parent}:{os.environ['PATH']}",
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "KUBECONFIG": str(lab.KUBECONFIG),
            "WASMFN_NATS": "kubernetes:",
            "WASMFN_HTTP": self.http,
        }

    def start(self) -> None:
        supplies.push_project()
        build.executor()
        self._done(
            self.cli(
                "install",
                "--overlay",
                "lab",
                "--stream",
                f"{STREAM}={KEPT}",
                "--timeout",
                f"{READY_S:g}",
            )
        )

    def close(self) -> None:
        self._done(self.cli("uninstall", "--overlay", "lab", "--yes"))
        kinds = "namespaces,clusterroles,clusterrolebindings,priorityclasses,persistentvolumes"
        left = lab.kubectl("get", kinds, "-o", "name").split()
        assert not [name for name in left if "wasmfn" in name]

    def reachable(self) -> contextlib.AbstractContextManager[None]:
        return lab.network()

    @contextlib.asynccontextmanager
    async def nats(self) -> AsyncIterator[Client]:
        async with connect(_as(PEOPLE), "scenario") as bus:
            yield Client(bus)

    @contextlib.asynccontextmanager
    async def insight(self) -> AsyncIterator[Client]:
        async with connect(_as("scheduler"), "scenario") as bus:
            yield Client(bus)

    @contextlib.asynccontextmanager
    async def application(self) -> AsyncIterator[Bus]:
        async with connect(_as(APPLICATION), "scenario") as bus:
            yield bus

    def cli(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        with self.reachable():
            return subprocess.run(
                [WASMFN, *arguments],
                env=self._environ,
                cwd=self._directory,
                input=stdin,
                capture_output=True,
                timeout=READY_S + 60,
                check=False,
            )

    def keepers(self) -> list[str]:
        return [pod["metadata"]["uid"] for pod in _keepers() if pod["status"]["phase"] == "Running"]

    def kill(self, uid: str) -> None:
        container = _keeper(uid)["status"]["containerStatuses"][0]["containerID"]
        name = container.removeprefix("containerd://")
        containerd.ctr("tasks", "kill", "--all", "--signal", "SIGKILL", name)

    def evict(self, uid: str) -> None:
        # What a drain of its node asks for, of this one pod.
        name = _keeper(uid)["metadata"]["name"]
        eviction = {
            "apiVersion": "policy/v1beta1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": FUNCTIONS},
        }
        where = f"/api/v1/namespaces/{FUNCTIONS}/pods/{name}/eviction"
        lab.kubectl("create", "--raw", where, "-f", "-", stdin=json.dumps(eviction).encode())

    def restart(self) -> None:
        """End every part, NATS and all keepers, and wait until what replaces them is ready."""
        nats = _get("pod", "nats-0")["status"]["containerStatuses"][0]
        # Only its container: in the lab its data is as old as its pod.
        containerd.ctr("tasks", "kill", nats["containerID"].removeprefix("containerd://"))
        lab.kubectl("delete", "pods", "-n", FUNCTIONS, "-l", "wasmfn/role=keeper", "--wait=false")
        lab.kubectl("rollout", "restart", "deployment,daemonset", "-n", SYSTEM)
        within = f"--timeout={READY_S:g}s"
        for part in (
            "deployment/scheduler",
            "deployment/builder",
            "deployment/router",
            "ds/podwatch",
        ):
            lab.kubectl("rollout", "status", "-n", SYSTEM, part, within)

    @staticmethod
    def _done(run: subprocess.CompletedProcess[bytes]) -> None:
        assert run.returncode == 0, run.stderr.decode()


def _as(user: str) -> BusSettings:
    # The node reaches Services: no port needs to be forwarded as the CLI does.
    password = base64.b64decode(_get("secret", "wasmfn-nats")["data"][user]).decode()
    address = _get("service", "nats")["spec"]["clusterIP"]
    return BusSettings(
        nats_url=f"nats://{user}:{password}@{address}:4222",
        nats_inbox_prefix=inbox_prefix(user),
        nats_wait_s=60,
    )


def _get(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.kubectl("get", kind, name, "-n", SYSTEM, "-o", "json"))
    return found


def _keepers() -> list[dict[str, Any]]:
    chosen = ["-n", FUNCTIONS, "-l", "wasmfn/role=keeper"]
    pods = json.loads(lab.kubectl("get", "pods", *chosen, "-o", "json"))["items"]
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def _keeper(uid: str) -> dict[str, Any]:
    (pod,) = (pod for pod in _keepers() if pod["metadata"]["uid"] == uid)
    return pod
