"""The source `containerd` with runtimes that lag, refuse and break: a real gRPC server on a socket.

What a real containerd does is in tests/cluster.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.empty_pb2 import Empty

from services.podwatch.cri import api_pb2 as cri
from services.podwatch.cri import events_pb2, task_pb2
from services.podwatch.sources import PodGone, PodSeen, Sighting, Snapshot
from services.podwatch.sources.containerd import ContainerdSource
from services.podwatch.sources.runtime import tells_everyone

CRI = "runtime.v1.RuntimeService"
EVENTS = "containerd.services.events.v1.Events"
LABELS = {"wasmfn/role": "keeper"}


class Runtime:
    """A container runtime with one pod in it."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.version = "2.1.0"
        self.implements = {"GetContainerEvents", "Subscribe"}
        self.states: list[int] = []
        """What the container's status says, at each question the next one; the last one stays."""
        self.attempt = 0
        """How often the container was started before."""
        self.not_found = 0
        """How often the sandbox is not found."""
        self.fails = False
        self.subscribed = asyncio.Event()
        self._queue: asyncio.Queue[object] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        answers = {
            "Version": (cri.VersionRequest, self._version),
            "ListContainers": (cri.ListContainersRequest, self._containers),
            "ListPodSandbox": (cri.ListPodSandboxRequest, self._sandboxes),
            "PodSandboxStatus": (cri.PodSandboxStatusRequest, self._sandbox),
            "ContainerStatus": (cri.ContainerStatusRequest, self._container),
        }
        calls = {name: _unary(*answer) for name, answer in answers.items()}
        calls["GetContainerEvents"] = _stream(cri.GetEventsRequest, self._cri_events)
        events = {
            "Subscribe": _stream(events_pb2.SubscribeRequest, self._subscribe),
        }
        if "Subscribe" in self.implements:
            events["Publish"] = _unary(events_pb2.PublishRequest, self._publish)
        kept = {*answers, *self.implements, "Publish"}
        for service, handlers in ((CRI, calls), (EVENTS, events)):
            known = {name: handler for name, handler in handlers.items() if name in kept}
            generic = grpc.method_handlers_generic_handler(service, known)
            self._server.add_generic_rpc_handlers((generic,))
        self._server.add_insecure_port(f"unix://{self.socket}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def happens(self, event: object) -> None:
        self._queue.put_nowait(event)

    async def _version(self, *_: object) -> cri.VersionResponse:
        return cri.VersionResponse(runtime_name="containerd", runtime_version=self.version)

    async def _containers(self, _: object, context) -> cri.ListContainersResponse:
        if self.fails:
            await context.abort(grpc.StatusCode.UNKNOWN, "server is not initialized yet")
        if not self.states:
            return cri.ListContainersResponse()
        container = cri.Container(id="c1", pod_sandbox_id="s1", state=self.states[0])
        return cri.ListContainersResponse(containers=[container])

    async def _sandboxes(self, *_: object) -> cri.ListPodSandboxResponse:
        item = cri.PodSandbox(id="s1", state=cri.SANDBOX_READY, labels=LABELS)
        return cri.ListPodSandboxResponse(items=[item] if self.states else [])

    async def _sandbox(self, _: object, context) -> cri.PodSandboxStatusResponse:
        if self.not_found:
            self.not_found -= 1
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such sandbox")
        return cri.PodSandboxStatusResponse(
            status=cri.PodSandboxStatus(
                id="s1",
                metadata=cri.PodSandboxMetadata(name="keeper-1", uid="u1"),
                state=cri.SANDBOX_READY,
                network=cri.PodSandboxNetworkStatus(ip="10.0.0.1"),
                labels=LABELS,
            )
        )

    async def _container(self, *_: object) -> cri.ContainerStatusResponse:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        metadata = cri.ContainerMetadata(attempt=self.attempt)
        status = cri.ContainerStatus(
            id="c1", state=state, started_at=1_000_000_000, metadata=metadata
        )
        return cri.ContainerStatusResponse(status=status)

    async def _cri_events(self, *_: object) -> AsyncIterator[object]:
        self.subscribed.set()
        while (event := await self._queue.get()) is not None:
            yield event

    async def _subscribe(self, *_: object) -> AsyncIterator[object]:
        self.subscribed.set()
        while (event := await self._queue.get()) is not None:
            yield event

    async def _publish(self, request: events_pb2.PublishRequest, _: object) -> Empty:
        self.happens(events_pb2.Envelope(topic=request.topic, event=request.event))
        return Empty()


def _unary(request, answer):
    return grpc.unary_unary_rpc_method_handler(answer, request.FromString, _serialize)


def _stream(request, answers):
    return grpc.unary_stream_rpc_method_handler(answers, request.FromString, _serialize)


def _serialize(message) -> bytes:
    return message.SerializeToString()


STARTED = cri.ContainerEventResponse(
    container_id="c1", container_event_type=cri.CONTAINER_STARTED_EVENT
)
STOPPED = cri.ContainerEventResponse(
    container_id="c1", container_event_type=cri.CONTAINER_STOPPED_EVENT
)


def task_exit(process: str) -> events_pb2.Envelope:
    event = task_pb2.TaskExit(container_id="c1", id=process)
    envelope = events_pb2.Envelope(topic="/tasks/exit")
    envelope.event.Pack(event)
    return envelope


class Watching:
    def __init__(self, socket: Path, rescan_s: float = 3600) -> None:
        self._sightings = ContainerdSource([str(socket)], rescan_s).follow()

    async def next(self) -> Sighting:
        async with asyncio.timeout(10):
            return await anext(self._sightings)

    async def close(self) -> None:
        await self._sightings.aclose()


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    runtime = Runtime(tmp_path / "s")
    yield runtime
    await runtime.stop()


@pytest.fixture
async def watching(runtime) -> AsyncIterator[Watching]:
    watching = Watching(runtime.socket)
    yield watching
    await watching.close()


async def test_a_state_that_comes_later_than_its_event_is_waited_for(runtime, watching):
    await runtime.start()
    assert await watching.next() == Snapshot(())
    runtime.not_found = 2
    runtime.states = [cri.CONTAINER_CREATED, cri.CONTAINER_CREATED, cri.CONTAINER_RUNNING]
    runtime.happens(STARTED)
    seen = await watching.next()
    assert isinstance(seen, PodSeen)
    assert (seen.uid, seen.ip) == ("u1", "10.0.0.1")
    runtime.states = [cri.CONTAINER_RUNNING, cri.CONTAINER_RUNNING, cri.CONTAINER_EXITED]
    runtime.happens(STOPPED)
    assert await watching.next() == PodGone("u1", "its keeper ended with exit code 0")


async def test_a_container_that_is_made_to_be_started_again_is_passed_over(runtime, watching):
    runtime.states, runtime.attempt = [cri.CONTAINER_CREATED], 1
    await runtime.start()
    assert await watching.next() == Snapshot(())
    runtime.states = [cri.CONTAINER_RUNNING]
    runtime.happens(STARTED)
    runtime.happens(None)
    assert await watching.next() == Snapshot(())


@pytest.mark.parametrize(
    ("version", "missing"),
    [("1.6.20", "GetContainerEvents"), ("2.1.0", "GetContainerEvents"), ("2.1.0", "Subscribe")],
)
async def test_each_kind_of_events_is_enough(runtime, watching, version, missing):
    runtime.version = version
    runtime.implements.discard(missing)
    await runtime.start()
    assert await watching.next() == Snapshot(())
    runtime.states = [cri.CONTAINER_EXITED]
    runtime.happens(task_exit("c1") if missing == "GetContainerEvents" else STOPPED)
    assert [type(await watching.next()) for _ in range(2)] == [PodSeen, PodGone]


async def test_where_the_better_kind_of_events_is_missing_the_other_is_followed(runtime, watching):
    runtime.version = "1.7.0"
    runtime.implements.discard("Subscribe")
    await runtime.start()
    assert await watching.next() == Snapshot(())
    await runtime.subscribed.wait()
    runtime.states = [cri.CONTAINER_RUNNING]
    runtime.happens(STARTED)
    assert isinstance(await watching.next(), PodSeen)


async def test_a_process_that_was_run_beside_the_keeper_is_not_its_end(runtime, watching):
    runtime.version = "1.7.24"
    runtime.states = [cri.CONTAINER_RUNNING]
    await runtime.start()
    assert isinstance(await watching.next(), PodSeen)
    assert isinstance(await watching.next(), Snapshot)
    runtime.states = [cri.CONTAINER_EXITED]
    runtime.happens(task_exit("a-probe"))
    telling = asyncio.ensure_future(watching.next())
    await asyncio.wait({telling}, timeout=0.2)
    assert not telling.done()
    runtime.happens(task_exit("c1"))
    assert isinstance(await telling, PodGone)


async def test_an_end_of_the_stream_is_followed_by_a_new_snapshot(runtime, watching):
    await runtime.start()
    assert await watching.next() == Snapshot(())
    runtime.states = [cri.CONTAINER_RUNNING]
    runtime.happens(None)
    assert isinstance(await watching.next(), PodSeen)
    snapshot = await watching.next()
    assert isinstance(snapshot, Snapshot)
    assert [pod.uid for pod in snapshot.pods] == ["u1"]


async def test_a_list_that_fails_tells_nothing(runtime, watching):
    runtime.states = [cri.CONTAINER_RUNNING]
    runtime.fails = True
    await runtime.start()
    telling = asyncio.ensure_future(watching.next())
    await runtime.subscribed.wait()
    await asyncio.wait({telling}, timeout=0.3)
    assert not telling.done()
    runtime.fails = False
    assert isinstance(await telling, PodSeen)


async def test_what_no_event_told_is_found_by_the_next_list(runtime):
    await runtime.start()
    watching = Watching(runtime.socket, rescan_s=0.05)
    assert await watching.next() == Snapshot(())
    runtime.states = [cri.CONTAINER_RUNNING]
    while not isinstance(sighting := await watching.next(), PodSeen):
        assert sighting == Snapshot(())
    runtime.states = []
    while not isinstance(sighting := await watching.next(), PodGone):
        pass
    assert sighting.uid == "u1"
    await watching.close()


async def test_a_container_of_which_the_runtime_has_lost_sight_is_not_gone(runtime, watching):
    runtime.states = [cri.CONTAINER_UNKNOWN]
    await runtime.start()
    assert isinstance(await watching.next(), PodSeen)


async def test_a_socket_that_comes_later_is_waited_for(runtime, watching, caplog):
    telling = asyncio.ensure_future(watching.next())
    while "there is no socket" not in caplog.text:
        await asyncio.wait({telling}, timeout=0.01)
    await runtime.start()
    assert await telling == Snapshot(())


@pytest.mark.parametrize(
    ("name", "version", "everyone"),
    [
        ("containerd", "1.7.24~ds1", False),
        ("containerd", "v1.6.20", False),
        ("containerd", "v2.1.4-k3s1", True),
        ("containerd", "2.1.9+unknown", True),
        ("cri-o", "1.31.0", True),
    ],
)
def test_which_runtimes_give_each_event_of_the_cri_to_everyone(name, version, everyone):
    assert tells_everyone(name, version) is everyone
