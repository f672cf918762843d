"""What the cluster says becomes what its operator would have looked for next."""

from typing import Any

from wasmfn.clusterstatus import keepers, parts, troubles

Object = dict[str, Any]


def workload(kind: str, name: str, status: Object, replicas: int = 2) -> Object:
    template = {"spec": {"containers": [{"image": "wasmfn/services:1"}]}}
    spec: Object = {"template": template}
    if kind != "DaemonSet":
        spec["replicas"] = replicas
    return {"kind": kind, "metadata": {"name": name}, "spec": spec, "status": status}


def pod(name: str, *, ready: bool = False, part: str = "router", **container: Any) -> Object:
    return {
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": part}},
        "spec": {"nodeName": "node1"},
        "status": {
            "phase": "Running",
            "podIP": "10.42.0.7",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"restartCount": 0, "ready": ready, **container}],
        },
    }


def test_a_part_is_whole_when_every_pod_of_it_is_ready() -> None:
    (podwatch, router) = parts(
        [
            workload("Deployment", "router", {"readyReplicas": 1}),
            workload("DaemonSet", "podwatch", {"numberReady": 3, "desiredNumberScheduled": 3}),
        ],
        [pod("router-1", restartCount=2), pod("router-2", restartCount=1)],
    )
    assert (router.ready, router.wanted, router.restarts, router.whole) == (1, 2, 3, False)
    assert (podwatch.ready, podwatch.wanted, podwatch.whole) == (3, 3, True)


def test_a_part_that_has_no_pod_at_all_is_not_whole() -> None:
    (part,) = parts([workload("Deployment", "router", {}, replicas=0)], [])
    assert not part.whole


def test_a_pod_that_is_ready_or_still_starts_is_no_trouble() -> None:
    starting = pod("b", state={"waiting": {"reason": "ContainerCreating"}})
    done = pod("c", state={"terminated": {"exitCode": 0}})
    done["status"]["phase"] = "Succeeded"
    assert troubles([pod("a", ready=True), starting, done]) == []


def test_a_container_that_ends_again_and_again_is_told_with_its_exit_code() -> None:
    failing = pod(
        "a",
        state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
        lastState={"terminated": {"exitCode": 2}},
    )
    assert troubles([failing]) == ["a: CrashLoopBackOff (it ended with 2): back-off 40s"]


def test_an_image_that_is_not_there_is_told_in_the_clusters_words() -> None:
    missing = pod("a", state={"waiting": {"reason": "ErrImagePull", "message": "not found"}})
    assert troubles([missing]) == ["a: ErrImagePull: not found"]


def test_a_pod_that_no_node_takes_is_told_with_the_reason() -> None:
    homeless = pod("a")
    homeless["status"] = {
        "phase": "Pending",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu"}
        ],
    }
    assert troubles([homeless]) == ["a: no node takes it: 0/1 nodes: Insufficient cpu"]


def test_a_pod_that_runs_and_is_not_ready_says_where_to_look() -> None:
    (said,) = troubles([pod("a", state={"running": {}})])
    assert said.startswith("a: runs, and is not ready")


def test_keepers_are_listed_by_tenant_with_where_they_are() -> None:
    first, second = pod("keeper-b", ready=True), pod("keeper-a")
    first["metadata"]["labels"]["wasmfn/namespace"] = "shop"
    second["metadata"]["labels"]["wasmfn/namespace"] = "zoo"
    found = keepers([second, first])
    assert [(k.tenant, k.name, k.ready) for k in found] == [
        ("shop", "keeper-b", True),
        ("zoo", "keeper-a", False),
    ]
    assert (found[0].node, found[0].ip) == ("node1", "10.42.0.7")
