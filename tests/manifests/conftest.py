"""The overlays as fixtures, each built as kubectl builds it."""

import importlib.metadata

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
