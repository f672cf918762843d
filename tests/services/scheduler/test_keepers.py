"""The control client against a real keeper, and against things that only pretend."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from schemas.builds import Artifact
from schemas.control import (
    INSTANCE_HEADER,
    KeeperHealth,
    LoadRequest,
    UnloadRequest,
    WatchInstance,
    WatchSnapshot,
    WatchTick,
)
from schemas.names import sha256_hex
from schemas.pods import LABEL_NAMESPACE, LABEL_ROLE, LocalPod, PodFact
from schemas.signing import artifact_text
from schemas.specs import Limits
from services.scheduler.keepers import (
    ControlError,
    KeeperClient,
    UnreachableError,
    read_control_key,
)
from services.scheduler.pods.processes import ProcessRuntime, ProcessSettings, read_pod, stop_all

SORT = Path(__file__).parents[3] / "examples" / "sort" / "sort.wasm"
KEY = Ed25519PrivateKey.generate()


class Kept:
    """A real keeper, as podwatch tells of it, and an artifact that it believes."""

    def __init__(self, fact: PodFact, pod: LocalPod, artifact: Artifact, code: bytes) -> None:
        self.fact = fact
        self.pod = pod
        self.artifact = artifact
        self.code = code

    def request(self, instance: str) -> LoadRequest:
        return LoadRequest(
            instance=instance, namespace="default", function="sort", revision=1, token="t" * 32,
            file_name="sort.wasm", interface="args", arguments=(), variables={}, limits=Limits(),
            concurrency=4, artifact=self.artifact,
        )  # fmt: skip


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, bytes]:
    target = tmp_path_factory.mktemp("compiled") / "sort.cwasm"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "keeper", "compile", str(SORT), str(target), "--json"],
        capture_output=True,
        check=True,
    )
    engine, code = msgspec.json.decode(done.stdout)["engine"], target.read_bytes()
    module, digest = sha256_hex(SORT.read_bytes()), sha256_hex(code)
    signature = KEY.sign(artifact_text(module, engine, digest)).hex()
    return Artifact(module, engine, len(code), digest, signature), code


@pytest.fixture
async def keeper(tmp_path: Path, compiled: tuple[Artifact, bytes]) -> AsyncIterator[Kept]:
    public = tmp_path / "key.pub"
    public.write_text(KEY.public_key().public_bytes_raw().hex())
    settings = ProcessSettings(
        pods=tmp_path / "pods", control_key=public, artifact_key=public, cache=tmp_path / "cache"
    )
    runtime = ProcessRuntime(settings)
    uid = (await runtime.start({LABEL_ROLE: "keeper", LABEL_NAMESPACE: "default"})).uid
    pod = read_pod(settings.pods / uid)
    assert pod is not None
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://{pod.ip}:{pod.port}/healthz", timeout=60)
    health = msgspec.json.decode(answer.content, type=KeeperHealth)
    fact = PodFact(
        uid=uid, node="n", name="k", phase="running", time=pod.created_at, ip=pod.ip, port=pod.port,
        ready=True, boot=health.boot, engine=health.engine, capacity=health.capacity,
    )  # fmt: skip
    yield Kept(fact, pod, *compiled)
    runtime.close()
    stop_all(settings.pods)


async def test_a_load_is_asked_for_without_the_artifact_and_then_with_it(keeper: Kept) -> None:
    client = KeeperClient(KEY, term=1)
    with pytest.raises(ControlError) as refused:
        await client.load(keeper.fact, keeper.request("one"), within_s=10)
    assert refused.value.problem == "artifact-missing"
    reply = await client.load(keeper.fact, keeper.request("one"), keeper.code, within_s=10)
    again = await client.load(keeper.fact, keeper.request("two"), within_s=10)
    assert {reply.instance, again.instance} == {"one", "two"}
    async with httpx.AsyncClient() as http:
        answer = await http.post(
            f"http://{reply.ip}:{reply.port}/",
            json={"args": ["2", "1"]},
            headers={INSTANCE_HEADER: "t" * 32},
        )
    assert answer.json()["output"] == ["1 2"]


async def test_a_watch_tells_all_there_is_then_each_change_and_that_it_lives(keeper: Kept) -> None:
    client = KeeperClient(KEY, term=1)
    await client.load(keeper.fact, keeper.request("one"), keeper.code, within_s=10)
    lines = client.watch(keeper.fact)
    async with asyncio.timeout(10), contextlib.aclosing(lines):  # type: ignore[type-var]
        first = await anext(lines)
        assert isinstance(first, WatchSnapshot)
        assert [(one.instance, one.state) for one in first.instances] == [("one", "serving")]
        await client.unload(keeper.fact, UnloadRequest("one", "kill"))
        seen = []
        while not (seen and isinstance(seen[-1], WatchTick)):
            seen.append(await anext(lines))
        gone = [line for line in seen if isinstance(line, WatchInstance)]
        assert gone[-1].instance.state == "gone"
        assert gone[-1].reason


async def test_an_instance_goes_by_its_own_word_and_only_when_idle(keeper: Kept) -> None:
    client = KeeperClient(KEY, term=1)
    await client.load(keeper.fact, keeper.request("one"), keeper.code, within_s=10)
    busy = await client.unload(keeper.fact, UnloadRequest("one", "if_idle", idle_s=1000))
    assert busy.state == "busy"
    idle = await client.unload(keeper.fact, UnloadRequest("one", "if_idle", idle_s=0))
    assert idle.state in ("draining", "gone")
    with pytest.raises(ControlError) as refused:
        await client.unload(keeper.fact, UnloadRequest("other", "drain"))
    assert refused.value.problem == "no-such-instance"


async def test_a_deposed_leader_is_refused_by_number(keeper: Kept) -> None:
    old, new = KeeperClient(KEY, term=4), KeeperClient(KEY, term=5)
    await old.load(keeper.fact, keeper.request("one"), keeper.code, within_s=10)
    await new.load(keeper.fact, keeper.request("two"), within_s=10)
    for call in (
        old.load(keeper.fact, keeper.request("three"), within_s=10),
        old.unload(keeper.fact, UnloadRequest("two", "kill")),
        anext(old.watch(keeper.fact)),
    ):
        with pytest.raises(ControlError) as refused:
            await call
        assert refused.value.problem == "stale-term"


async def test_a_call_by_another_key_or_to_another_process_is_refused(keeper: Kept) -> None:
    forged = KeeperClient(Ed25519PrivateKey.generate(), term=9)
    reborn = msgspec.structs.replace(keeper.fact, boot="another")
    other = msgspec.structs.replace(keeper.fact, uid="another")
    for client, fact in ((forged, keeper.fact), (KeeperClient(KEY, 9), reborn),
                         (KeeperClient(KEY, 9), other)):  # fmt: skip
        with pytest.raises(ControlError) as refused:
            await client.unload(fact, UnloadRequest("one", "kill"))
        assert refused.value.problem == "unsigned"


async def test_many_calls_at_once_are_all_taken(keeper: Kept) -> None:
    client = KeeperClient(KEY, term=1)
    await client.load(keeper.fact, keeper.request("0"), keeper.code, within_s=10)
    loads = (client.load(keeper.fact, keeper.request(str(n)), within_s=30) for n in range(1, 20))
    assert len({reply.port for reply in await asyncio.gather(*loads)}) == 19


async def test_a_keeper_that_is_stopped_is_given_up_in_time(keeper: Kept) -> None:
    os.kill(keeper.pod.pid, signal.SIGSTOP)
    with pytest.raises(UnreachableError):
        await KeeperClient(KEY, 1).load(keeper.fact, keeper.request("one"), within_s=0.3)


Serve = Callable[[bytes], Awaitable[PodFact]]


@pytest.fixture
async def pretend() -> AsyncIterator[Serve]:
    """Return a function that serves some bytes, again and again, on every connection."""
    servers: list[asyncio.Server] = []

    async def serve(answer: bytes, repeat: bool = False) -> PodFact:
        async def on_connection(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                writer.write(answer)
                while repeat:
                    writer.write(b"x" * 65536)
                    await writer.drain()
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
        return PodFact(
            uid="u",
            node="n",
            name="k",
            phase="running",
            time=None,
            ip="127.0.0.1",
            port=port,  # type: ignore[arg-type]
        )

    yield serve
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{",
        b"HTTP/1.1 500 No\r\ncontent-length: 4\r\n\r\noops",
    ],
)
async def test_nonsense_is_never_taken_for_an_answer(pretend: Serve, answer: bytes) -> None:
    fact = await pretend(answer)
    client = KeeperClient(KEY, 1)
    with pytest.raises(UnreachableError):
        await client.unload(fact, UnloadRequest("one", "kill"))


@pytest.mark.parametrize("path", ["unload", "watch"])
async def test_an_answer_without_end_is_cut_off(
    pretend: Callable[..., Awaitable[PodFact]], path: str
) -> None:
    fact = await pretend(b"HTTP/1.1 200 OK\r\n\r\n", repeat=True)
    client = KeeperClient(KEY, 1)
    calls = {
        "unload": lambda: client.unload(fact, UnloadRequest("one", "kill")),
        "watch": lambda: anext(client.watch(fact)),
    }
    with pytest.raises(UnreachableError, match="without end"):
        await calls[path]()


async def test_nobody_at_the_address_is_unreachable(pretend: Serve) -> None:
    fact = msgspec.structs.replace(await pretend(b""), port=1)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        await KeeperClient(KEY, 1).unload(fact, UnloadRequest("one", "kill"))


def test_a_key_is_read_in_each_form_and_never_told(tmp_path: Path) -> None:
    file = tmp_path / "key"
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (KEY.private_bytes_raw(), KEY.private_bytes_raw().hex().encode() + b"\n", pem):
        file.write_bytes(content)
        assert read_control_key(file).private_bytes_raw() == KEY.private_bytes_raw()
    for content in (b"", b"5ec2e7", b"\xff" * 31, b"-----BEGIN PRIVATE KEY-----\n5ec2e7\n"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="Ed25519") as wrong:
            read_control_key(file)
        assert "5ec2e7" not in str(wrong.value)
    with pytest.raises(ValueError, match="cannot read"):
        read_control_key(tmp_path / "none")
