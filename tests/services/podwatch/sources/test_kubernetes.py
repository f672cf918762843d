import copy

import pytest

from schemas.pods import CONTROL_PORT
from services.podwatch.sources import PodGone, PodSeen
from services.podwatch.sources.kubernetes import as_seen, ending, look

POD = {
    "metadata": {
        "name": "keeper-1",
        "namespace": "wasmfn-functions",
        "uid": "u1",
        "labels": {"wasmfn/role": "keeper"},
    },
    "spec": {},
    "status": {
        "phase": "Running",
        "podIP": "10.42.0.7",
        "containerStatuses": [
            {"name": "beside", "state": {"terminated": {"exitCode": 3}}},
            {
                "name": "keeper",
                "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            },
        ],
    },
}


def pod(state: dict | None = None, **status: object) -> dict:
    made = copy.deepcopy(POD)
    if state is not None:
        made["status"]["containerStatuses"][1]["state"] = state
    made["status"].update(status)
    return made


def test_a_running_keeper_is_seen_whatever_containers_are_beside_it():
    seen = as_seen(pod())
    assert seen is not None
    assert (seen.uid, seen.ip, seen.port) == ("u1", "10.42.0.7", CONTROL_PORT)
    assert seen.log == "/var/log/pods/wasmfn-functions_keeper-1_u1/keeper/0.log"
    assert ending(pod()) == ""


@pytest.mark.parametrize(
    "status",
    [{"containerStatuses": None}, {"containerStatuses": []}],
)
def test_a_pod_without_a_keeper_yet_is_not_seen_and_not_gone(status):
    running = {}
    assert look(pod(phase="Pending", **status), running) == []
    assert look(pod({"waiting": {"reason": "ContainerCreating"}}), running) == []
    assert running == {}


TERMINATED = {
    "terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": "2026-01-01T00:00:00Z"}
}
OOM = "its keeper ended with exit code 137 (OOMKilled)"


def test_a_keeper_is_told_once_and_its_end_once():
    running = {}
    assert [type(s) for s in look(pod(), running)] == [PodSeen]
    assert look(pod(), running) == []
    assert look(pod(TERMINATED), running) == [PodGone("u1", OOM)]
    assert running == {}


def test_a_keeper_that_ended_before_it_was_seen_is_told_and_told_gone():
    assert [type(s) for s in look(pod(TERMINATED), {})] == [PodSeen, PodGone]


def test_an_address_that_comes_later_is_told():
    running = {}
    look(pod(podIP=""), running)
    (seen,) = look(pod(), running)
    assert isinstance(seen, PodSeen)
    assert seen.ip == "10.42.0.7"


def test_an_evicted_pod_is_gone_with_the_reason():
    running = {}
    look(pod(), running)
    evicted = pod(phase="Failed", reason="Evicted", message="The node was low on memory.")
    assert look(evicted, running) == [PodGone("u1", "The node was low on memory.")]


def native(**container: object) -> dict:
    made = copy.deepcopy(POD)
    made["metadata"]["labels"] = {"wasmfn/role": "function", "wasmfn/port": "8080"}
    made["status"]["containerStatuses"] = [
        {"name": "function", "restartCount": 0, "state": POD_STATE, **container}
    ]
    return made


POD_STATE = POD["status"]["containerStatuses"][1]["state"]


def test_a_function_of_its_own_image_is_seen_where_it_answers():
    seen = as_seen(native())
    assert seen is not None
    assert (seen.ip, seen.port) == ("10.42.0.7", 8080)
    assert ending(native()) == ""


def test_a_pod_whose_container_was_started_again_is_gone_though_nobody_saw_it_end():
    running = {}
    assert [type(s) for s in look(native(), running)] == [PodSeen]
    gone = PodGone("u1", "its container ended and was started again")
    assert look(native(restartCount=1), running)[-1] == gone
    assert running == {}


def test_what_waits_to_be_started_again_has_ended():
    crashed = native(state={"terminated": {"exitCode": 1, "startedAt": "2026-01-01T00:00:00Z"}})
    assert ending(crashed) == "its container ended with exit code 1"
