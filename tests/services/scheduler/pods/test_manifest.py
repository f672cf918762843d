"""A keeper pod is what Kubernetes takes, what a keeper takes, and as confined as it can be."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keeper import settings as keeper_settings
from schemas.pods import (
    CONTROL_PORT,
    KEEPER_CONTAINER,
    LABEL_DEDICATED,
    LABEL_NAMESPACE,
    LABEL_ROLE,
)
from schemas.settings import SettingsError, read_settings
from services.scheduler.fleet import STOP_S
from services.scheduler.pods.manifest import (
    MOUNTED_KEYS,
    USER,
    KeeperPod,
    Manifest,
    Toleration,
    keeper_pod,
)
from services.scheduler.settings import SchedulerSettings
from tests.manifests.test_schemas import VERSIONS, Schemas

LABELS = {LABEL_ROLE: "keeper", LABEL_NAMESPACE: "default"}
FULL = KeeperPod(
    priority_class="low",
    runtime_class="gvisor",
    node_selector={"disk": "fast"},
    tolerations=(Toleration(key="spot", operator="Exists", effect="NoSchedule"),),
    image_pull_secrets=("registry",),
)


def made(settings: KeeperPod | None = None, **labels: str) -> Manifest:
    return keeper_pod("keeper-1", "wasmfn/keeper:1", LABELS | labels, 64, settings or KeeperPod())


def container(manifest: Manifest) -> dict[str, Any]:
    (one,) = manifest["spec"]["containers"]
    return dict(one)


def environment(manifest: Manifest) -> dict[str, str]:
    """The variables as the kubelet of a pod with the uid `u1` would give them."""
    told = {"metadata.uid": "u1", "status.podIP": "10.42.0.7"}
    return {
        variable["name"]: variable["value"]
        if "value" in variable
        else told[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        for variable in container(manifest)["env"]
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_valid_and_has_no_unknown_field(version: str) -> None:
    schemas = Schemas(version)
    schemas.check(made())
    schemas.check(made(FULL, **{LABEL_DEDICATED: "sort"}))


def test_it_meets_the_restricted_pod_security_standard() -> None:
    spec = made(FULL)["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == USER
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all(volume.keys() & {"configMap", "emptyDir"} for volume in spec["volumes"])
    assert container(made(FULL))["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not any("hostPort" in port for port in container(made(FULL))["ports"])


def test_it_has_no_token_and_is_told_of_no_service() -> None:
    spec = made()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["serviceAccountName"] == "keeper"


def test_of_keys_it_has_public_ones_only() -> None:
    volumes = {volume["name"]: volume for volume in made()["spec"]["volumes"]}
    assert volumes["keys"]["configMap"]["name"] == "wasmfn-keys"
    assert not [volume for volume in volumes.values() if "secret" in volume]


def test_a_keeper_takes_its_environment_as_its_settings() -> None:
    read = keeper_settings.read({}, environment(made()))
    assert read.keeper_id == "u1"  # What podwatch expects at the pod's address.
    assert (read.host, read.control) == ("10.42.0.7", f"0.0.0.0:{CONTROL_PORT}")
    assert read.capacity == 64
    assert read.function_ports == "20000-20999"
    assert Path(read.control_key).parent == Path(read.artifact_key).parent == Path(MOUNTED_KEYS)


def test_the_mounted_names_are_those_of_the_config_map(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    for name in ("control.pub", "artifact.pub"):
        (tmp_path / name).write_text(key)
    read = keeper_settings.read({}, environment(made()))
    for path in (read.control_key, read.artifact_key):
        keeper_settings.verifier(str(tmp_path / Path(path).relative_to(MOUNTED_KEYS)))


def test_everything_that_can_be_written_is_bounded_and_mounted() -> None:
    sized = {v["name"]: v["emptyDir"] for v in made()["spec"]["volumes"] if "emptyDir" in v}
    assert sized == {"cache": {"sizeLimit": "1024Mi"}}
    mounts = {mount["name"]: mount for mount in container(made())["volumeMounts"]}
    assert [name for name, mount in mounts.items() if not mount.get("readOnly")] == ["cache"]
    assert environment(made())["WASMFN_KEEPER_CACHE_DIR"] == mounts["cache"]["mountPath"]


def test_the_container_has_the_name_that_podwatch_goes_by() -> None:
    assert container(made())["name"] == KEEPER_CONTAINER


def test_sandboxes_get_less_memory_than_the_pod() -> None:
    budget = int(environment(made())["WASMFN_KEEPER_MEMORY_BUDGET_MIB"])
    assert 512 <= budget < 1024
    assert container(made())["resources"]["limits"]["memory"] == "1024Mi"


def test_a_keeper_drains_before_it_is_killed_and_before_the_scheduler_forces_it() -> None:
    grace_s = made()["spec"]["terminationGracePeriodSeconds"]
    assert float(environment(made())["WASMFN_KEEPER_DRAIN_S"]) < grace_s <= STOP_S


def test_a_keeper_that_ended_is_not_started_again_under_the_same_uid() -> None:
    assert made()["spec"]["restartPolicy"] == "Never"


def test_keepers_are_spread_among_those_that_hold_the_same_functions() -> None:
    (shared,) = made()["spec"]["topologySpreadConstraints"]
    assert shared["labelSelector"]["matchLabels"] == LABELS
    assert shared["labelSelector"]["matchExpressions"] == [
        {"key": LABEL_DEDICATED, "operator": "DoesNotExist"}
    ]
    (alone,) = made(None, **{LABEL_DEDICATED: "sort"})["spec"]["topologySpreadConstraints"]
    assert alone["labelSelector"] == {"matchLabels": {**LABELS, LABEL_DEDICATED: "sort"}}


def test_the_labels_say_whose_keeper_it_is() -> None:
    labels = made(None, **{LABEL_DEDICATED: "sort"})["metadata"]["labels"]
    assert labels.items() >= {**LABELS, LABEL_DEDICATED: "sort"}.items()


def test_what_was_asked_for_is_there_and_nothing_otherwise() -> None:
    asked = {"priorityClassName", "runtimeClassName", "nodeSelector", "imagePullSecrets"}
    assert asked <= made(FULL)["spec"].keys()
    assert not asked & made()["spec"].keys()


def test_keepers_of_a_lost_node_are_given_up_soon() -> None:
    tolerations = made(FULL)["spec"]["tolerations"]
    assert tolerations[0] == {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}
    assert {t["key"].partition("/")[2]: t["tolerationSeconds"] for t in tolerations[1:]} == {
        "not-ready": 30,
        "unreachable": 30,
    }


KUBERNETES = {
    "runtime": "kubernetes",
    "keeper_image": "wasmfn/keeper:1",
    "control_key_file": "k",
    "secrets_dir": "s",
    "cache_dir": "c",
}


def scheduler(**values: str) -> SchedulerSettings:
    environ = {f"S_{name.upper()}": value for name, value in (KUBERNETES | values).items()}
    return read_settings(SchedulerSettings, "S_", environ)


def test_the_settings_of_pods_are_given_as_json() -> None:
    text = '{"memory_limit_mib": 2048, "tolerations": [{"key": "spot", "operator": "Exists"}]}'
    given = scheduler(keeper_pod=text).keeper_pod
    assert (given.memory_limit_mib, given.tolerations[0].key) == (2048, "spot")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"keeper_image": ""}, "needs `keeper_image`"),
        ({"keeper_pod": '{"function_ports": "20000-20009"}'}, "fewer ports"),
        ({"keeper_pod": '{"function_ports": "20009-20000"}'}, "function_ports"),
        ({"keeper_pod": '{"function_ports": "10000-11000"}'}, "without 10087"),
        ({"keeper_pod": '{"memory_limit_mib": 256}'}, "memory_limit_mib"),
        ({"keeper_pod": '{"memory_limit_mib": 300, "memory_request_mib": 400}'}, "more than"),
        ({"keeper_pod": '{"cpu_limit": "lots"}'}, "cpu_limit"),
        ({"keeper_pod": '{"privileged": true}'}, "privileged"),
        ({"runtime": "processes"}, "needs `pods_dir`"),
    ],
)
def test_settings_that_no_keeper_would_start_with_are_refused(
    values: dict[str, str], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        scheduler(**values)


def test_a_manifest_is_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(made(FULL))) == made(FULL)
