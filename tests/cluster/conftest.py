"""The lab for the tests of this folder, brought up when the first of them asks for it.

It is reused when it runs already (`python -m tests.cluster.lab up cluster`), and then left running.
"""

from collections.abc import Iterator

import pytest

from tests.cluster.lab import node, tiers


@pytest.fixture(scope="session")
def _lab() -> Iterator[None]:
    if reason := tiers.unsupported():
        pytest.skip(f"the lab does not run here: {reason}")
    was_up = node.running()
    yield
    if not was_up:
        tiers.down()


@pytest.fixture(scope="session")
def containerd(_lab: None) -> None:
    """Tier 1 runs: the node, containerd and a registry."""
    tiers.ensure_containerd()


@pytest.fixture(scope="session")
def cluster(_lab: None) -> None:
    """Tier 2 runs: Kubernetes on tier 1."""
    tiers.ensure_cluster()
