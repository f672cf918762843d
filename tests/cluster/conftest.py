"""The lab for the tests of this folder, brought up when the first of them asks for it.

One that was brought up by hand (`python -m tests.cluster.lab up cluster`) is used and stays up.
Tests that need only containerd come first, on a node without Kubernetes.
"""

import pytest

from tests.cluster.lab import machine, paths, tiers, turns


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Wait for our turn here, where no test's time counts yet."""
    config = session.config
    ours = any(item.get_closest_marker("cluster") for item in session.items)
    if not ours or config.option.collectonly or _is_worker(config) or machine.unfit():
        return

    def waiting() -> None:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"another run uses the lab in {paths.LAB}: waiting for its end")

    turn = turns.turn(waiting)
    turn.__enter__()
    config.add_cleanup(lambda: turn.__exit__(None, None, None))


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.fixture(scope="session")
def _lab(request: pytest.FixtureRequest) -> None:
    if reason := machine.unfit():
        pytest.skip(f"no lab: {reason}")
    if _is_worker(request.config):
        pytest.fail("there is one lab, and so there is one worker: add `-n 0`", pytrace=False)


@pytest.fixture(scope="session")
def containerd(_lab: None) -> None:
    """Tier 1 runs: the node, containerd and a registry."""
    tiers.ensure_containerd()


@pytest.fixture(scope="session")
def cluster(_lab: None) -> None:
    """Tier 2 runs: Kubernetes on tier 1."""
    tiers.ensure_cluster()
