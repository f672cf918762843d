"""The platforms that the scenarios run on: this machine, and where one is asked for a cluster."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import _lab, cluster, pytest_collection_finish
from tests.scenarios.platforms.cluster import ClusterPlatform
from tests.scenarios.platforms.local import LocalPlatform
from tests.scenarios.platforms.protocol import Platform

__all__ = ["_lab", "cluster", "pytest_collection_finish"]

ON_CLUSTER = (pytest.mark.cluster, pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def local_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """Run one platform for all scenarios: each uses functions of its own."""
    with contextlib.closing(LocalPlatform(tmp_path_factory.mktemp("platform"))) as platform:
        platform.start()
        yield platform


@pytest.fixture(scope="session")
def cluster_platform(
    cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterPlatform]:
    """The same on a Kubernetes."""
    with contextlib.closing(ClusterPlatform(tmp_path_factory.mktemp("cluster"))) as platform:
        platform.start()
        yield platform


@pytest.fixture(params=["local", pytest.param("cluster", marks=ON_CLUSTER)])
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    chosen: Platform = request.getfixturevalue(f"{request.param}_platform")
    with chosen.reachable():
        yield chosen
