"""A container runtime behind its socket: what it is asked, and how it tells of changes.

Two interfaces tell of changes. The CRI's own `GetContainerEvents` is there in
containerd from 1.7 on and in CRI-O. But containerd 1.7 gives each event to only
one of its subscribers, to us or to a kubelet, and one more is lost with each
subscriber that went away. containerd's events service gives everyone
everything, in 1.6 too. So the CRI is followed from containerd 2 on and in other
runtimes, and the events service in older ones; where the first of the two is
not implemented, the other one is.

An event names a container and what happened to it. How that container is now is
asked for in the CRI, always.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final, Literal

import grpc
import grpc.aio
import msgspec
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError

from schemas.pods import CONTAINERS, LABEL_ROLE
from services.podwatch.cri import api_pb2 as cri
from services.podwatch.cri import events_pb2, task_pb2
from services.podwatch.sources.sandboxes import Container, Sandbox

CALL_S: Final = 5.0
"""How long an answer may take. Answers take about a millisecond."""
_MARK_EVERY_S: Final = 0.02
_CONTAINER_NAME: Final = "io.kubernetes.container.name"
_CRI: Final = "/runtime.v1.RuntimeService/"
_EVENTS: Final = "/containerd.services.events.v1.Events/"
_NAMESPACE: Final = "k8s.io"
"""containerd's own namespace of everything that came in by the CRI."""
_START: Final = "/tasks/start"
_EXIT: Final = "/tasks/exit"
_MARK: Final = "/wasmfn/podwatch"
_CONTAINER_STATES: Final[dict[int, Literal["created", "running", "exited"]]] = {
    cri.CONTAINER_CREATED: "created",
    cri.CONTAINER_EXITED: "exited",
}


class RuntimeTrouble(Exception):  # noqa: N818 - RuntimeError means something else in Python
    """The container runtime cannot be reached, or does not do what it is asked."""


class _Unimplemented(RuntimeTrouble):
    """The container runtime does not know this call."""


class Change(msgspec.Struct, frozen=True):
    """Something happened to a container, or to the container of a sandbox itself."""

    id: str
    happened: Literal["started", "ended"]


class Listed(msgspec.Struct, frozen=True):
    """A pod's container as a list shows it."""

    id: str
    sandbox: str
    exited: bool


class Runtime:
    """A connection to a container runtime. Every method raises `RuntimeTrouble`."""

    def __init__(self, socket: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"unix://{socket}",
            options=[
                # Servers in Go refuse the path of a socket as an authority.
                ("grpc.default_authority", "localhost"),
                # Or this channel would sit out the back-off of the one before it.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    async def close(self) -> None:
        """Let go of the socket."""
        await self._channel.close(None)

    async def containers(self, container_id: str = "") -> list[Listed]:
        """Return containers named as ours are, of this platform or not: all, or the one named."""
        found: dict[str, Listed] = {}
        # A selector knows no "or".
        for name in CONTAINERS.values():
            chosen = cri.ContainerFilter(id=container_id, label_selector={_CONTAINER_NAME: name})
            answer = await self._ask(
                "ListContainers",
                cri.ListContainersRequest(filter=chosen),
                cri.ListContainersResponse,
            )
            found |= {
                c.id: Listed(c.id, c.pod_sandbox_id, c.state == cri.CONTAINER_EXITED)
                for c in answer.containers
            }
            if container_id and found:
                break
        return list(found.values())

    async def sandboxes(self) -> dict[str, bool]:
        """Return the sandboxes of this platform's pods, and whether each is ready."""
        found: dict[str, bool] = {}
        for role in CONTAINERS:
            chosen = cri.PodSandboxFilter(label_selector={LABEL_ROLE: role})
            answer = await self._ask(
                "ListPodSandbox",
                cri.ListPodSandboxRequest(filter=chosen),
                cri.ListPodSandboxResponse,
            )
            found |= {item.id: item.state == cri.SANDBOX_READY for item in answer.items}
        return found

    async def sandbox(self, sandbox_id: str) -> Sandbox | None:
        """Return one sandbox, or None if there is none such."""
        answer = await self._ask(
            "PodSandboxStatus",
            cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id),
            cri.PodSandboxStatusResponse,
        )
        if answer is None:
            return None
        status = answer.status
        return Sandbox(
            id=status.id,
            uid=status.metadata.uid,
            name=status.metadata.name,
            labels=dict(status.labels),
            ready=status.state == cri.SANDBOX_READY,
            ip=status.network.ip,
        )

    async def container(self, container_id: str) -> Container | None:
        """Return one container, or None if there is none such."""
        answer = await self._ask(
            "ContainerStatus",
            cri.ContainerStatusRequest(container_id=container_id),
            cri.ContainerStatusResponse,
        )
        if answer is None:
            return None
        status = answer.status
        return Container(
            id=status.id,
            # A runtime that has lost sight of a container has not seen it end.
            state=_CONTAINER_STATES.get(status.state, "running"),
            started_at=_time(status.started_at),
            log=status.log_path,
            exit_code=status.exit_code,
            reason=status.reason,
            attempt=status.metadata.attempt,
        )

    async def changes(self) -> AsyncGenerator[Change | None, None]:
        """Yield what happens, for ever; None whenever everything must be looked at anew.

        The first is a None: what happens after it is told.
        """
        version = await self._ask("Version", cri.VersionRequest(), cri.VersionResponse)
        streams = [self._cri_events, self._containerd_events]
        if not tells_everyone(version.runtime_name, version.runtime_version):
            streams.reverse()
        for stream in streams:
            with contextlib.suppress(_Unimplemented):
                async with contextlib.aclosing(stream()) as changes:
                    async for change in changes:
                        yield change
                raise RuntimeTrouble("its stream of events ended")
        raise RuntimeTrouble("it does not tell of events")

    async def _cri_events(self) -> AsyncGenerator[Change | None, None]:
        # No sign tells that the stream stands, and none is needed: a runtime
        # keeps events for who asks a little later.
        yield None
        call = self._channel.unary_stream(
            _CRI + "GetContainerEvents",
            request_serializer=cri.GetEventsRequest.SerializeToString,
            response_deserializer=cri.ContainerEventResponse.FromString,
        )(cri.GetEventsRequest())
        async with _translated():
            async for event in call:
                if event.container_event_type == cri.CONTAINER_STARTED_EVENT:
                    yield Change(event.container_id, "started")
                elif event.container_event_type != cri.CONTAINER_CREATED_EVENT:
                    yield Change(event.container_id, "ended")

    async def _containerd_events(self) -> AsyncGenerator[Change | None, None]:
        topics = (_START, _EXIT, _MARK)
        call = self._channel.unary_stream(
            _EVENTS + "Subscribe",
            request_serializer=events_pb2.SubscribeRequest.SerializeToString,
            response_deserializer=events_pb2.Envelope.FromString,
        )(
            events_pb2.SubscribeRequest(
                filters=[f'namespace=={_NAMESPACE},topic=="{topic}"' for topic in topics]
            )
        )
        # A subscription is not confirmed. It stands once it shows us a mark of our own.
        mark = secrets.token_bytes(16)
        marking = asyncio.create_task(self._publish(mark))
        try:
            async with _translated():
                async for envelope in call:
                    if envelope.topic != _MARK:
                        if (change := _change(envelope)) is not None:
                            yield change
                    elif envelope.event.value == mark and not marking.done():
                        marking.cancel()
                        await asyncio.wait({marking})
                        yield None
        finally:
            marking.cancel()
            await asyncio.wait({marking})

    async def _publish(self, mark: bytes) -> None:
        """Publish an event that means nothing to anybody else, until cancelled or refused."""
        publish = self._channel.unary_unary(
            _EVENTS + "Publish",
            request_serializer=events_pb2.PublishRequest.SerializeToString,
            response_deserializer=Empty.FromString,
        )
        event = AnyMessage(type_url="wasmfn.podwatch.Mark", value=mark)
        with contextlib.suppress(RuntimeTrouble):
            while True:
                async with _translated():
                    await publish(
                        events_pb2.PublishRequest(topic=_MARK, event=event),
                        metadata=(("containerd-namespace", _NAMESPACE),),
                        timeout=CALL_S,
                    )
                await asyncio.sleep(_MARK_EVERY_S)

    async def _ask(self, call: str, request: Any, answer: Any) -> Any:
        """Return the answer to a call of the CRI, or None if what it names is not there."""
        ask = self._channel.unary_unary(
            _CRI + call,
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        async with _translated():
            try:
                return await ask(request, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise
                return None


def tells_everyone(runtime_name: str, version: str) -> bool:
    """Whether each subscriber of this runtime gets every event of the CRI."""
    major = version.removeprefix("v").partition(".")[0]
    return runtime_name != "containerd" or major not in ("0", "1")


def _change(envelope: events_pb2.Envelope) -> Change | None:
    """Return what an event of containerd says; None if it is of a process beside the first."""
    try:
        if envelope.topic == _START:
            begun = task_pb2.TaskStart.FromString(envelope.event.value)
            return Change(begun.container_id, "started")
        ended = task_pb2.TaskExit.FromString(envelope.event.value)
    except DecodeError as error:
        raise RuntimeTrouble(f"an event cannot be read: {error}") from error
    return Change(ended.container_id, "ended") if ended.id == ended.container_id else None


def _time(nanoseconds: int) -> datetime | None:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC) if nanoseconds > 0 else None


@contextlib.asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            raise _Unimplemented(str(error.details())) from error
        said = f"{error.code().name}: {error.details()}"
        raise RuntimeTrouble(said) from error
