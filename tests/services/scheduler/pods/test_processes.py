import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.control import KeeperHealth
from schemas.pods import LABEL_NAMESPACE, LABEL_ROLE, LocalPod
from services.pids import is_running, start_ticks
from services.scheduler.pods import PodError
from services.scheduler.pods.processes import (
    POD_FILE,
    ProcessRuntime,
    ProcessSettings,
    read_pod,
    stop_all,
)

LABELS = {LABEL_ROLE: "keeper", LABEL_NAMESPACE: "default"}


@pytest.fixture
def settings(tmp_path: Path) -> ProcessSettings:
    key = tmp_path / "key.pub"
    key.write_text(Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex())
    return ProcessSettings(
        pods=tmp_path / "pods", control_key=key, artifact_key=key, cache=tmp_path / "cache"
    )


@pytest.fixture
async def start(settings: ProcessSettings) -> Callable[[], Awaitable[ProcessRuntime]]:
    """Return a function that makes another runtime of the same directory."""
    runtimes: list[ProcessRuntime] = []

    async def make() -> ProcessRuntime:
        runtimes.append(ProcessRuntime(settings))
        return runtimes[-1]

    yield make  # type: ignore[misc]
    for runtime in runtimes:
        runtime.close()
    stop_all(settings.pods)


def pod_of(settings: ProcessSettings, uid: str) -> LocalPod:
    pod = read_pod(settings.pods / uid)
    assert pod is not None
    return pod


async def health(pod: LocalPod) -> KeeperHealth:
    """Ask the keeper, which takes connections before it runs: its listener was bound for it."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://{pod.ip}:{pod.port}/healthz", timeout=60)
    return msgspec.json.decode(answer.content, type=KeeperHealth)


async def next_end(runtime: ProcessRuntime) -> str:
    ends = runtime.ended()
    async with asyncio.timeout(10), contextlib.aclosing(ends):  # type: ignore[type-var]
        return await anext(ends)


async def test_a_keeper_that_is_started_answers_at_the_address_in_its_file(
    settings: ProcessSettings, start: Callable[[], Awaitable[ProcessRuntime]]
) -> None:
    runtime = await start()
    assert await runtime.list() == []
    pod = await runtime.start(LABELS)
    assert await runtime.list() == [pod]
    written = pod_of(settings, pod.uid)
    assert (written.uid, written.labels) == (pod.uid, LABELS)
    assert is_running(written.pid, written.start_ticks)
    assert (await health(written)).keeper == pod.uid
    assert written.ip == "127.0.0.1"


async def test_a_keeper_inherits_neither_our_environment_nor_our_files(
    settings: ProcessSettings,
    start: Callable[[], Awaitable[ProcessRuntime]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("WASMFN_SCHEDULER_NATS_URL", "nats://secret@127.0.0.1")
    with (tmp_path / "open").open("w") as ours:
        pod = pod_of(settings, (await (await start()).start(LABELS)).uid)
        await health(pod)
        process = Path(f"/proc/{pod.pid}")
        assert b"secret" not in (process / "environ").read_bytes()
        held = set()
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # It was closed since: none of ours is.
                held.add(str(descriptor.readlink()))
        assert str(tmp_path / "open") not in held
        assert os.getsid(pod.pid) == pod.pid != os.getsid(0)
        assert "0" in (process / "limits").read_text().split("Max core file size")[1].split()[0]
        assert not ours.closed


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_end_is_told_however_it_came(
    settings: ProcessSettings,
    start: Callable[[], Awaitable[ProcessRuntime]],
    number: signal.Signals,
) -> None:
    runtime = await start()
    pod = await runtime.start(LABELS)
    await health(pod_of(settings, pod.uid))
    os.kill(pod_of(settings, pod.uid).pid, number)
    assert await next_end(runtime) == pod.uid
    assert await runtime.list() == []
    with pytest.raises(ProcessLookupError):  # It was reaped.
        os.kill(pod_of(settings, pod.uid).pid, 0)


async def test_a_keeper_that_does_not_end_in_order_is_killed(
    settings: ProcessSettings, start: Callable[[], Awaitable[ProcessRuntime]]
) -> None:
    runtime = await start()
    pod = await runtime.start(LABELS)
    written = pod_of(settings, pod.uid)
    await health(written)
    os.kill(written.pid, signal.SIGSTOP)
    await runtime.stop(pod.uid, patience_s=0.1)
    assert not is_running(written.pid, written.start_ticks)
    await runtime.stop(pod.uid, patience_s=0.1)
    await runtime.stop("unknown", patience_s=0.1)


async def test_the_next_runtime_adopts_what_runs_and_hears_of_its_end(
    settings: ProcessSettings, start: Callable[[], Awaitable[ProcessRuntime]]
) -> None:
    first, second = await start(), await start()
    pod = await first.start(LABELS)
    await health(pod_of(settings, pod.uid))
    assert await second.list() == [pod]
    await second.stop(pod.uid, patience_s=10)
    assert await next_end(first) == pod.uid
    assert await next_end(second) == pod.uid


async def test_a_pid_that_was_given_to_another_process_is_neither_adopted_nor_killed(
    settings: ProcessSettings, start: Callable[[], Awaitable[ProcessRuntime]]
) -> None:
    runtime = await start()
    pod = await runtime.start(LABELS)
    written = pod_of(settings, pod.uid)
    await runtime.stop(pod.uid, patience_s=10)
    other = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
    reused = msgspec.structs.replace(written, pid=other.pid, start_ticks=1)
    (settings.pods / pod.uid / POD_FILE).write_bytes(msgspec.json.encode(reused))
    assert await (await start()).list() == []
    assert stop_all(settings.pods) == 0
    assert is_running(other.pid, start_ticks(other.pid) or 0)
    other.kill()
    await other.wait()


async def test_a_list_that_cannot_be_read_is_an_error_and_not_an_empty_one(
    settings: ProcessSettings, start: Callable[[], Awaitable[ProcessRuntime]]
) -> None:
    settings.pods.write_text("no directory")
    with pytest.raises(PodError):
        await (await start()).list()
    settings.pods.unlink()


async def test_what_a_crash_has_left_is_ended_by_the_supervisor(
    settings: ProcessSettings, start: Callable[[], Awaitable[ProcessRuntime]]
) -> None:
    runtime = await start()
    whole = pod_of(settings, (await runtime.start(LABELS)).uid)
    half = pod_of(settings, (await runtime.start(LABELS)).uid)
    await health(whole)
    await health(half)
    (settings.pods / half.uid / POD_FILE).unlink()
    runtime.close()
    assert await asyncio.to_thread(stop_all, settings.pods) == 1
    for pod in (whole, half):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pod.pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
        assert not is_running(pod.pid, pod.start_ticks)
    assert list(settings.pods.iterdir()) == []
    assert stop_all(settings.pods) == 0
    assert stop_all(settings.pods / "not there") == 0


async def test_keepers_outlive_the_process_that_started_them(settings: ProcessSettings) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from services.scheduler.pods.processes import ProcessRuntime, ProcessSettings
pods, control, artifact, cache = map(Path, sys.argv[1:])
settings = ProcessSettings(pods=pods, control_key=control, artifact_key=artifact, cache=cache)

async def main():
    runtime = ProcessRuntime(settings)
    print((await runtime.start({LABELS!r})).uid)

asyncio.run(main())
"""
    paths = (settings.pods, settings.control_key, settings.artifact_key, settings.cache)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
    )
    pod = pod_of(settings, done.stdout.strip())
    assert (await health(pod)).keeper == pod.uid
    assert stop_all(settings.pods) == 1
