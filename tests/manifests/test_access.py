"""Nobody may do more than what it is for: accounts, roles, network, users of NATS."""

from pathlib import Path

from services.bus.permissions import USERS
from tests.manifests.workloads import Object, build, containers, find, pod, workloads
from wasmfn import natsusers

SPEAKS_TO_KUBERNETES = {"scheduler", "keys"}
BY_COMPONENT = {"kaniko": "builder", "podwatch-kubernetes": "podwatch"}


def _name(workload: Object) -> str:
    name: str = workload["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
    return name


def test_every_workload_has_an_account_of_its_own(objects: list[Object]) -> None:
    for workload in workloads(objects):
        assert pod(workload)["serviceAccountName"] == _name(workload)


def test_a_token_is_mounted_only_where_kubernetes_is_spoken_to(
    overlay: str, objects: list[Object]
) -> None:
    component = "kaniko" if overlay == "lab" else overlay.partition("+")[2]
    speaking = SPEAKS_TO_KUBERNETES | {BY_COMPONENT.get(component, "keys")}
    for workload in workloads(objects):
        account = find(objects, "ServiceAccount", _name(workload))
        mounted = pod(workload).get(
            "automountServiceAccountToken", account["automountServiceAccountToken"]
        )
        assert mounted is (_name(workload) in speaking), _name(workload)


def test_pods_of_functions_and_of_builds_have_accounts_without_a_token() -> None:
    for name, namespace in (("keeper", "wasmfn-functions"), ("build", "wasmfn-builds")):
        account = find(build("k3s+kaniko"), "ServiceAccount", name, namespace)
        assert account["automountServiceAccountToken"] is False


def test_nothing_has_a_right_in_all_namespaces(objects: list[Object]) -> None:
    assert not [o for o in objects if o["kind"] in ("ClusterRole", "ClusterRoleBinding")]


def test_no_role_has_a_wildcard(objects: list[Object]) -> None:
    for role in (o for o in objects if o["kind"] == "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]


def test_only_the_job_that_makes_keys_may_touch_secrets_and_reads_its_own_only(
    objects: list[Object],
) -> None:
    for role in (o for o in objects if o["kind"] == "Role"):
        for rule in role["rules"]:
            if "secrets" not in rule["resources"]:
                continue
            assert role["metadata"]["name"] == "keys"
            assert rule["verbs"] == ["create"] or set(rule["resourceNames"]) == {
                "wasmfn-control-key",
                "wasmfn-artifact-key",
                "wasmfn-nats",
            }


def test_who_makes_pods_makes_them_where_no_secret_of_the_platform_is(
    objects: list[Object],
) -> None:
    making = {"pods", "jobs", "deployments"}
    for role in (o for o in objects if o["kind"] == "Role"):
        if any(making & set(r["resources"]) and "create" in r["verbs"] for r in role["rules"]):
            assert role["metadata"]["namespace"] in ("wasmfn-functions", "wasmfn-builds")


def test_each_service_sees_its_own_password_and_key_only(objects: list[Object]) -> None:
    keys = {"scheduler": "wasmfn-control-key", "builder": "wasmfn-artifact-key"}
    for workload in workloads(objects):
        secrets = {
            v["secret"]["secretName"]: v["secret"] for v in pod(workload).get("volumes", [])
            if "secret" in v
        }  # fmt: skip
        name = _name(workload)
        if name in ("keys", "nats"):
            assert not secrets
            continue
        assert secrets.pop("wasmfn-nats")["items"] == [{"key": name, "path": "password"}]
        assert set(secrets) == {keys[name]} - {None} if name in keys else not secrets


def test_only_nats_gets_all_passwords(objects: list[Object]) -> None:
    for workload in workloads(objects):
        for container in containers(workload):
            sources = [s["secretRef"]["name"] for s in container.get("envFrom", [])]
            assert sources == (["wasmfn-nats"] if container["name"] == "nats" else [])


def test_pods_of_functions_reach_nothing_and_are_reached_by_the_platform_only(
    objects: list[Object],
) -> None:
    policy = find(objects, "NetworkPolicy", "functions", "wasmfn-functions")["spec"]
    assert policy["podSelector"] == {}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    ((source,),) = (rule["from"] for rule in policy["ingress"])
    namespace = find(objects, "Namespace", "wasmfn")["metadata"]["labels"]
    assert source["namespaceSelector"]["matchLabels"].items() <= namespace.items()
    (only,) = source["podSelector"]["matchExpressions"]
    assert only["values"] == ["router", "scheduler", "podwatch"]


def test_in_each_namespace_what_no_policy_allows_is_denied(objects: list[Object]) -> None:
    for namespace in (o["metadata"]["name"] for o in objects if o["kind"] == "Namespace"):
        every = [
            o["spec"] for o in objects
            if o["kind"] == "NetworkPolicy" and o["metadata"]["namespace"] == namespace
            and o["spec"]["podSelector"] == {}
        ]  # fmt: skip
        assert [sorted(policy["policyTypes"]) for policy in every] == [["Egress", "Ingress"]]


def test_a_policy_that_names_a_port_names_its_protocol(objects: list[Object]) -> None:
    for policy in (o["spec"] for o in objects if o["kind"] == "NetworkPolicy"):
        for rule in policy.get("ingress", []) + policy.get("egress", []):
            assert all(port["protocol"] in ("TCP", "UDP") for port in rule.get("ports", []))


def test_nats_is_reached_by_those_who_have_a_password_for_it(objects: list[Object]) -> None:
    (clients, applications, _) = find(objects, "NetworkPolicy", "nats")["spec"]["ingress"]
    ((labelled,),) = (applications["from"],)
    assert labelled["namespaceSelector"]["matchLabels"] == {"wasmfn/applications": "true"}
    ((source,),) = ([peer["podSelector"]["matchLabels"] for peer in clients["from"]],)
    speaking = {
        _name(w) for w in workloads(objects)
        if source.items() <= w["spec"]["template"]["metadata"]["labels"].items()
    }  # fmt: skip
    assert speaking == set(USERS) - {"people", "app"}


def test_the_users_of_nats_are_those_that_the_stream_table_gives() -> None:
    committed = Path(natsusers.FILE).read_text("ascii")
    assert committed == natsusers.configuration(), "run `python -m wasmfn.natsusers`"


def test_functions_run_under_the_strictest_standard_for_pods(objects: list[Object]) -> None:
    labels = find(objects, "Namespace", "wasmfn-functions")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
