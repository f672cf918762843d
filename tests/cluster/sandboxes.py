"""Pods in the lab's containerd without a kubelet, made with the calls that a kubelet makes."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec

from schemas.pods import KEEPER_CONTAINER, LABEL_NAMESPACE, LABEL_ROLE, ROLE_KEEPER
from services.podwatch.cri import api_pb2 as cri
from tests.cluster import lab
from tests.cluster.lab import kubernetes, paths, process
from tests.cluster.lab.containerd import BUSYBOX_IMAGE
from tests.cluster.lab.node import PODS

NAMESPACE = "lab"
TASKS = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
APART = cri.NamespaceOption(pid=cri.CONTAINER)
_numbers = itertools.count()


class Pod(msgspec.Struct):
    """A pod as a kubelet knows it."""

    sandbox: str
    config: Any
    container: str = ""

    @property
    def uid(self) -> str:
        return self.config.metadata.uid

    @property
    def log(self) -> Path:
        return Path(self.config.log_directory) / KEEPER_CONTAINER / "0.log"


def answering(uid: str) -> list[str]:
    """Return a command that answers `GET /healthz` as the keeper of pod `uid` does."""
    health = {"keeper": uid, "boot": f"boot of {uid}", "engine": "e1", "capacity": 8, "loaded": 0}
    script = f"mkdir /tmp/www; echo '{json.dumps(health)}' >/tmp/www/healthz; "
    return ["sh", "-c", script + "exec httpd -f -p 10087 -h /tmp/www"]


@contextlib.asynccontextmanager
async def one_address(pods: "Sandboxes") -> AsyncIterator[str]:
    """Give every pod the same address; nothing else fits into its network."""
    address = "10.42.0.250"
    conflist = json.loads((paths.CONFIG / "cni/10-lab.conflist").read_text())
    ranges = [[{"subnet": PODS, "rangeStart": address, "rangeEnd": address}]]
    conflist["plugins"][0]["ipam"]["ranges"] = ranges
    # containerd watches the directory and takes the first file.
    narrow = paths.CONFIG / "cni/00-one.conflist"
    narrow.write_text(json.dumps({**conflist, "name": "one"}))
    try:
        await pods.use_network("one")
        yield address
    finally:
        await pods.remove_all()
        narrow.unlink()
        await pods.use_network("lab")


@contextlib.contextmanager
def without_kubelet() -> Iterator[None]:
    """Keep a kubelet that runs on the node from ending pods that it does not know."""
    was_up = process.load("kubelet") is not None
    if was_up:
        kubernetes.stop("kubelet")
    try:
        yield
    finally:
        if was_up:
            kubernetes.start_kubelet()


@contextlib.contextmanager
def frozen_containerd() -> Iterator[None]:
    """Keep containerd from answering, with its socket left open."""
    daemon = process.load("containerd")
    assert daemon is not None
    stat = Path(f"/proc/{daemon.pid}/stat").read_text()
    parent = int(stat.rpartition(")")[2].split()[1])
    daemon.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.signal(signal.SIGCONT)
        # The nsenter that started it has stopped itself as well.
        os.kill(parent, signal.SIGCONT)


def forget_owner_of(address: str) -> None:
    """Have the node ask anew whose an address is, which it does by itself within a minute."""
    lab.run("ip", "neighbour", "flush", "to", address)


def process_of(pod: Pod) -> str:
    """Return the pid of a pod's keeper, as the node sees it."""
    return lab.run("cat", f"{TASKS}/{pod.container}/init.pid")


class Sandboxes:
    """Makes pods; each directory of logs is below `logs`, which the lab and the tests both see."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._channel = grpc.aio.insecure_channel(
            f"unix://{lab.CONTAINERD_SOCKET_FROM_OUTSIDE}",
            options=[
                ("grpc.default_authority", "localhost"),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_reconnect_backoff_ms", 100),
            ],
        )
        self._made: list[Pod] = []

    @property
    def uids(self) -> set[str]:
        """Of the pods that were made and not removed."""
        return {pod.uid for pod in self._made}

    async def call(self, name: str, request: Any, answer: Any) -> Any:
        ask = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return await ask(request, timeout=30, wait_for_ready=True)

    async def sandbox(self, role: str = ROLE_KEEPER) -> Pod:
        """Make a pod with a network and nothing in it."""
        uid = str(uuid.uuid4())
        name = f"keeper-{next(_numbers)}"
        labels = {LABEL_ROLE: role, LABEL_NAMESPACE: "default"} if role else {}
        directory = self._logs / f"{NAMESPACE}_{name}_{uid}"
        (directory / KEEPER_CONTAINER).mkdir(parents=True)
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace=NAMESPACE),
            labels={**labels, "io.kubernetes.pod.uid": uid, "io.kubernetes.pod.name": name},
            log_directory=str(directory),
            # Processes of each container apart, as a kubelet has it.
            linux=cri.LinuxPodSandboxConfig(
                security_context=cri.LinuxSandboxSecurityContext(namespace_options=APART)
            ),
        )
        answer = await self.call(
            "RunPodSandbox", cri.RunPodSandboxRequest(config=config), cri.RunPodSandboxResponse
        )
        pod = Pod(answer.pod_sandbox_id, config)
        self._made.append(pod)
        return pod

    async def start(self, pod: Pod, command: list[str], name: str = KEEPER_CONTAINER) -> str:
        """Start a container in a pod; return its id."""
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name),
            image=cri.ImageSpec(image=BUSYBOX_IMAGE),
            command=command,
            labels={"io.kubernetes.container.name": name, "io.kubernetes.pod.uid": pod.uid},
            log_path=f"{name}/0.log",
            linux=cri.LinuxContainerConfig(
                security_context=cri.LinuxContainerSecurityContext(namespace_options=APART)
            ),
        )
        created = await self.call(
            "CreateContainer",
            cri.CreateContainerRequest(
                pod_sandbox_id=pod.sandbox, config=config, sandbox_config=pod.config
            ),
            cri.CreateContainerResponse,
        )
        await self.call(
            "StartContainer",
            cri.StartContainerRequest(container_id=created.container_id),
            cri.StartContainerResponse,
        )
        if name == KEEPER_CONTAINER:
            pod.container = created.container_id
        return created.container_id

    async def keeper(self, command: list[str] | None = None) -> Pod:
        """Make a pod with a keeper, which answers unless it is given another command."""
        pod = await self.sandbox()
        await self.start(pod, command or answering(pod.uid))
        return pod

    async def kill(self, container: str) -> None:
        """Kill a container's process with SIGKILL."""
        await self.call(
            "StopContainer",
            cri.StopContainerRequest(container_id=container, timeout=0),
            cri.StopContainerResponse,
        )

    async def ended(self, pod: Pod) -> None:
        """Wait until a pod's keeper has ended."""
        request = cri.ContainerStatusRequest(container_id=pod.container)
        while True:
            answer = await self.call("ContainerStatus", request, cri.ContainerStatusResponse)
            if answer.status.state == cri.CONTAINER_EXITED:
                return
            await asyncio.sleep(0.01)

    async def remove(self, pod: Pod) -> None:
        """End whatever runs in a pod, and the pod."""
        await self.call(
            "StopPodSandbox",
            cri.StopPodSandboxRequest(pod_sandbox_id=pod.sandbox),
            cri.StopPodSandboxResponse,
        )
        await self.call(
            "RemovePodSandbox",
            cri.RemovePodSandboxRequest(pod_sandbox_id=pod.sandbox),
            cri.RemovePodSandboxResponse,
        )
        self._made.remove(pod)

    async def rotate(self, pod: Pod) -> None:
        """Rename a pod's log and have a new one begun, as a kubelet does."""
        pod.log.rename(pod.log.with_name(f"{pod.log.name}.20260102-150405"))
        await self.call(
            "ReopenContainerLog",
            cri.ReopenContainerLogRequest(container_id=pod.container),
            cri.ReopenContainerLogResponse,
        )

    async def write(self, pod: Pod, path: str, *lines: str) -> None:
        """Write lines into a file of a pod's keeper; return once they are in it."""
        text = "".join(f"{line}\n" for line in lines)
        await self.call(
            "ExecSync",
            cri.ExecSyncRequest(
                container_id=pod.container,
                cmd=["sh", "-c", 'printf %s "$0" > "$1"', text, path],
                timeout=10,
            ),
            cri.ExecSyncResponse,
        )

    async def use_network(self, name: str) -> None:
        """Return once new pods are put on this CNI network."""
        request = cri.StatusRequest(verbose=True)
        while True:
            status = await self.call("Status", request, cri.StatusResponse)
            if f'"Name":"{name}"' in status.info["cniconfig"]:
                return
            await asyncio.sleep(0.02)

    async def remove_all(self) -> None:
        for pod in tuple(self._made):
            await self.remove(pod)

    async def close(self) -> None:
        await self.remove_all()
        await self._channel.close()
