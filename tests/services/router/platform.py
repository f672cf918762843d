"""A real router process, and what the other services would say to it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.aio.client import Client

from schemas import subjects
from schemas.active import ActiveFunction, ActiveRoute
from schemas.builds import Artifact
from schemas.endpoints import Endpoint
from schemas.pods import PodFact
from schemas.specs import Asynchronous, FunctionSpec, Limits, Module, RouteSpec
from services.bus.streams import ensure_streams
from tests.services.router.clients import Peer, Response, connect, eventually, request
from tests.services.router.instances import Handler, Instance, echo

DIGEST = "0" * 64


class Router:
    """A running router process."""

    def __init__(self, process: asyncio.subprocess.Process, log: list[dict[str, Any]]) -> None:
        self.process = process
        self.log = log
        self.port = 0
        self.admin = 0

    async def client(self) -> Peer:
        return await connect(self.port)

    async def request(self, *args: Any, **kwargs: Any) -> Response:
        return await request(self.port, *args, **kwargs)

    async def metrics(self) -> dict[str, float]:
        response = await request(self.admin, "GET", "/metrics")
        lines = (li for li in response.body.decode().splitlines() if not li.startswith("#"))
        return {name: float(value) for name, _, value in (li.rpartition(" ") for li in lines)}

    async def metric(self, name: str) -> float:
        return (await self.metrics()).get("wasmfn_router_" + name, 0.0)

    async def until_metric(self, name: str, holds: Callable[[float], bool]) -> None:
        async def held() -> bool:
            return holds(await self.metric(name))

        await eventually(held)

    def said(self, sentence: str, times: int = 1) -> bool:
        """Whether `sentence` stands in the log at least so many times."""
        return sum(sentence in entry.get("message", "") for entry in self.log) >= times

    def rss_mib(self) -> float:
        with open(f"/proc/{self.process.pid}/status") as status:  # noqa: PTH123
            line = next(li for li in status if li.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(40):
            return await self.process.wait()


class Platform:
    """What the other services would say, published as they would."""

    def __init__(self, url: str) -> None:
        self.nc = Client()
        self.js = self.nc.jetstream()
        self.url = url
        self.instances: list[Instance] = []
        self.routers: list[Router] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        """Connect, and have the streams there.

        Disconnect before the server ends: the client's own way back leaves sockets open.
        """
        self.nc = Client()
        await self.nc.connect(self.url, allow_reconnect=False)
        self.js = self.nc.jetstream()
        await ensure_streams(self.js)

    async def disconnect(self) -> None:
        if self.nc.is_connected:
            await self.nc.close()

    async def publish(self, subject: str, message: Any) -> None:
        await self.js.publish(subject, msgspec.json.encode(message))

    async def delete(self, subject: str) -> None:
        await self.js.publish(subject, b"", headers={"Nats-Rollup": "sub"})

    async def function(
        self,
        name: str = "f",
        revision: int = 1,
        asynchronous: Asynchronous = Asynchronous(),  # noqa: B008 - frozen
        **limits: Any,
    ) -> None:
        spec = FunctionSpec(
            module=Module(DIGEST), limits=Limits(**limits), asynchronous=asynchronous
        )
        artifact = Artifact(DIGEST, "e", 1, DIGEST, "s")
        active = ActiveFunction("default", name, revision, spec, DIGEST, artifact, "f.wasm")
        subject = subjects.ACTIVE.subject(kind="function", namespace="default", name=name)
        await self.publish(subject, active)

    async def route(self, name: str = "f", function: str = "f", **spec: Any) -> None:
        spec = {"prefix": "/" + name, "methods": ("GET", "POST")} | spec
        if "path" in spec:
            spec.pop("prefix")
        active = ActiveRoute("default", name, 1, RouteSpec(function=function, **spec))
        subject = subjects.ACTIVE.subject(kind="route", namespace="default", name=name)
        await self.publish(subject, active)

    async def instance(
        self, function: str = "f", handler: Handler = echo, publish: bool = True, **fields: Any
    ) -> Instance:
        instance = await Instance(function, handler, **fields).start()
        self.instances.append(instance)
        if publish:
            await self.endpoint(instance.endpoint)
        return instance

    def endpoint_subject(self, endpoint: Endpoint) -> str:
        return subjects.ENDPOINTS.subject(
            namespace=endpoint.namespace, function=endpoint.function, instance=endpoint.instance
        )

    async def endpoint(self, endpoint: Endpoint) -> None:
        await self.publish(self.endpoint_subject(endpoint), endpoint)

    async def withdraw(self, endpoint: Endpoint) -> None:
        await self.delete(self.endpoint_subject(endpoint))

    async def pod(self, uid: str, phase: Any) -> None:
        fact = PodFact(uid, "local", uid, phase, datetime.now(UTC))
        await self.publish(subjects.PODS.subject(node="local", uid=uid), fact)

    async def scheduler(self, handler: Callable[[Any], Awaitable[bytes]]) -> None:
        """Answer demands as `handler` says."""

        async def serve(msg: Any) -> None:
            task = asyncio.create_task(reply(msg))
            self._tasks.append(task)

        async def reply(msg: Any) -> None:
            await msg.respond(await handler(msg))

        await self.nc.subscribe(subjects.DEMAND.wildcard, cb=serve)
        await self.nc.flush()
        await self.nc.flush()

    async def router(self, **settings: str) -> Router:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("WASMFN_")}
        environ |= {
            "WASMFN_ROUTER_NATS_URL": self.url,
            "WASMFN_ROUTER_HTTP": "127.0.0.1:0",
            "WASMFN_ROUTER_GRACE_S": "5",
        } | {"WASMFN_ROUTER_" + k.upper(): v for k, v in settings.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "services.router",
            env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        router = Router(process, [])
        self.routers.append(router)
        ready = asyncio.Event()
        self._tasks.append(asyncio.create_task(_read_log(router, ready)))
        async with asyncio.timeout(40):
            await ready.wait()
        return router

    async def close(self) -> None:
        await self.disconnect()
        for router in self.routers:
            if router.process.returncode is None:
                router.signal(signal.SIGKILL)
                await router.process.wait()
        for instance in self.instances:
            await instance.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _read_log(router: Router, ready: asyncio.Event) -> None:
    assert router.process.stdout is not None
    async for line in router.process.stdout:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"message": line.decode()}
        router.log.append(entry)
        fields = entry.get("fields", {})
        if "http" in fields:
            router.port = int(fields["http"].rpartition(":")[2])
        if "admin" in fields:
            router.admin = int(fields["admin"].rpartition(":")[2])
            ready.set()
    ready.set()
