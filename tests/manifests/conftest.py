"""The overlays as fixtures, each built as kubectl builds it."""

import contextlib
import importlib.metadata
import socket

import pytest

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
