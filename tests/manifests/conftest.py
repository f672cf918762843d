"""The overlays as fixtures, each built as kubectl builds it, and the NATS of one."""

import contextlib
import importlib.metadata
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manifests.servers import Servers
from tests.manifests.workloads import Object, build, overlays


@pytest.fixture(params=overlays())
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def objects(overlay: str) -> list[Object]:
    return build(overlay)


@pytest.fixture
def k3s() -> list[Object]:
    return build("k3s")


@pytest.fixture
def ha() -> list[Object]:
    return build("ha")


@pytest.fixture
def version() -> str:
    return importlib.metadata.version("wasmfn")


@pytest.fixture
def free_port_pairs() -> list[tuple[int, int]]:
    """Three pairs of ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        ports = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for _ in range(6)
        ]
    return list(zip(ports[:3], ports[3:], strict=True))


@pytest.fixture
def one(tmp_path: Path, free_port_pairs: list[tuple[int, int]]) -> Iterator[Servers]:
    """A server of the cluster's configuration."""
    servers = Servers(tmp_path, free_port_pairs[:1])
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture(params=["passwords", "nkeys"])
def each(
    tmp_path: Path, free_port_pairs: list[tuple[int, int]], request: pytest.FixtureRequest
) -> Iterator[Servers]:
    """A server that knows its users by password, and one that knows them by nkey."""
    servers = Servers(tmp_path, free_port_pairs[:1], by_nkey=request.param == "nkeys")
    servers.start()
    yield servers
    servers.stop()
