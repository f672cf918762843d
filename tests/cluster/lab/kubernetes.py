"""Kubernetes on the node: etcd, the control plane, a kubelet and a proxy, as on any single node."""

import json
import ssl
from pathlib import Path

import httpx

from tests.cluster.lab import containerd, names, node, paths, pki, process
from tests.cluster.lab.commands import CommandError, wait_until
from tests.cluster.lab.install import KUBECTL
from tests.cluster.lab.kubernetes_build import BINARIES

ADMIN = paths.PKI / "admin.kubeconfig"

_ETCD = "http://127.0.0.1:2379"
_SERVER = "https://127.0.0.1:6443"
_API_ADDRESS = "10.43.0.1"

# Kubernetes' own names for those who may act in its name.
_IDENTITIES = {
    "admin": ("admin", "system:masters"),
    "apiserver-to-kubelet": ("kube-apiserver", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "node": (f"system:node:{node.NAME}", "system:nodes"),
    "names": ("lab-names", "system:masters"),
}

_WASM = {
    "apiVersion": "node.k8s.io/v1",
    "kind": "RuntimeClass",
    "metadata": {"name": "wasm"},
    "handler": "wasm",
}


def up() -> None:
    """Start it on a node with containerd and wait until pods can be made."""
    _make_identities()
    _start_etcd()
    start_apiserver()
    _start_controllers()
    start_kubelet()
    _start_proxy()
    names.up()
    kubectl("apply", "-f", "-", stdin=json.dumps(_WASM).encode())
    wait_until("the node is ready", _node_ready, within_s=60, every_s=0.1)
    _wait_admits_pods("default")


def kubectl(*words: str | Path, stdin: bytes = b"") -> str:
    """Run kubectl as the administrator."""
    return node.run(KUBECTL, "--kubeconfig", ADMIN, *words, stdin=stdin)


def make_namespace(name: str) -> None:
    """Make a namespace and wait until it takes pods."""
    kubectl("create", "namespace", name)
    _wait_admits_pods(name)


def start_apiserver() -> None:
    """Start the API server, and anew the controllers of one before it; wait until it is ready."""
    node.start(
        "kube-apiserver",
        BINARIES / "kube-apiserver",
        f"--etcd-servers={_ETCD}",
        f"--advertise-address={node.ADDRESS}",
        "--secure-port=6443",
        f"--tls-cert-file={paths.PKI / 'apiserver.crt'}",
        f"--tls-private-key-file={paths.PKI / 'apiserver.key'}",
        f"--client-ca-file={pki.CA}",
        f"--kubelet-client-certificate={paths.PKI / 'apiserver-to-kubelet.crt'}",
        f"--kubelet-client-key={paths.PKI / 'apiserver-to-kubelet.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={paths.PKI / 'accounts.pub'}",
        f"--service-account-signing-key-file={paths.PKI / 'accounts.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={node.SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--profiling=false",
    )
    wait_until("the API server is ready", _apiserver_ready, within_s=90)
    if process.load("kube-controller-manager"):
        # These sit out a back-off of up to half a minute. In k3s all of them are one program.
        stop("kube-controller-manager")
        stop("kube-scheduler")
        _start_controllers()


def start_kubelet() -> None:
    config = paths.CONFIG / "kubelet.json"
    config.write_text(json.dumps(_kubelet_config(), indent=2))
    socket = f"unix://{containerd.SOCKET}"
    node.start(
        "kubelet",
        BINARIES / "kubelet",
        f"--config={config}",
        f"--kubeconfig={paths.PKI / 'node.kubeconfig'}",
        f"--hostname-override={node.NAME}",
        f"--node-ip={node.ADDRESS}",
        "--container-runtime=remote",
        f"--container-runtime-endpoint={socket}",
        f"--image-service-endpoint={socket}",
        f"--pod-infra-container-image={containerd.PAUSE_IMAGE}",
        "--volume-plugin-dir=/var/lib/kubelet/volume-plugins",
    )


def restart_apiserver() -> None:
    """Kill the API server as a crash would and start it again."""
    stop("kube-apiserver")
    start_apiserver()


def stop(daemon: str) -> None:
    """Kill one of the daemons as a crash would."""
    if running := process.load(daemon):
        running.kill()


def _make_identities() -> None:
    authority = pki.Authority()
    service = [f"kubernetes{rest}" for rest in ("", ".default", ".default.svc")]
    addresses = ["127.0.0.1", node.ADDRESS]
    authority.serve("apiserver", "kube-apiserver", [*service, *addresses, _API_ADDRESS])
    authority.serve("kubelet", node.NAME, [node.NAME, *addresses])
    pki.write_service_account_key()
    for file, (user, group) in _IDENTITIES.items():
        authority.identify(file, user, group)
        pki.write_kubeconfig(file, _SERVER)


def _start_etcd() -> None:
    node.start(
        "etcd",
        "etcd",
        "--data-dir=/var/lib/etcd",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        # Its data does not outlive the lab.
        "--unsafe-no-fsync",
    )
    wait_until("etcd is healthy", _etcd_healthy, within_s=20)


def _start_controllers() -> None:
    _start_controller_manager()
    _start_scheduler()
    wait_until("the controllers run", _controllers_run, within_s=90)


def _controllers_run() -> bool:
    """Whether they serve. Who has ended is started again, as any supervisor would do.

    An API server that is ready may still tell them that it serves nothing, and they end at that.
    """
    if process.load("kube-controller-manager") is None:
        _start_controller_manager()
        return False
    if process.load("kube-scheduler") is None:
        _start_scheduler()
        return False
    try:
        return all(
            # Their certificates are their own; they listen to this network only.
            node.http(
                "GET", f"https://127.0.0.1:{port}/healthz", verify=False, timeout=2
            ).is_success
            for port in (10257, 10259)
        )
    except httpx.HTTPError:
        return False


def _start_controller_manager() -> None:
    node.start(
        "kube-controller-manager",
        BINARIES / "kube-controller-manager",
        f"--kubeconfig={paths.PKI / 'controller-manager.kubeconfig'}",
        f"--service-account-private-key-file={paths.PKI / 'accounts.key'}",
        f"--root-ca-file={pki.CA}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--port=0",
    )


def _start_scheduler() -> None:
    node.start(
        "kube-scheduler",
        BINARIES / "kube-scheduler",
        f"--kubeconfig={paths.PKI / 'scheduler.kubeconfig'}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--port=0",
    )


def _start_proxy() -> None:
    node.start(
        "kube-proxy",
        BINARIES / "kube-proxy",
        f"--kubeconfig={paths.PKI / 'proxy.kubeconfig'}",
        f"--hostname-override={node.NAME}",
        f"--cluster-cidr={node.PODS}",
        "--proxy-mode=iptables",
        # The tables' sizes belong to the machine, not to this network.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--metrics-bind-address=127.0.0.1",
        "--healthz-bind-address=127.0.0.1",
    )


def _kubelet_config() -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki.CA)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(paths.PKI / "kubelet.crt"),
        "tlsPrivateKeyFile": str(paths.PKI / "kubelet.key"),
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDomain": names.DOMAIN,
        "clusterDNS": [node.ADDRESS],
        # The disk and the images are not the lab's to judge.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "1s",
        # How soon a pod's end is looked at again, which at the first look may not be whole.
        "syncFrequency": "5s",
    }


def _etcd_healthy() -> bool:
    try:
        answer = node.http("GET", f"{_ETCD}/health", timeout=2)
    except httpx.HTTPError:
        return False
    return bool(answer.json()["health"] == "true")


def _apiserver_ready() -> bool:
    if process.load("kube-apiserver") is None:
        raise RuntimeError(
            f"the API server ended:\n{(paths.LOGS / 'kube-apiserver').read_text()[-4000:]}"
        )
    context = ssl.create_default_context(cafile=str(pki.CA))
    context.load_cert_chain(paths.PKI / "admin.crt", paths.PKI / "admin.key")
    try:
        answer = node.http("GET", f"{_SERVER}/readyz", verify=context, timeout=2)
    except httpx.HTTPError:
        return False
    return answer.is_success


def _node_ready() -> bool:
    condition = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    try:
        return kubectl("get", "node", node.NAME, "-o", condition) == "True"
    except CommandError:
        return False


def _wait_admits_pods(namespace: str) -> None:
    """Wait for the service account without which no pod of the namespace is admitted."""

    def account_exists() -> bool:
        try:
            return bool(kubectl("-n", namespace, "get", "serviceaccount", "default", "-o", "name"))
        except CommandError:
            return False

    wait_until(f"{namespace} has its default service account", account_exists, within_s=90)
