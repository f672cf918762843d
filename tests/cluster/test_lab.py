"""The lab itself: that it is a real cluster."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster import lab
from tests.cluster.lab import kubernetes
from tests.cluster.lab.commands import CommandError, wait_until
from tests.cluster.lab.containerd import BUSYBOX_IMAGE

pytestmark = pytest.mark.cluster

CHECKOUT = Path(__file__).resolve().parents[2]
SORT = CHECKOUT / "examples/sort/sort.wasm"


@pytest.fixture
def namespace(cluster: None) -> Iterator[str]:
    name = f"lab-{uuid.uuid4().hex[:8]}"
    lab.make_namespace(name)
    yield name
    lab.kubectl("delete", "namespace", name, "--wait=false")


def apply(namespace: str, *objects: dict[str, object]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    lab.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(listed).encode())


def pod(name: str, container: dict[str, object], **spec: object) -> dict[str, object]:
    container = {"name": "main", "image": BUSYBOX_IMAGE, **container}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }


WEB = {
    "command": ["httpd", "-f", "-p", "8080", "-h", "/www"],
    "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
}


def service(name: str, **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}], **spec},
    }


def wait_ready(namespace: str, name: str) -> None:
    lab.kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


def finished(namespace: str, name: str) -> str:
    """Wait for the pod's end and return what it said."""

    def phase() -> str:
        asked = ["get", "pod", name, "-o", "jsonpath={.status.phase}"]
        return lab.kubectl("-n", namespace, *asked)

    wait_until(f"{name} ends", lambda: phase() in ("Succeeded", "Failed"), 60, every_s=0.2)
    said = lab.kubectl("-n", namespace, "logs", name)
    assert phase() == "Succeeded", said
    return said


def test_a_service_is_answered_by_its_pod_and_known_by_name(namespace: str) -> None:
    apply(namespace, pod("web", WEB), service("web"))
    wait_ready(namespace, "web")
    address = lab.kubectl(
        "-n", namespace, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"
    )
    wait_until("the service answers", lambda: _answers(f"http://{address}/"), within_s=10)
    asked = ["exec", "web", "--", "wget", "-qO-", f"http://web.{namespace}.svc.cluster.local/"]
    wait_until("the name is known", lambda: _succeeds(namespace, *asked), within_s=10, every_s=0.2)
    assert lab.kubectl("-n", namespace, *asked) == "hello from a pod\n"


def test_a_headless_service_names_its_pods(namespace: str) -> None:
    named = pod("web", WEB, hostname="web-0", subdomain="web")
    apply(namespace, named, service("web", clusterIP="None"))
    wait_ready(namespace, "web")
    asked = ["exec", "web", "--", "nslookup", f"web-0.web.{namespace}.svc.cluster.local"]
    wait_until("the name is known", lambda: _succeeds(namespace, *asked), within_s=10, every_s=0.2)


def test_names_that_are_nobodys_are_said_not_to_exist(namespace: str) -> None:
    apply(namespace, pod("idle", {"command": ["sleep", "600"]}))
    wait_ready(namespace, "idle")
    for name in ("nowhere.invalid", f"nothing.{namespace}.svc.cluster.local"):
        with pytest.raises(CommandError, match="NXDOMAIN"):
            lab.kubectl("-n", namespace, "exec", "idle", "--", "nslookup", name)


def test_a_node_port_is_open_on_the_node(namespace: str) -> None:
    apply(namespace, pod("web", WEB), service("web", type="NodePort"))
    wait_ready(namespace, "web")
    port = lab.kubectl(
        "-n", namespace, "get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"
    )
    url = f"http://{lab.NODE_ADDRESS}:{port}/"
    wait_until("the port answers", lambda: _answers(url), within_s=10)


def test_an_image_is_built_pushed_and_pulled(namespace: str, tmp_path: Path) -> None:
    (tmp_path / "said").write_text("built here\n")
    (tmp_path / "Dockerfile").write_text(
        "ARG BASE\nFROM ${BASE}\nCOPY said /said\nRUN echo more >>/said\n"
    )
    lab.build_image(tmp_path, "test/said:1", arguments={"BASE": BUSYBOX_IMAGE})
    name = lab.push_image("test/said:1")
    container = {"image": name, "imagePullPolicy": "Always", "command": ["cat", "/said"]}
    apply(namespace, pod("said", container, restartPolicy="Never"))
    assert finished(namespace, "said") == "built here\nmore\n"


def test_a_wasm_image_runs_as_a_pod(namespace: str, tmp_path: Path) -> None:
    (tmp_path / "sort.wasm").write_bytes(SORT.read_bytes())
    (tmp_path / "Dockerfile").write_text(
        'FROM scratch\nCOPY sort.wasm /\nENTRYPOINT ["/sort.wasm"]\n'
    )
    lab.build_image(tmp_path, "test/sort:1")
    name = lab.push_image("test/sort:1")
    native = pod(
        "sort",
        {"image": name, "command": ["/sort.wasm", "3", "1", "2"]},
        restartPolicy="Never",
        runtimeClassName="wasm",
    )
    native["metadata"]["annotations"] = {"module.wasm.image/variant": "compat-smart"}  # type: ignore[index]
    apply(namespace, native)
    assert finished(namespace, "sort").split() == ["1", "2", "3"]


def test_a_service_account_may_do_nothing_by_itself(namespace: str) -> None:
    account = f"--as=system:serviceaccount:{namespace}:default"
    for what in ("pods", "secrets", "configmaps"):
        with pytest.raises(CommandError, match="Forbidden"):
            lab.kubectl("-n", namespace, "get", what, account)


def test_a_pod_is_given_a_token_that_the_api_server_knows(namespace: str) -> None:
    # No TLS in busybox: the token is read there and used here.
    apply(namespace, pod("idle", {"command": ["sleep", "600"]}))
    wait_ready(namespace, "idle")
    place = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    token = lab.kubectl("-n", namespace, "exec", "idle", "--", "cat", place)
    answer = lab.http(
        "GET",
        f"https://127.0.0.1:6443/api/v1/namespaces/{namespace}/pods",
        headers={"authorization": f"Bearer {token}"},
        verify=False,
    )
    assert answer.status_code == 403
    assert f"system:serviceaccount:{namespace}:default" in answer.json()["message"]


def test_pods_outlive_containerd_and_the_api_server(namespace: str) -> None:
    apply(namespace, pod("web", WEB))
    wait_ready(namespace, "web")
    before = _pod_status(namespace, "web")
    lab.restart_containerd()
    lab.restart_apiserver()
    wait_ready(namespace, "web")
    after = _pod_status(namespace, "web")
    assert after["podIP"] == before["podIP"]
    assert after["containerStatuses"][0]["restartCount"] == 0
    assert _answers(f"http://{after['podIP']}:8080/")


def test_a_kubelet_comes_back_to_its_pods(namespace: str) -> None:
    apply(namespace, pod("web", WEB))
    wait_ready(namespace, "web")
    kubernetes.stop("kubelet")
    kubernetes.start_kubelet()
    lab.kubectl("-n", namespace, "delete", "pod", "web", "--timeout=60s")


def _answers(url: str) -> bool:
    try:
        return lab.http("GET", url, timeout=2).text == "hello from a pod\n"
    except httpx.HTTPError:
        return False


def _succeeds(namespace: str, *words: str) -> bool:
    try:
        lab.kubectl("-n", namespace, *words)
    except CommandError:
        return False
    return True


def _pod_status(namespace: str, name: str) -> dict[str, object]:
    asked = lab.kubectl("-n", namespace, "get", "pod", name, "-o", "json")
    status: dict[str, object] = json.loads(asked)["status"]
    return status
