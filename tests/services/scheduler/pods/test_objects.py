from typing import Any

import msgspec
import pytest

from schemas.pods import KEEPER_CONTAINER
from services.scheduler.pods.objects import ApiPod, PodList, has_ended, hindrance, serves


def pod(status: dict[str, Any], **metadata: Any) -> ApiPod:
    return msgspec.convert(
        {"metadata": {"name": "keeper-1", "uid": "u1", **metadata}, "status": status}, ApiPod
    )


def keeper(state: str, name: str = KEEPER_CONTAINER, **said: Any) -> dict[str, Any]:
    return {"phase": "Running", "containerStatuses": [{"name": name, "state": {state: said}}]}


NEW: dict[str, Any] = {"phase": "Pending"}
RUNNING = keeper("running", startedAt="2026-11-23T07:00:00Z")
ENDED = keeper("terminated", exitCode=137, reason="OOMKilled")


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        ({}, False),
        (NEW, False),
        (RUNNING, False),
        (keeper("waiting", reason="ImagePullBackOff"), False),
        (ENDED, True),
        (keeper("terminated", "sidecar", exitCode=0), False),
        ({"phase": "Failed", "reason": "Evicted"}, True),
        ({"phase": "Succeeded"}, True),
        ({"phase": "Unknown"}, False),
    ],
)
def test_a_pod_has_ended_when_its_keeper_has_or_the_cluster_says_so(
    status: dict[str, Any], ended: bool
) -> None:
    assert has_ended(pod(status)) is ended
    assert serves(pod(status)) is not ended


def test_a_pod_that_was_told_to_end_serves_no_more_but_has_not_ended() -> None:
    told = pod(RUNNING, deletionTimestamp="2026-11-23T07:00:30Z")
    assert not serves(told)
    assert not has_ended(told)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (NEW, ""),
        (RUNNING, ""),
        (keeper("waiting", reason="ContainerCreating"), ""),
        (
            keeper("waiting", reason="ErrImagePull", message="not found"),
            "ErrImagePull: not found",
        ),
        (
            keeper("waiting", reason="CreateContainerConfigError"),
            "CreateContainerConfigError",
        ),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/1 nodes are available",
                    }
                ],
            },
            "no node takes it: 0/1 nodes are available",
        ),
    ],
)
def test_what_keeps_a_pod_from_starting_is_told_in_words(status: dict[str, Any], says: str) -> None:
    assert hindrance(pod(status)) == says


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"kind":"Status","metadata":{},"status":"Failure","code":403}',
        b'{"kind":"PodList","metadata":{"resourceVersion":"1"}}',
        b'{"kind":"PodList","metadata":{},"items":[]}',
        b'{"kind":"NodeList","metadata":{"resourceVersion":"1"},"items":[]}',
    ],
)
def test_only_a_list_of_pods_is_one(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(text, type=PodList)
