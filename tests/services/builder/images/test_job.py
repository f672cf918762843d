"""What a build's Job asks of Kubernetes, and what its state is taken to mean."""

from typing import Any

import kubernetes_validate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.names import sha256_hex
from services.builder.images import job as jobs
from services.builder.images.job import Broken, Pushed, Running, Work
from services.builder.images.settings import ImageSettings

WORK = Work("b" * 64, "sort.wasm", "a" * 64, 30_000)
DIGEST = "sha256:" + "d" * 64
VERSIONS = ("1.25.0", kubernetes_validate.latest_version())
# What the Pod Security Standard `baseline` lets a container add.
BASELINE = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
    "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip


def settings(**more: Any) -> ImageSettings:
    chosen: dict[str, Any] = {
        "kaniko_destination": "registry.example/functions/{name}:{module}",
        "kaniko_context_url": "http://builder.wasmfn:9091/",
        "kaniko_fetch_image": "wasmfn/services:1",
    }
    return ImageSettings(**chosen | more)


def manifest(work: Work = WORK, **more: Any) -> jobs.Manifest:
    return jobs.manifest(
        work, settings(**more), "t0ken", platform="linux/amd64", insecure=("*.lab:*",)
    )


def pod_spec(made: jobs.Manifest) -> dict[str, Any]:
    spec: dict[str, Any] = made["spec"]["template"]["spec"]
    return spec


SHAPES = {
    "plain": {},
    "host path": {"kaniko_host_path": "/var/lib/kaniko/workplace", "kaniko_node": "node1"},
    "secrets": {"kaniko_push_secret": "push", "kaniko_pull_secrets": ("one", "two")},
    "more": {"kaniko_arguments": ("--verbosity=debug",), "kaniko_keep_s": 0},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_of_job_is_what_kubernetes_schemas_say(shape: str, version: str):
    kubernetes_validate.validate(manifest(**SHAPES[shape]), version, strict=True)


def test_a_builds_job_has_one_name_and_others_have_others():
    assert jobs.name(WORK.build) == jobs.name(WORK.build)
    assert len({jobs.name(sha256_hex(bytes([n]))) for n in range(100)}) == 100
    assert len(jobs.name(WORK.build)) <= 63


def test_the_image_is_made_from_upstreams_dockerfile():
    assert (
        jobs.dockerfile("sort.wasm")
        == 'FROM scratch\nCOPY sort.wasm /\nENTRYPOINT ["/sort.wasm"]\n'
    )


def test_the_executor_gets_kanikos_arguments():
    (executor,) = pod_spec(manifest())["containers"]
    assert executor["args"] == [
        "--context=dir:///workspace/context",
        "--dockerfile=/workspace/Dockerfile",
        f"--destination=registry.example/functions/sort:{WORK.module}",
        "--digest-file=/dev/termination-log",
        "--custom-platform=linux/amd64",
        "--reproducible",
        "--log-format=text",
        "--push-retry=3",
    ]


def test_only_a_registry_that_is_said_to_be_insecure_is_pushed_to_in_the_clear():
    (executor,) = pod_spec(manifest())["containers"]
    assert not [word for word in executor["args"] if "insecure" in word]
    made = manifest(kaniko_destination="registry.lab:5000/x:{build}")
    (executor,) = pod_spec(made)["containers"]
    assert "--insecure-registry=registry.lab:5000" in executor["args"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_build_is_held_to_the_baseline_and_gets_no_token_of_the_cluster(shape: str):
    spec = pod_spec(manifest(**SHAPES[shape]))
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"]["drop"] == ["ALL"]
        assert BASELINE.issuperset(security["capabilities"].get("add", ()))
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
    for container in spec.get("initContainers", ()):
        assert container["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_no_directory_of_the_node_is_used_unless_told_so():
    assert not [v for v in pod_spec(manifest())["volumes"] if "hostPath" in v]
    spec = pod_spec(manifest(**SHAPES["host path"]))
    place = f"/var/lib/kaniko/workplace/{jobs.name(WORK.build)}"
    assert spec["volumes"][0]["hostPath"] == {"path": place, "type": "Directory"}
    assert spec["nodeSelector"] == {"kubernetes.io/hostname": "node1"}
    assert "initContainers" not in spec


def test_the_workspace_has_room_for_the_module():
    work = Work("b" * 64, "x.wasm", "a" * 64, 100 * 1024 * 1024)
    assert pod_spec(manifest(work))["volumes"][0]["emptyDir"] == {"sizeLimit": "102Mi"}


def test_a_job_is_tried_once_within_its_time_and_does_not_stay_for_ever():
    spec = manifest(kaniko_deadline_s=90, kaniko_keep_s=60)["spec"]
    assert spec["backoffLimit"] == 0
    assert pod_spec({"spec": spec})["restartPolicy"] == "Never"
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (90, 60)


def test_all_that_a_builder_must_know_of_it_is_read_out_of_the_job():
    made = manifest()
    assert jobs.token_of(made) == "t0ken"
    assert str(jobs.pushed_to(made)) == f"registry.example/functions/sort:{WORK.module}"
    assert jobs.token_of(manifest(**SHAPES["host path"])) == ""


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("", r"must hold \{module\} or \{build\}"),
        ("r.example/{name}:latest", r"must hold \{module\} or \{build\}"),
        ("r.example/{namespace}:{build}", "and no other field"),
        ("r.example/UPPER:{build}", "`UPPER` is no repository"),
        ("r.example/x@sha256:{module}", "names a digest"),
    ],
)
def test_a_destination_that_is_none_is_refused_with_a_sentence(template: str, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        jobs.check(settings(kaniko_destination=template))


def test_a_way_for_the_module_to_get_there_must_be_set():
    with pytest.raises(ValueError, match="needs kaniko_context_url and kaniko_fetch_image, or"):
        jobs.check(settings(kaniko_fetch_image=""))
    jobs.check(settings(kaniko_fetch_image="", kaniko_host_path="/work"))


@given(st.from_regex(r"[A-Za-z0-9_][-A-Za-z0-9_.+]{0,127}", fullmatch=True))
def test_every_file_name_becomes_a_repository(file_name: str):
    work = Work("b" * 64, file_name, "a" * 64, 1)
    reference = jobs.destination("registry.example:5000/x/{name}:{build}", work)
    assert reference.repository.startswith("x/")


# ── What its state means ────────────────────────────────────────────────────────────────────────

JOB = {"metadata": {"name": "build-b", "uid": "j1"}, "spec": {"activeDeadlineSeconds": 60}}


def job(**condition: str) -> dict[str, Any]:
    return {**JOB, "status": {"conditions": [condition] if condition else None}}


def pod(*containers: tuple[str, dict[str, Any]], job: str = "j1", **more: Any) -> dict[str, Any]:
    statuses = {"initContainerStatuses": [], "containerStatuses": []}
    for name, state in containers:
        key = "initContainerStatuses" if name == "fetch" else "containerStatuses"
        statuses[key].append({"name": name, "state": state})
    return {
        "metadata": {"ownerReferences": [{"uid": job}], **more.pop("metadata", {})},
        "status": {**statuses, **more},
    }


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "message": message, "reason": reason}}


FAILED = {"type": "Failed", "status": "True"}
PUSHED = ("executor", ended(0, DIGEST + "\n", "Completed"))
LATE = job(**FAILED, reason="DeadlineExceeded", message="Job was active longer than …")

CASES = [
    ("nothing yet", job(), [], Running()),
    ("starting", job(), [pod(("executor", {"waiting": {"reason": "ContainerCreating"}}))],
     Running()),
    ("fetched and building", job(), [pod(("fetch", ended(0)), ("executor", {"running": {}}))],
     Running()),
    ("pushed, before the Job knows", job(), [pod(PUSHED)], Pushed(DIGEST)),
    ("pushed in the last moment", LATE, [pod(PUSHED)], Pushed(DIGEST)),
    ("pushed by an earlier Job's pod", job(), [pod(PUSHED, job="j0")], Running()),
    ("no image", job(),
     [pod(("executor", {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}))],
     Running("its executor waits, ImagePullBackOff: no such image")),
    ("no node", job(),
     [pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}])],
     Running("no node takes its pod: 0/1 nodes")),
    ("failed", job(), [pod(("executor", ended(1, "INFO one\n\nerror: denied\n")))],
     Broken("its executor ended with status 1: INFO one / error: denied")),
    ("failed to fetch", job(), [pod(("fetch", ended(1)))],
     Broken("its fetch ended with status 1: it said nothing")),
    ("out of memory", job(), [pod(("executor", ended(137, "log", "OOMKilled")))],
     Broken("its executor ended with status 137 (OOMKilled): log")),
    ("told no digest", job(), [pod(("executor", ended(0, "done")))],
     Broken("its executor told no digest: done")),
    ("evicted", job(), [pod(phase="Failed", reason="Evicted", message="The node was low on x")],
     Broken("The node was low on x")),
    ("late", LATE, [pod(("executor", ended(137)))], Broken("it did not end within 60 s")),
    ("being deleted", job(),
     [pod(("executor", ended(143)), metadata={"deletionTimestamp": "now"})], Running()),
    ("not permitted", job(**FAILED, reason="BackoffLimitExceeded", message="forbidden"), [],
     Broken("forbidden")),
    ("done and its pod gone", job(type="Complete", status="True"), [],
     Broken("its pod is gone, and with it the image's digest")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("job", "pods", "means"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_the_state_of_a_job_is(job: jobs.Object, pods: list[jobs.Object], means: jobs.State):
    assert jobs.state(job, pods) == means


def test_of_a_long_log_the_end_is_quoted():
    said = jobs.quote("\n".join(f"line {n}" for n in range(1000)))
    assert said.endswith(" / line 999")
    assert said.startswith("…")
    assert len(said) == jobs.MAX_QUOTE + 1
