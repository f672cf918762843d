"""The lab overlay on a real Kubernetes, installed, used and removed as its user would.

Not proven here: network policies, which the lab's bridge plugin does not enforce; that they say
what they should is held in tests/manifests.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from services.bus.permissions import SERVICES
from tests.cluster import lab
from tests.cluster.executor import build as executor
from tests.cluster.lab import images, supplies
from tests.cluster.lab.commands import CommandError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).parents[2]
WASMFN = Path(sys.executable).parent / "wasmfn"
SORT = CHECKOUT / "examples/sort/sort.wasm"
URL = f"http://{lab.NODE_ADDRESS}:32046/sort"
NEXT = "upgraded"
ALL = ("get", "list", "watch", "create", "delete")
GROUPS = {"deployments": "apps", "jobs": "batch"}


def wasmfn(*words: str | Path, within_s: float = 300) -> str:
    """Return what the command line prints, as it does on the cluster's node."""
    environ = {**os.environ, "KUBECONFIG": str(lab.KUBECONFIG), "WASMFN_NATS": "kubernetes:"}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    with lab.network():
        done = subprocess.run(
            [WASMFN, *words],
            env=environ,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(cluster: None) -> Iterator[None]:
    supplies.push_project()
    executor.executor()
    wasmfn("install", "--overlay", "lab", "--timeout", "240")
    yield
    wasmfn("uninstall", "--overlay", "lab", "--yes")


def get(*words: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(lab.kubectl("get", *words, "-o", "json"))
    return found


def acting_as(account: str) -> str:
    return f"--as=system:serviceaccount:wasmfn:{account}"


def allowed(
    account: str, namespace: str, verbs: Iterable[str], resources: Iterable[str], part: str = ""
) -> set[str]:
    """Return what an account of the platform may do, such as `get pods`, of what is asked for.

    Resources may have a name, as in `secrets/one`; `part` is a subresource.
    """
    asked = [(verb, resource) for verb in verbs for resource in resources]
    reviews = []
    for verb, resource in asked:
        kind, _, name = resource.partition("/")
        attributes = {"verb": verb, "resource": kind, "name": name, "subresource": part}
        attributes |= {"namespace": namespace, "group": GROUPS.get(kind, "")}
        spec = {
            "user": f"system:serviceaccount:wasmfn:{account}",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:wasmfn"],
            "resourceAttributes": attributes,
        }
        kind_of = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        reviews.append({**kind_of, "spec": spec})
    listed = {"apiVersion": "v1", "kind": "List", "items": reviews}
    answers = lab.kubectl(
        "create", "-f", "-", "-o", r'jsonpath={.status.allowed}{"\n"}',
        stdin=json.dumps(listed).encode(),
    ).split()  # fmt: skip
    said = zip(asked, answers, strict=True)
    return {" ".join(what) for what, answer in said if answer == "true"}


def test_every_part_becomes_ready_and_says_so(installed: None) -> None:
    told = json.loads(wasmfn("status", "-o", "json"))
    assert {part["name"] for part in told["parts"]} == {*SERVICES, "nats"}
    assert all(part["ready"] == part["wanted"] for part in told["parts"])
    assert {check["name"]: check["state"] for check in told["checks"]} == dict.fromkeys(
        ("nats", "clock", "streams", "leader", "keepers"), "good"
    )


def test_installing_again_keeps_the_keys_and_every_pod(installed: None) -> None:
    def state() -> tuple[object, set[str]]:
        pods = lab.kubectl(
            "get", "pods", "-n", "wasmfn", "-l", "app.kubernetes.io/name!=keys",
            "-o", "jsonpath={.items[*].metadata.uid}",
        ).split()  # fmt: skip
        names = ("wasmfn-control-key", "wasmfn-artifact-key", "wasmfn-nats")
        secrets = [get("secret", "-n", "wasmfn", name)["data"] for name in names]
        return secrets, set(pods)

    before = state()
    wasmfn("install", "--overlay", "lab", "--timeout", "120")
    assert state() == before


def test_a_module_is_deployed_and_answers_on_the_node_port(installed: None) -> None:
    wasmfn("deploy", SORT)
    answer = lab.http("POST", URL, content=b'{"args":["2","1"]}')
    assert answer.json()["output"] == ["1 2"]


def test_no_service_was_denied_a_subject_it_needs(installed: None) -> None:
    for service in SERVICES:
        log = lab.kubectl(
            "logs", "-n", "wasmfn", "-l", f"app.kubernetes.io/name={service}", "--tail=-1"
        )
        assert "NATS denied" not in log


def test_the_keys_of_a_service_are_read_by_it_alone(installed: None) -> None:
    for account in ("router", "builder", "scheduler", "podwatch", "nats", "default"):
        assert not allowed(account, "wasmfn", ALL, ["secrets", "secrets/wasmfn-control-key"])
    key = "secrets/wasmfn-control-key"
    others = ["secrets", "secrets/another"]
    assert allowed("keys", "wasmfn", ("get", "list", "delete"), [key, *others]) == {f"get {key}"}
    assert not allowed("keys", "kube-system", ("get", "list"), ["secrets"])


def test_the_scheduler_may_make_pods_of_functions_and_nothing_else(installed: None) -> None:
    verbs = ("create", "list", "watch", "patch", "delete")
    its_own = {f"{verb} pods" for verb in verbs}
    assert allowed("scheduler", "wasmfn-functions", verbs, ["pods"]) == its_own
    # Deployments are looked at, and not followed.
    making = {f"{verb} deployments" for verb in verbs} - {"watch deployments"}
    assert allowed("scheduler", "wasmfn-functions", verbs, ["deployments"]) == making
    for namespace in ("wasmfn", "default"):
        assert not allowed("scheduler", namespace, verbs, ["pods", "deployments"])
    others = ("secrets", "configmaps", "services", "serviceaccounts", "nodes")
    changes = ("get", "create", "delete")
    assert not allowed("scheduler", "wasmfn-functions", changes, others)
    for part in ("exec", "log", "attach", "portforward"):
        assert not allowed("scheduler", "wasmfn-functions", changes, ["pods"], part)


@pytest.mark.parametrize("account", ["router", "builder", "scheduler", "podwatch", "nats"])
def test_asking_for_what_one_may_not_have_is_answered_403(installed: None, account: str) -> None:
    with pytest.raises(CommandError, match="Forbidden"):
        lab.kubectl("get", "secret", "wasmfn-nats", "-n", "wasmfn", acting_as(account))
    with pytest.raises(CommandError, match="Forbidden"):
        lab.kubectl("get", "pods", "-n", "wasmfn", acting_as(account))


@pytest.mark.parametrize("account", ["router", "builder", "podwatch", "nats"])
def test_who_does_not_speak_to_kubernetes_may_do_nothing_there(
    installed: None, account: str
) -> None:
    for namespace in ("wasmfn", "wasmfn-functions"):
        kinds = ("pods", "deployments", "jobs", "configmaps")
        assert not allowed(account, namespace, ALL, kinds)


def test_a_token_is_in_no_pod_that_does_not_need_one(installed: None) -> None:
    pods = [*get("pods", "-n", "wasmfn")["items"], *get("pods", "-n", "wasmfn-functions")["items"]]  # type: ignore[misc]  # JSON
    for pod in pods:
        mounted = [
            mount["mountPath"]
            for container in pod["spec"]["containers"]
            for mount in container["volumeMounts"]
            if "serviceaccount" in mount["mountPath"]
        ]
        name = pod["metadata"]["labels"]["app.kubernetes.io/name"]
        assert bool(mounted) is (name in ("scheduler", "builder", "keys")), name


def overlay(directory: Path) -> Path:
    """Write an overlay of one's own, as docs/k3s.md shows it, with the images of a next version."""
    base = os.path.relpath(CHECKOUT / "manifests/overlays/lab", directory)
    chosen = [
        {"name": f"127.0.0.1:5000/wasmfn/{image}", "newTag": NEXT}
        for image in ("services", "keeper")
    ]
    fields = CHECKOUT / "manifests/base/image-fields.yaml"
    (directory / "image-fields.yaml").write_text(fields.read_text())
    kustomization = {"resources": [base], "images": chosen, "configurations": ["image-fields.yaml"]}
    (directory / "kustomization.yaml").write_text(json.dumps(kustomization))
    return directory


@contextmanager
def traffic() -> Iterator[list[str]]:
    """Call the function for as long as this lasts; yield what was not answered as it should be."""
    wrong: list[str] = []
    over = threading.Event()
    answered = threading.Event()

    def call() -> None:
        with lab.network():
            while not over.is_set():
                # A connection for each call, as new clients have.
                try:
                    answer = httpx.post(URL, content=b'{"args":["2","1"]}', trust_env=False)
                    if answer.status_code != 200:
                        wrong.append(f"{answer.status_code} {answer.text}")
                except httpx.HTTPError as error:
                    wrong.append(repr(error))
                answered.set()

    caller = threading.Thread(target=call)
    caller.start()
    try:
        assert answered.wait(60)
        yield wrong
        answered.clear()
        assert answered.wait(60)
    finally:
        over.set()
        caller.join()


def running() -> set[str]:
    """Return the images of everything that runs."""
    pods = [*get("pods", "-n", "wasmfn")["items"], *get("pods", "-n", "wasmfn-functions")["items"]]  # type: ignore[misc]  # JSON
    return {c["image"] for pod in pods for c in pod["spec"]["containers"]}


def test_newer_images_take_over_and_every_call_is_answered_meanwhile(
    installed: None, tmp_path: Path
) -> None:
    wasmfn("deploy", SORT)
    for image in ("services", "keeper"):
        (now,) = {name for name in running() if f"/wasmfn/{image}:" in name}
        images.copy(now.removeprefix(f"{lab.REGISTRY}/"), f"wasmfn/{image}:{NEXT}")
    with traffic() as wrong:
        wasmfn("install", "--overlay", overlay(tmp_path), "--timeout", "240")
    assert wrong == []
    assert images.name(f"wasmfn/services:{NEXT}") in running()


def test_keys_and_namespaces_stay_when_they_are_to_be_kept(installed: None) -> None:
    names = ("wasmfn-control-key", "wasmfn-artifact-key", "wasmfn-nats")
    before = [get("secret", "-n", "wasmfn", name)["data"] for name in names]
    wasmfn("uninstall", "--overlay", "lab", "--keep-data", "--yes")
    assert [get("secret", "-n", "wasmfn", name)["data"] for name in names] == before
    assert get("deployments,statefulsets,daemonsets,services", "-n", "wasmfn")["items"] == []
    for namespace in ("wasmfn", "wasmfn-functions"):
        kept = get("pods", "-n", namespace)["items"]
        assert [pod for pod in kept if "deletionTimestamp" not in pod["metadata"]] == []  # type: ignore[attr-defined]  # JSON
