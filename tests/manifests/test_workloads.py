"""Each workload is as bounded and as confined as it can be, in every overlay."""

import re

import pytest

from schemas.settings import read_settings
from services.builder.settings import BuilderSettings
from services.bus.permissions import STREAM_MAKER, inbox_prefix
from services.podwatch.settings import PodwatchSettings
from services.process import ServiceSettings
from services.router.settings import RouterSettings
from services.scheduler.settings import SchedulerSettings
from tests.manifests.workloads import LASTING, Object, containers, find, named, pod, workloads

ROOTS = {"podwatch"}
"""Where the files that it reads are root's. No other workload may run as root."""
SINGLE = {"builder"}
"""One pod of which a disruption budget could only forbid that its node is drained."""


SETTINGS: dict[str, tuple[str, type[ServiceSettings]]] = {
    "router": ("Deployment", RouterSettings),
    "builder": ("Deployment", BuilderSettings),
    "scheduler": ("Deployment", SchedulerSettings),
    "podwatch": ("DaemonSet", PodwatchSettings),
}


def test_every_container_has_requests_and_limits(objects: list[Object]) -> None:
    for workload in workloads(objects):
        for container in containers(workload):
            for bound in ("requests", "limits"):
                assert set(container["resources"][bound]) == {"cpu", "memory"}, container["name"]


def test_every_lasting_container_has_all_three_probes(objects: list[Object]) -> None:
    for workload in workloads(objects, LASTING):
        for container in pod(workload)["containers"]:
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["httpGet"]["port"] in ports, container["name"]


def test_no_container_can_gain_rights_or_write_to_its_image(objects: list[Object]) -> None:
    for workload in workloads(objects):
        for container in containers(workload):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not context.get("privileged")


def test_every_pod_runs_as_nobody_except_where_it_must_read_what_is_roots(
    objects: list[Object],
) -> None:
    for workload in workloads(objects):
        context = pod(workload)["securityContext"]
        # Named as such, so that another way to run podwatch would be noticed.
        if workload["metadata"]["name"] in ROOTS and context["runAsUser"] == 0:
            assert {"hostPath"} < {kind for v in pod(workload)["volumes"] for kind in v}
            continue
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == 65532


def test_every_pod_has_the_runtimes_seccomp_profile_and_no_namespace_of_the_node(
    objects: list[Object],
) -> None:
    for workload in workloads(objects):
        assert pod(workload)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for shared in ("hostNetwork", "hostPID", "hostIPC"):
            assert not pod(workload).get(shared)


def test_only_podwatch_sees_the_nodes_files_and_writes_only_its_own(
    overlay: str, objects: list[Object]
) -> None:
    for workload in workloads(objects):
        paths = {
            volume["name"]: volume["hostPath"]["path"]
            for volume in pod(workload).get("volumes", [])
            if "hostPath" in volume
        }
        if workload["metadata"]["name"] != "podwatch":
            assert not paths
            continue
        writable = {
            paths[mount["name"]]
            for container in containers(workload)
            for mount in container["volumeMounts"]
            if mount["name"] in paths and not mount.get("readOnly")
        }
        by_api = overlay.endswith("+podwatch-kubernetes")
        assert writable == (set() if by_api else {"/var/lib/wasmfn/podwatch"})
        assert bool(paths) is not by_api


def test_kubernetes_puts_no_addresses_of_services_into_the_environment(
    objects: list[Object],
) -> None:
    # A service refuses variables with its prefix that it does not know.
    for workload in workloads(objects):
        assert pod(workload)["enableServiceLinks"] is False


def test_every_pod_has_a_priority_above_functions(objects: list[Object]) -> None:
    classes = {o["metadata"]["name"] for o in objects if o["kind"] == "PriorityClass"}
    for workload in workloads(objects):
        assert pod(workload)["priorityClassName"] in classes


def test_pods_of_one_workload_are_spread_over_nodes(objects: list[Object]) -> None:
    for workload in workloads(objects, ("Deployment", "StatefulSet")):
        (spread,) = pod(workload)["topologySpreadConstraints"]
        assert spread["topologyKey"] == "kubernetes.io/hostname"
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert spread["labelSelector"]["matchLabels"].items() <= labels.items()


def test_three_nats_servers_are_never_two_on_one_node(ha: list[Object]) -> None:
    (spread,) = pod(find(ha, "StatefulSet", "nats"))["topologySpreadConstraints"]
    assert (spread["maxSkew"], spread["whenUnsatisfiable"]) == (1, "DoNotSchedule")


def test_whatever_has_more_than_one_pod_has_a_disruption_budget(k3s: list[Object]) -> None:
    budgets = {o["metadata"]["name"]: o for o in k3s if o["kind"] == "PodDisruptionBudget"}
    lasting = workloads(k3s, ("Deployment", "StatefulSet"))
    assert set(budgets) == {w["metadata"]["name"] for w in lasting} - SINGLE
    for workload in lasting:
        if workload["metadata"]["name"] in SINGLE:
            assert workload["spec"]["replicas"] == 1
            continue
        budget = budgets[workload["metadata"]["name"]]["spec"]
        assert budget["maxUnavailable"] == 1
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert budget["selector"]["matchLabels"].items() <= labels.items()


def test_a_pod_has_longer_to_end_than_what_ends_in_it(objects: list[Object]) -> None:
    for workload in workloads(objects, ("Deployment", "DaemonSet")):
        (container,) = pod(workload)["containers"]
        name = workload["metadata"]["name"]
        environment = {variable["name"]: variable.get("value") for variable in container["env"]}
        grace_s = float(environment.get(f"WASMFN_{name.upper()}_GRACE_S") or 10)
        before = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        before_s = float(before[1]) if before else 0
        # The process takes up to 3 s more to cancel what did not end.
        assert pod(workload)["terminationGracePeriodSeconds"] >= grace_s + before_s + 3


def test_images_are_of_one_version_and_never_latest(objects: list[Object], version: str) -> None:
    for workload in workloads(objects):
        for container in containers(workload):
            assert re.fullmatch(rf"\S*wasmfn/(services|nats):{version}", container["image"])
            for variable in container.get("env", []):
                if variable["name"].endswith("_FETCH_IMAGE"):
                    assert variable["value"] == container["image"]
    scheduler = next(containers(find(objects, "Deployment", "scheduler")))
    (keeper,) = (v["value"] for v in scheduler["env"] if v["name"].endswith("_KEEPER_IMAGE"))
    registry = scheduler["image"].removesuffix(f"services:{version}")
    assert keeper == f"{registry}keeper:{version}"


def test_the_job_that_makes_keys_is_another_one_in_each_version(
    objects: list[Object], version: str
) -> None:
    assert f"Job/wasmfn-keys-{version.replace('.', '-')}" in named(objects)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_service_has_only_settings_that_it_knows(objects: list[Object], name: str) -> None:
    (container,) = containers(find(objects, SETTINGS[name][0], name))
    environ = {v["name"]: v.get("value", "node1") for v in container["env"]}
    settings = read_settings(SETTINGS[name][1], f"WASMFN_{name.upper()}_", environ)
    assert settings.admin == "0.0.0.0:9090"
    assert (settings.nats_user, settings.nats_inbox_prefix) == (name, inbox_prefix(name))
    assert (settings.nats_streams == "make") is (name == STREAM_MAKER)


def test_no_secret_is_in_the_manifests(objects: list[Object]) -> None:
    assert not [o for o in objects if o["kind"] == "Secret"]


def test_ports_name_their_protocol(objects: list[Object]) -> None:
    # Server-side apply keeps lists of ports by it; old API servers have no default for it there.
    for workload in workloads(objects):
        for container in containers(workload):
            assert all(port["protocol"] == "TCP" for port in container.get("ports", []))
    for service in (o for o in objects if o["kind"] == "Service"):
        assert all(port["protocol"] == "TCP" for port in service["spec"]["ports"])


def test_the_router_is_where_it_always_was(objects: list[Object]) -> None:
    (port,) = find(objects, "Service", "router")["spec"]["ports"]
    assert port["nodePort"] == 32046
