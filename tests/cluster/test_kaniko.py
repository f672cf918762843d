"""Image builds as Jobs on a real cluster, up to the module that is pulled back out of a registry.

The executor is the lab's stand-in (tests/cluster/executor), not kaniko: it takes the same arguments
and really builds and pushes. The builder has the rights of its Role and no others.
"""

import asyncio
import base64
import json
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from schemas.builds import BuildRequest
from schemas.names import sha256_hex
from services.builder.errors import Unavailable
from services.builder.images.contexts import Contexts
from services.builder.images.kaniko import KanikoImages
from services.builder.images.settings import ImageSettings
from services.builder.registry import Policy, pull
from tests.cluster import lab
from tests.cluster.executor import build as images
from tests.cluster.lab import node, paths, process
from tests.cluster.lab.commands import CommandError, wait_until
from tests.services.builder import wasm
from tests.services.builder.conftest import bus, make_builder

__all__ = ["bus", "make_builder"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SORT = (Path(__file__).parents[2] / "examples/sort/sort.wasm").read_bytes()
PORT = 5001
REGISTRY = f"{lab.NODE_ADDRESS}:{PORT}"
"""The lab's registry is on the node's loopback address; this is the same for pods."""

# What the builder may do in the namespace of builds; manifests/ must grant as much.
RULES = [
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "get", "delete"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
]

_REGISTRY = """
version: 0.1
storage: {{filesystem: {{rootdirectory: "{data}"}}}}
http: {{addr: "{address}"}}
log: {{level: warn}}
{auth}
"""
PRIVATE = f"{lab.NODE_ADDRESS}:5002"
LOGIN = "somebody:opensesame"
_PASSWORDS = "somebody:$2b$04$CL4RCdaDAgYUMeD.QDVSjOOTNvBBC.YNJv1rFsPUt5lXuoYgQO7Ry\n"


@pytest.fixture(scope="module", autouse=True)
def on_node(cluster: None) -> Iterator[None]:
    """Run the tests, and all that they start, on the node's network."""
    with lab.network():
        yield


@pytest.fixture(scope="module")
def registry(on_node: None) -> str:
    serve(REGISTRY)
    return REGISTRY


@pytest.fixture(scope="module")
def private_registry(on_node: None) -> str:
    """One that knows who may push and pull."""
    passwords = paths.CONFIG / "passwords"
    passwords.write_text(_PASSWORDS)
    serve(PRIVATE, f'auth: {{htpasswd: {{realm: lab, path: "{passwords}"}}}}')
    return PRIVATE


def serve(address: str, auth: str = "") -> None:
    name = f"registry-{address.rpartition(':')[2]}"
    if process.load(name) is None:
        config = paths.CONFIG / f"{name}.yaml"
        config.write_text(_REGISTRY.format(data=paths.REGISTRY, address=address, auth=auth))
        node.start(name, "docker-registry", "serve", config)
    wait_until("the registry answers", lambda: _answers(address), within_s=10)


def _answers(address: str) -> bool:
    try:
        return lab.http("GET", f"http://{address}/v2/", timeout=2).status_code in (200, 401)
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def executor(cluster: None) -> str:
    return images.executor()


@pytest.fixture(scope="module")
def fetcher(cluster: None) -> str:
    return images.fetch()


@pytest.fixture
def namespace(cluster: None) -> Iterator[str]:
    name = f"builds-{uuid.uuid4().hex[:8]}"
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    group = "rbac.authorization.k8s.io"
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        {**account, "metadata": {"name": "builder", "namespace": name}},
        {**account, "metadata": {"name": "build", "namespace": name}},
        {
            "apiVersion": f"{group}/v1",
            "kind": "Role",
            "metadata": {"name": "builder", "namespace": name},
            "rules": RULES,
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "builder", "namespace": name},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "builder"},
            "subjects": [{"kind": "ServiceAccount", "name": "builder", "namespace": name}],
        },
    ]
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(listed).encode())
    yield name
    lab.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kubeconfig(namespace: str, tmp_path: Path) -> str:
    """As what the builder is in the cluster."""
    asked = ["-n", namespace, "get", "serviceaccount", "builder", "-o", "json"]

    def secret() -> str:
        known = json.loads(lab.kubectl(*asked)).get("secrets") or [{"name": ""}]
        return str(known[0]["name"])

    wait_until("the account has a token", lambda: bool(secret()), within_s=20)
    held = json.loads(lab.kubectl("-n", namespace, "get", "secret", secret(), "-o", "json"))
    config = yaml.safe_load(lab.KUBECONFIG.read_text())
    token = base64.b64decode(held["data"]["token"]).decode()
    config["users"][0]["user"] = {"token": token}
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return str(file)


@pytest.fixture
def settings(
    namespace: str, kubeconfig: str, registry: str, executor: str, fetcher: str
) -> dict[str, object]:
    return {
        "image_builder": "kaniko",
        "kaniko_destination": f"{registry}/functions/{{name}}:{{build}}",
        "kaniko_executor": executor,
        "kaniko_fetch_image": fetcher,
        "kaniko_namespace": namespace,
        "kaniko_kubeconfig": kubeconfig,
        # What buildah needs beyond kaniko.
        "kaniko_capabilities": (
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "SETGID",
            "SETUID",
            "SYS_CHROOT",
        ),
    }


async def build(
    settings: dict[str, object],
    module: bytes = SORT,
    name: str = "sort.wasm",
    build: str = "",
    said: list[str] | None = None,
) -> str:
    """Have an image made, in this process; `said` gets what is told meanwhile."""
    said = [] if said is None else said
    contexts = Contexts()
    async with contexts.serving(f"{lab.NODE_ADDRESS}:0") as url:
        chosen = ImageSettings(**{"kaniko_context_url": url, **settings})
        made = KanikoImages(
            chosen, contexts, platform="linux/amd64", insecure=(f"{lab.NODE_ADDRESS}:*",)
        )
        return await made.build(build or new_build(), module, name, said.append)


def new_build() -> str:
    return sha256_hex(uuid.uuid4().bytes)


def jobs(namespace: str) -> list[dict[str, object]]:
    return list(json.loads(lab.kubectl("-n", namespace, "get", "jobs", "-o", "json"))["items"])


def made(namespace: str) -> int:
    """Return how many pods have been made for Jobs."""
    asked = ["get", "events", "--field-selector", "reason=SuccessfulCreate", "-o", "json"]
    return len(json.loads(lab.kubectl("-n", namespace, *asked))["items"])


POLICY = Policy(max_bytes=1 << 26, insecure=(REGISTRY,))


async def test_the_platform_pulls_out_of_the_pushed_image_the_module_that_went_in(settings):
    reference = await build(settings)
    assert reference.startswith(f"{REGISTRY}/functions/sort@sha256:")
    pulled = await pull(reference, POLICY)
    assert (pulled.file_name, pulled.module) == ("sort.wasm", SORT)
    assert reference.endswith(pulled.digest)
    assert jobs(settings["kaniko_namespace"]) == []


async def test_building_again_makes_an_equal_image(settings):
    assert await build(settings) == await build(settings)


async def test_several_builds_run_at_once_and_none_gets_anothers_module(settings):
    modules = [SORT, wasm.module(), wasm.module(memory=b"\x00\x02")]
    names = ["sort.wasm", "Dockerfile", "UPPER_case.wasm"]
    made = await asyncio.gather(
        *(build(settings, module, name) for module, name in zip(modules, names, strict=True))
    )
    for reference, module, name in zip(made, modules, names, strict=True):
        pulled = await pull(reference, POLICY)
        assert (pulled.file_name, pulled.module) == (name, module)


async def test_a_push_that_fails_is_told_with_the_end_of_the_executors_log(settings):
    nobody = f"{lab.NODE_ADDRESS}:1"
    settings["kaniko_destination"] = f"{nobody}/x:{{build}}"
    with pytest.raises(Unavailable) as failure:
        await build(settings)
    assert "its executor ended with status" in str(failure.value)
    assert "connection refused" in str(failure.value)
    # It stays to be looked at, and gives way to the next try.
    assert len(jobs(settings["kaniko_namespace"])) == 1


async def test_a_private_registry_is_pushed_to_with_the_secret_and_not_without(
    settings, private_registry
):
    settings["kaniko_destination"] = f"{private_registry}/x/{{name}}:{{build}}"
    with pytest.raises(Unavailable, match=r"authentication required|unauthorized"):
        await build(settings)
    user, _, password = LOGIN.partition(":")
    lab.kubectl(
        "-n", str(settings["kaniko_namespace"]), "create", "secret", "docker-registry", "push",
        f"--docker-server={private_registry}", f"--docker-username={user}",
        f"--docker-password={password}",
    )  # fmt: skip
    reference = await build({**settings, "kaniko_push_secret": "push"})
    allowed = Policy(
        max_bytes=1 << 26, insecure=(private_registry,), credentials={private_registry: LOGIN}
    )
    assert (await pull(reference, allowed)).module == SORT


async def test_a_failed_job_gives_way_when_the_build_is_tried_again(settings):
    build_id = new_build()
    broken = {**settings, "kaniko_arguments": ("--no-such-argument",)}
    with pytest.raises(Unavailable, match="unknown argument --no-such-argument"):
        await build(broken, build=build_id)
    assert await build(settings, build=build_id)


async def test_an_executor_that_cannot_be_pulled_is_named_when_time_is_up(settings):
    settings |= {"kaniko_executor": f"{lab.REGISTRY}/no/executor:1", "kaniko_deadline_s": 8}
    said: list[str] = []
    with pytest.raises(Unavailable) as failure:
        await build(settings, said=said)
    assert "it did not end within 8 s; its executor waits" in str(failure.value)
    assert "no/executor:1" in str(failure.value)
    assert "is made by Job build-" in said[0]
    assert "is held up: its executor waits, ErrImagePull" in said[1]


async def test_a_job_that_somebody_deletes_is_told_of(settings):
    contexts_away = {**settings, "kaniko_context_url": f"http://{lab.NODE_ADDRESS}:1"}
    building = asyncio.create_task(build(contexts_away))
    await some_job(settings["kaniko_namespace"])
    lab.kubectl("-n", settings["kaniko_namespace"], "delete", "jobs", "--all", "--wait=false")
    with pytest.raises(Unavailable, match="was deleted"):
        await building


async def test_a_cut_off_build_is_gone_on_with_and_a_discarded_one_is_ended(settings):
    namespace = settings["kaniko_namespace"]
    build_id = new_build()
    away = {**settings, "kaniko_context_url": f"http://{lab.NODE_ADDRESS}:1"}
    building = asyncio.create_task(build(away, build=build_id))
    await some_job(namespace)
    building.cancel()
    await asyncio.wait([building])
    assert len(jobs(namespace)) == 1
    images = KanikoImages(ImageSettings(**away), Contexts(), platform="linux/amd64", insecure=())
    await images.discard(build_id)
    assert jobs(namespace) == []
    await images.discard(build_id)


async def test_a_job_that_ended_while_no_builder_was_there_is_read_and_not_made_again(settings):
    namespace = settings["kaniko_namespace"]
    build_id = new_build()
    contexts = Contexts()
    async with contexts.serving(f"{lab.NODE_ADDRESS}:0") as url:
        chosen = {**settings, "kaniko_context_url": url}
        images = KanikoImages(
            ImageSettings(**chosen), contexts, platform="linux/amd64",
            insecure=(f"{lab.NODE_ADDRESS}:*",),
        )  # fmt: skip
        building = asyncio.create_task(images.build(build_id, SORT, "sort.wasm", print))
        await some_job(namespace)
        fetched = ["get", "pods", "-o", "jsonpath={..initContainerStatuses..terminated.exitCode}"]
        await holds(lambda: lab.kubectl("-n", namespace, *fetched) == "0")
        building.cancel()
        await asyncio.wait([building])
        assert building.cancelled()
    done = ["wait", "--for=condition=Complete", "job", "--all", "--timeout=60s"]
    await asyncio.to_thread(lab.kubectl, "-n", namespace, *done)
    # Other settings than those of the Job that is there: what it did stands in it.
    other = {**chosen, "kaniko_destination": "registry.example/other:{build}"}
    reference = await build(other, build=build_id)
    assert reference.startswith(f"{REGISTRY}/functions/sort@sha256:")
    assert (await pull(reference, POLICY)).module == SORT
    assert made(namespace) == 1


async def test_modules_go_through_a_directory_of_the_node_if_told_so(settings, tmp_path):
    settings |= {"kaniko_host_path": str(tmp_path / "workplace"), "kaniko_node": node.NAME}
    pulled = await pull(await build(settings), POLICY)
    assert (pulled.file_name, pulled.module) == ("sort.wasm", SORT)
    assert list((tmp_path / "workplace").iterdir()) == []


async def test_without_the_right_to_make_jobs_it_says_so(settings):
    settings["kaniko_namespace"] = "default"
    with pytest.raises(Unavailable, match=r'the API server answers 403: jobs\.batch "build-'):
        await build(settings)


async def test_an_api_server_that_is_away_is_a_reason_to_wait(settings, tmp_path):
    file = tmp_path / "kubeconfig"
    file.write_text(file.read_text().replace(":6443", ":1"))
    with pytest.raises(Unavailable, match="the API server cannot be asked"):
        await build(settings)


async def holds(true: Callable[[], bool]) -> None:
    """Return as soon as it is true."""
    await asyncio.to_thread(wait_until, "what is waited for", true, within_s=30, every_s=0.1)


async def some_job(namespace: str) -> None:
    """Return as soon as there is a Job."""
    await holds(lambda: jobs(namespace) != [])


@pytest.fixture
def environment(settings: dict[str, object]) -> dict[str, str]:
    """The settings as the builder's process is given them."""
    address = f"{lab.NODE_ADDRESS}:19091"
    chosen = {
        **settings,
        "kaniko_context_url": f"http://{address}",
        "kaniko_context_listen": address,
        "insecure_registries": [f"{lab.NODE_ADDRESS}:*"],
    }
    return {
        name.upper(): value if isinstance(value, str) else json.dumps(value)
        for name, value in chosen.items()
    }


async def test_a_builder_killed_in_mid_build_takes_the_result_of_the_job_that_runs(
    make_builder, environment, namespace
):
    builder = await make_builder(**environment)
    source = await builder.upload(SORT, "sort.wasm")
    reply = await builder.request(BuildRequest(source))
    await some_job(namespace)
    await builder.end(signal.SIGKILL)
    await builder.start()
    ended = await builder.record(reply.build.id, ("ready", "failed"), within_s=90)
    assert (ended.state, ended.error) == ("ready", None)
    assert made(namespace) == 1
    assert (await pull(ended.image, POLICY)).module == SORT


async def test_a_build_goes_on_after_the_api_server_was_away(make_builder, environment, namespace):
    builder = await make_builder(**environment)
    reply = await builder.request(BuildRequest(await builder.upload(SORT, "sort.wasm")))
    await some_job(namespace)
    await asyncio.to_thread(lab.restart_apiserver)
    ended = await builder.record(reply.build.id, ("ready", "failed"), within_s=90)
    assert (ended.state, ended.error) == ("ready", None)
    assert made(namespace) == 1


async def test_the_record_and_the_event_of_a_failed_build_quote_the_executor(
    make_builder, environment
):
    environment["KANIKO_DESTINATION"] = f"{lab.NODE_ADDRESS}:1/x:{{build}}"
    builder = await make_builder(**environment, GIVE_UP_S="0")
    source = await builder.upload(SORT, "sort.wasm")
    ended = await builder.build(BuildRequest(source), within_s=90)
    assert ended.state == "failed"
    assert "connection refused" in ended.error
    event = (await builder.events(ended.id, "failed"))[-1]
    assert "connection refused" in event.message


async def test_a_module_that_does_not_compile_leaves_no_job(make_builder, environment, namespace):
    builder = await make_builder(**environment)
    # It passes inspection, and the compiler finds what is wrong.
    source = await builder.upload(wasm.module(body=b"\x00\x6a\x0b"))
    ended = await builder.build(BuildRequest(source))
    assert "the module is not valid" in ended.error
    await holds(lambda: jobs(namespace) == [])


def test_the_role_gives_no_right_to_read_secrets_or_logs_or_to_change_jobs(kubeconfig, namespace):
    for verb, resource in (("patch", "jobs"), ("list", "secrets"), ("get", "pods/log")):
        with pytest.raises(CommandError):
            lab.run(
                paths.VENV / "bin/kubectl", f"--kubeconfig={kubeconfig}", "-n", namespace,
                "auth", "can-i", "--quiet", verb, resource,
            )  # fmt: skip
