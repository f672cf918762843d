"""A NATS server for one topic, and facts for a router, published as a scheduler would."""

import asyncio
import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import nats

from benchmarks.harness.processes import HOST, LOAD_CORE, free_port, running
from schemas import subjects
from schemas.active import ActiveFunction, ActiveRoute
from schemas.builds import Artifact
from schemas.endpoints import Endpoint
from schemas.specs import FunctionSpec, Limits, Module, RouteSpec
from services.bus.streams import ensure_streams
from wasmfn.natsserver import executable

NAMESPACE = "default"
TOKEN = "t" * 32
Fact = tuple[str, msgspec.Struct]
"""A subject and the message on it."""

_DIGEST = "0" * 64
_BATCH = 500


class NatsServer(msgspec.Struct, frozen=True):
    """A NATS server that runs."""

    url: str
    pid: int


@contextlib.contextmanager
def nats_server(core: int | None = LOAD_CORE) -> Iterator[NatsServer]:
    """Run a NATS server with the platform's streams."""
    port = free_port()
    with tempfile.TemporaryDirectory() as place:
        config = Path(place, "nats.conf")
        # Streams reserve their bounds in advance; nothing near that is written.
        config.write_text(
            f'host: "{HOST}"\nport: {port}\n'
            f'jetstream {{ store_dir: "{place}/js", max_file_store: 1TB }}\n'
        )
        command = [str(executable()), "-c", str(config)]
        with running(command, core=core, port=port) as process:
            url = f"nats://{HOST}:{port}"
            publish(url, ())
            yield NatsServer(url, process.pid)


def publish(url: str, facts: Iterable[Fact]) -> None:
    """Make the streams, if they are not there, and store `facts`."""
    asyncio.run(_publish(url, facts))


async def _publish(url: str, facts: Iterable[Fact]) -> None:
    client = await nats.connect(url)
    try:
        js = client.jetstream(publish_async_max_pending=_BATCH)
        await ensure_streams(js)
        stored = []
        for subject, message in facts:
            stored.append(await js.publish_async(subject, msgspec.json.encode(message)))
        for one in stored:
            await one
    finally:
        await client.close()


def function_fact(name: str, *, timeout_s: float = 60.0) -> Fact:
    """Return the fact that function `name` is in force."""
    spec = FunctionSpec(module=Module(_DIGEST), limits=Limits(timeout_s=timeout_s))
    artifact = Artifact(_DIGEST, "e", 1, _DIGEST, "s")
    subject = subjects.ACTIVE.subject(kind="function", namespace=NAMESPACE, name=name)
    return subject, ActiveFunction(NAMESPACE, name, 1, spec, _DIGEST, artifact, "f.wasm")


def route_fact(name: str, path: str = "") -> Fact:
    """Return the fact that `path`, by default `/<name>`, leads to function `name`."""
    spec = RouteSpec(function=name, path=path or f"/{name}", methods=("GET", "POST"))
    subject = subjects.ACTIVE.subject(kind="route", namespace=NAMESPACE, name=name)
    return subject, ActiveRoute(NAMESPACE, name, 1, spec)


def endpoint_fact(name: str, port: int, *, instance: str = "", concurrency: int = 1024) -> Fact:
    """Return the fact that an instance of function `name` answers at `port`."""
    instance = instance or f"{name}-0"
    subject = subjects.ENDPOINTS.subject(namespace=NAMESPACE, function=name, instance=instance)
    return subject, Endpoint(
        NAMESPACE, name, instance, HOST, port, "pod", "node", 1, concurrency, TOKEN,
        datetime.now(UTC),
    )  # fmt: skip
