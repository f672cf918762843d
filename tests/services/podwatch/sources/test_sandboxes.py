import msgspec
import pytest

from schemas.pods import CONTROL_PORT
from services.podwatch.sources.sandboxes import Container, Sandbox, ended, ending, is_ours, seen

SANDBOX = Sandbox(
    id="s1",
    uid="u1",
    name="keeper-1",
    labels={"wasmfn/role": "keeper", "io.kubernetes.pod.uid": "u1", "app": "x"},
    ready=True,
    ip="10.42.0.7",
)
CONTAINER = Container(id="c1", state="running", log="/var/log/pods/x/keeper/0.log")


def test_a_pod_has_its_own_labels_and_not_those_of_its_kubelet():
    assert seen(SANDBOX, CONTAINER).labels == {"wasmfn/role": "keeper", "app": "x"}


def test_a_pod_is_seen_with_its_address_and_its_log():
    pod = seen(SANDBOX, CONTAINER)
    assert (pod.uid, pod.ip, pod.port) == ("u1", "10.42.0.7", CONTROL_PORT)
    assert (pod.log, pod.log_format) == (CONTAINER.log, "cri")


@pytest.mark.parametrize(
    ("labels", "ours"),
    [
        ({"wasmfn/role": "keeper"}, True),
        ({"wasmfn/role": "function"}, True),
        ({"wasmfn/role": "router"}, False),
        ({}, False),
    ],
)
def test_only_pods_that_hold_functions_are_ours(labels, ours):
    assert is_ours(msgspec.structs.replace(SANDBOX, labels=labels)) is ours


@pytest.mark.parametrize(
    ("state", "ready", "why"),
    [
        ("created", True, ""),
        ("created", False, ""),
        ("running", True, ""),
        ("running", False, "its sandbox ended"),
        ("exited", True, "its keeper ended with exit code 0"),
        ("exited", False, "its keeper ended with exit code 0"),
    ],
)
def test_a_pod_ends_with_its_keeper_or_with_its_sandbox(state, ready, why):
    sandbox = msgspec.structs.replace(SANDBOX, ready=ready)
    assert ending(sandbox, msgspec.structs.replace(CONTAINER, state=state)) == why


NATIVE = msgspec.structs.replace(SANDBOX, labels={"wasmfn/role": "function", "wasmfn/port": "8080"})


def test_a_function_of_its_own_image_is_probed_where_it_answers():
    assert seen(NATIVE, CONTAINER).port == 8080


@pytest.mark.parametrize("port", ["", "x", "-1", "²"])
def test_a_port_that_is_none_is_the_control_port(port):
    labels = {"wasmfn/role": "function", "wasmfn/port": port}
    assert seen(msgspec.structs.replace(SANDBOX, labels=labels), CONTAINER).port == CONTROL_PORT


def test_a_pod_whose_container_was_started_again_is_over_all_the_same():
    again = msgspec.structs.replace(CONTAINER, attempt=1)
    assert ending(NATIVE, CONTAINER) == ""
    assert ending(NATIVE, again) == "its container ended and was started again"
    again = msgspec.structs.replace(again, state="exited", exit_code=2)
    assert ending(NATIVE, again) == "its container ended with exit code 2"


def test_a_cause_that_says_more_than_the_exit_code_is_told():
    killed = "its keeper ended with exit code 137 (OOMKilled)"
    assert ended("keeper", 137, "OOMKilled") == killed
    assert ended("keeper", 1, "Error") == "its keeper ended with exit code 1"
