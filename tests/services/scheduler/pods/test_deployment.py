"""The manifest of a function's Deployment, and what is said of one that makes no pods."""

from typing import Any

import msgspec
import pytest

from schemas.active import ActiveFunction
from schemas.specs import Container, FunctionSpec, Limits, SecretRef
from services.scheduler.pods.deployment import deployment, name_of, revision_of
from services.scheduler.pods.hindrances import of_deployment, of_pod
from services.scheduler.pods.manifest import KeeperPod
from services.scheduler.pods.objects import ApiDeployment, ApiPod


def made(container: Container | None = None, settings: KeeperPod | None = None, **spec: Any) -> Any:
    function = FunctionSpec(image="web:1", executor="deployment", container=container, **spec)
    active = ActiveFunction("shop", "web", 7, function, "", None, "")
    return deployment(active, 2, settings or KeeperPod())


def container_of(manifest: Any) -> Any:
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    return container


def test_a_deployment_makes_pods_that_say_whose_they_are() -> None:
    manifest = made(Container(port=8080))
    assert manifest["spec"]["replicas"] == 2
    template = manifest["spec"]["template"]
    assert revision_of(template["metadata"]["labels"]) == ("shop", "web", 7)
    assert revision_of(manifest["metadata"]["labels"]) == ("shop", "web", 7)
    assert template["metadata"]["labels"]["wasmfn/port"] == "8080"
    selector = manifest["spec"]["selector"]["matchLabels"].items()
    assert selector <= template["metadata"]["labels"].items()
    assert manifest["metadata"]["name"] == name_of(("shop", "web", 7))


def test_no_two_functions_have_one_name() -> None:
    names = {name_of(of) for of in (("a-b", "c", 1), ("a", "b-c", 1), ("a", "b-c", 2))}
    assert len(names) == 3
    assert len(name_of(("n" * 63, "f" * 63, 2**53))) <= 63


def test_a_pod_may_do_nothing_and_has_no_token() -> None:
    manifest = made(Container(user=1000))
    pod = manifest["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container_of(manifest)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_its_limits_are_those_of_the_spec() -> None:
    manifest = made(Container(cpu=0.05), limits=Limits(memory_mib=64))
    assert container_of(manifest)["resources"] == {
        "requests": {"cpu": "50m", "memory": "64Mi"},
        "limits": {"cpu": "50m", "memory": "64Mi"},
    }


def test_an_image_for_a_runtime_is_given_to_it() -> None:
    template = made(Container(runtime_class="wasm"))["spec"]["template"]
    assert template["spec"]["runtimeClassName"] == "wasm"
    assert template["metadata"]["annotations"] == {"module.wasm.image/variant": "compat-smart"}
    template = made()["spec"]["template"]
    assert "runtimeClassName" not in template["spec"]
    assert "annotations" not in template["metadata"]


def test_it_is_told_its_port_and_its_variables_as_they_are() -> None:
    manifest = made(variables={"A": "$(B) $5"}, arguments=("$(A)",))
    container = container_of(manifest)
    assert container["env"] == [
        {"name": "PORT", "value": "10086"},
        {"name": "A", "value": "$$(B) $$5"},
    ]
    assert container["args"] == ["$$(A)"]
    assert "command" not in container
    own = container_of(made(variables={"PORT": "1"}))
    assert own["env"] == [{"name": "PORT", "value": "1"}]


def test_a_secret_is_named_and_is_one_of_its_own_namespace() -> None:
    container = container_of(made(secrets={"KEY": SecretRef("db", "password")}))
    reference = {"secretKeyRef": {"name": "shop.db", "key": "password"}}
    assert container["env"][-1] == {"name": "KEY", "valueFrom": reference}


def test_what_an_operator_has_set_for_pods_holds_here() -> None:
    pull = KeeperPod(image_pull_secrets=("registry",), priority_class="tenants")
    pod = made(settings=pull)["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["priorityClassName"] == "tenants"


def pod_with(**container: Any) -> ApiPod:
    status = {"containerStatuses": [{"name": "function", **container}]}
    return msgspec.convert({"metadata": {"name": "p", "uid": "u"}, "status": status}, ApiPod)


@pytest.mark.parametrize(
    ("container", "says", "lasting"),
    [
        ({"state": {"running": {}}}, "", False),
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, "", False),
        ({"state": {"waiting": {"reason": "ErrImagePull", "message": "x: not found"}}},
         "its image cannot be had: x: not found; correct `image`", True),
        ({"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "no secret"}}},
         "<namespace>.NAME", True),
        ({"state": {"waiting": {"reason": "RunContainerError", "message": "exec format"}}},
         "check `container.command`", True),
        ({"state": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no\n db\n"}}},
         "exit code 1: it has to serve; its last words: no db", True),
        ({"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
         "raise `limits.memory_mib`", True),
        ({"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, "it has to", True),
        ({"state": {"waiting": {"reason": "CrashLoopBackOff"}},
          "lastState": {"terminated": {"exitCode": 2}}}, "exit code 2", True),
        ({"state": {"waiting": {"reason": "Odd"}}}, "Odd", False),
    ],
)  # fmt: skip
def test_what_keeps_a_pod_from_running_is_said(
    container: dict[str, Any], says: str, lasting: bool
) -> None:
    found = of_pod(pod_with(**container))
    assert says in found.sentence
    assert bool(found.sentence) is bool(says)
    assert found.lasting is lasting


def test_of_a_long_log_the_end_is_said() -> None:
    ended = {"terminated": {"exitCode": 1, "message": "x" * 5000 + " the end"}}
    sentence = of_pod(pod_with(state=ended)).sentence
    assert sentence.endswith("the end")
    assert len(sentence) < 600


def test_a_pod_that_no_node_takes_may_be_taken_later() -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}
    pod = {"metadata": {"name": "p", "uid": "u"}, "status": {"conditions": [condition]}}
    found = of_pod(msgspec.convert(pod, ApiPod))
    assert "no node takes it: 0/1 nodes" in found.sentence
    assert not found.lasting


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ('pod rejected: RuntimeClass "nope" not found', "kubectl get runtimeclass"),
        ("exceeded quota: pods", "quota"),
        ("violates PodSecurity", "change what it says"),
    ],
)
def test_why_a_deployment_makes_no_pods_is_said(message: str, advice: str) -> None:
    conditions = [{"type": "ReplicaFailure", "status": "True", "message": message}]
    found = {"metadata": {"name": "d", "uid": "u"}, "status": {"conditions": conditions}}
    sentence = of_deployment(msgspec.convert(found, ApiDeployment))
    assert message in sentence
    assert advice in sentence
    assert of_deployment(ApiDeployment(pod_with().metadata)) == ""
