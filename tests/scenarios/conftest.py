"""The platform that the scenarios run on: this machine; a cluster comes to stand beside it."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.scenarios.platforms.local import LocalPlatform


@pytest.fixture(scope="session")
def local_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """Run one platform for all scenarios: each uses functions of its own."""
    with contextlib.closing(LocalPlatform(tmp_path_factory.mktemp("platform"))) as platform:
        platform.start()
        yield platform


@pytest.fixture
def platform(local_platform: LocalPlatform) -> LocalPlatform:
    return local_platform
